from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion

from llmfeat import ActivityFeatures, InteractionLog, ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat.errors import DuplicateIdError, EmptyInputError, InputError, TableFingerprintError
from llmfeat.features.reduce import Matryoshka, reduce_table
from llmfeat.features.user_text import UserTextFeatures
from llmfeat.history import AsOfIndex
from llmfeat.text import HistoryTemplate
from tests.conftest import DIM, WORDS, random_log, write_artifact

TITLES = {"a": "heat", "b": "alien", "c": "casino", "d": None}
NAMED = WORDS[4:]


@pytest.fixture(scope="module")
def encoder(artifact):
    return TextEncoder(artifact, backend="onnxruntime-cpu")


@pytest.fixture
def rendered(monkeypatch):
    """The histories' texts, call by call."""
    calls: list[list[str | None]] = []
    render = HistoryTemplate.render

    def recording(self, histories, **parameters):
        calls.append(render(self, histories, **parameters))
        return calls[-1]

    monkeypatch.setattr(HistoryTemplate, "render", recording)
    return calls


def row(user, item, second):
    return pa.table({"user_id": [user], "item_id": [item], "timestamp": [10**9 + second]})


def cosine(left, right):
    return left @ right / np.linalg.norm(left) / np.linalg.norm(right)


def many_items(n_items: int = 30) -> dict[str, str | None]:
    texts: dict[str, str | None] = {str(at): f"{NAMED[at % 8]} {NAMED[at // 4 % 8]}" for at in range(n_items)}
    return {**texts, "3": None}


@pytest.fixture(scope="module")
def fitted(encoder):
    """Features, the rows that they were fitted on, and these transformed."""
    frame = random_log(1, n_events=150)
    log = InteractionLog.from_frame(frame, label="label")
    features = UserTextFeatures(log, encoder, many_items(), with_vector=True, reduce=3).fit(frame)
    return features, frame, features.transform(frame)


class TestByHand:
    def test_what_each_row_sees(self, encoder, log, events, rendered):
        features = UserTextFeatures(log, encoder, TITLES, liked_only=False).fit(events)
        out = features.transform(events)
        # u1 meets a, b, c at 100, 200, 400 s; u2 meets a at 200 s, then c and b at 300 s, which see each other never.
        assert out[:, 0].tolist() == [0, 1, 0, 2, 1, 1]
        assert rendered == [[None, "heat", "alien; heat", "heat"]]
        assert np.isnan(out[[0, 2], 1]).all()
        heat, both, casino = encoder.encode(["heat", "alien; heat", "casino"], role="query")
        assert out[3, 1] == pytest.approx(cosine(both, casino), abs=1e-6)
        assert out[1, 1] == pytest.approx(cosine(heat, encoder.encode(["alien"])[0]), abs=1e-6)
        assert features.get_feature_names_out().tolist() == ["user_text_n_items", "user_text_cosine"]

    def test_only_what_was_liked(self, encoder, log, events, rendered):
        UserTextFeatures(log, encoder, TITLES).fit(events).transform(row("u1", "b", 500))
        assert rendered[-1] == ["casino; heat"]  # not b, which had the label 0

    def test_what_is_liked_is_not_known_before_its_label(self, encoder, events, rendered):
        late = InteractionLog.from_frame(events, label="label", available_after_s=150)
        liked, seen = (UserTextFeatures(late, encoder, TITLES, liked_only=only).fit(events) for only in (True, False))
        liked.transform(row("u1", "b", 500))  # the label of c, at 400 s, arrives at 550 s
        seen.transform(row("u1", "b", 500))
        assert rendered == [["heat"], ["casino; alien; heat"]]

    def test_the_last_items_that_have_a_text(self, encoder, rendered):
        frame = pa.table({"user_id": ["u"] * 5, "item_id": list("abcdd"), "timestamp": 10**9 + np.arange(5)})
        log = InteractionLog.from_frame(frame)
        newest = HistoryTemplate("Saw {items}", max_items=2)
        out = UserTextFeatures(log, encoder, TITLES, template=newest).fit(frame).transform(row("u", "a", 9))
        assert rendered == [["Saw alien; casino"]]
        assert out[0, 0] == 2

    def test_a_model_that_cuts_at_the_left_reads_the_newest_last(self, tmp_path, log, events, rendered):
        artifact = write_artifact(tmp_path, truncation_side="left")
        UserTextFeatures(log, artifact, TITLES).fit(events).transform(row("u1", "b", 500))
        assert rendered == [["heat; casino"]]

    def test_items_from_a_frame(self, encoder, log, events, items, rendered):
        features = UserTextFeatures(log, encoder, items, item_template="{title:1}[ {year}]").fit(events)
        features.transform(row("u1", "b", 500))
        assert rendered == [["casino 1995; heat 1995"]]

    def test_a_candidate_without_a_text_has_no_cosine(self, encoder, log, events):
        features = UserTextFeatures(log, encoder, TITLES).fit(events)
        for item in ("d", "unknown"):
            out = features.transform(row("u1", item, 500))
            assert out[0, 0] == 2
            assert np.isnan(out[0, 1])
        assert features.transform(row("unknown", "a", 500))[0].tolist() == pytest.approx([0, np.nan], nan_ok=True)

    def test_the_role_of_the_history(self, tmp_path, log, events):
        prompted = TextEncoder(write_artifact(tmp_path, query_prompt="the ", document_prompt="war "))
        for role in ("query", "document"):
            features = UserTextFeatures(log, prompted, TITLES, role=role).fit(events)
            history = prompted.encode(["casino; heat"], role=role)[0]
            candidate = prompted.encode(["alien"], role="document")[0]
            expected = cosine(history, candidate)
            assert features.transform(row("u1", "b", 500))[0, 1] == pytest.approx(expected, abs=1e-6)


class TestVector:
    def test_is_given_where_asked_for(self, encoder, log, events):
        features = UserTextFeatures(log, encoder, TITLES, with_vector=True).fit(events)
        out = features.transform(row("u1", "b", 500))
        np.testing.assert_array_equal(out[:, 2:], encoder.encode(["casino; heat"], role="query"))
        names = features.get_feature_names_out().tolist()
        assert names[2:] == [f"user_text_{at}" for at in range(DIM)]
        assert np.isnan(features.transform(row("u1", "b", 0))[0, 1:]).all()

    def test_reduced(self, encoder, log, events):
        features = UserTextFeatures(log, encoder, TITLES, with_vector=True, reduce=Matryoshka(3)).fit(events)
        out = features.transform(row("u1", "b", 500))
        expected = Matryoshka(3).fit_transform(encoder.encode(["casino; heat"], role="query"))
        np.testing.assert_array_equal(out[:, 2:], expected)
        assert len(features.get_feature_names_out()) == out.shape[1] == 5

    def test_a_reducer_learns_from_distinct_histories(self, encoder, log, events):
        features = UserTextFeatures(log, encoder, TITLES, with_vector=True, reduce=1, liked_only=False)
        once = features.fit(events).reducer_.mean_
        often = features.fit(pa.concat_tables([events, *[events.slice(3, 1)] * 50])).reducer_.mean_
        np.testing.assert_array_equal(once, often)


class TestPointInTime:
    def matrices(self, encoder, seed, liked_only):
        frame = random_log(seed)
        times = frame.column("timestamp").to_numpy()
        cut = int(np.median(times))
        changed = frame.to_pandas()
        later = changed.timestamp >= cut
        changed.loc[later, "item_id"] = (changed.item_id[later] + 7) % 30
        changed.loc[later, "label"] = 1 - changed.label[later]
        rows = frame.filter(pa.array(times <= cut))
        return [
            UserTextFeatures(
                InteractionLog.from_frame(log, label="label"),
                encoder,
                many_items(),
                template=HistoryTemplate(max_items=3, newest_first=True),
                liked_only=liked_only,
                with_vector=True,
            )
            .fit(rows)
            .transform(rows)
            for log in (frame, pa.Table.from_pandas(changed))
        ]

    @given(st.integers(0, 30), st.booleans())
    @settings(max_examples=6, deadline=None)
    def test_a_future_event_changes_no_earlier_row(self, encoder, seed, liked_only):
        np.testing.assert_array_equal(*self.matrices(encoder, seed, liked_only))

    @pytest.mark.parametrize("liked_only", [True, False])
    def test_a_double_with_at_or_before_fails_that_check(self, encoder, liked_only, monkeypatch):
        before = AsOfIndex.before
        monkeypatch.setattr(AsOfIndex, "before", lambda self, codes, times: before(self, codes, times + 1))
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(*self.matrices(encoder, 1, liked_only))

    def test_a_lag_hides_what_happened_within_it(self, encoder, log, events, rendered):
        features = UserTextFeatures(log, encoder, TITLES, history_lag_s=100).fit(events)
        features.transform(row("u1", "b", 500))  # c was at 400 s
        features.transform(row("u1", "b", 501))
        assert rendered == [["heat"], ["casino; heat"]]


class TestGrid:
    def test_one_row_has_the_bits_that_it_has_in_the_batch(self, fitted):
        features, frame, matrix = fitted
        for n_rows in (1, 1, 2, 37):
            rows = np.random.default_rng(n_rows).integers(0, len(frame), n_rows)
            assert features.transform(frame.take(pa.array(rows))).tobytes() == matrix[rows].tobytes()

    def test_pandas_polars_and_arrow_alike(self, fitted):
        features, frame, matrix = fitted
        assert matrix.dtype == np.float32
        assert features.transform(frame.to_pandas()).tobytes() == matrix.tobytes()
        assert features.transform(pl.from_arrow(frame)).tobytes() == matrix.tobytes()

    def test_names_and_set_output(self, fitted):
        features, frame, matrix = fitted
        shown = clone(features).set_output(transform="pandas").fit(frame).transform(frame.to_pandas())
        assert isinstance(shown, pd.DataFrame)
        assert list(shown.columns) == features.get_feature_names_out().tolist()
        assert shown.to_numpy().tobytes() == matrix.tobytes()

    def test_clone_and_pickle(self, fitted):
        features, frame, matrix = fitted
        fresh = clone(features)
        assert (fresh.log, fresh.artifact) == (features.log, features.artifact)
        pickled = pickle.dumps(features)
        assert len(pickled) < 40_000
        assert pickle.loads(pickled).transform(frame).tobytes() == matrix.tobytes()

    def test_no_rows(self, fitted):
        features, frame, matrix = fitted
        assert features.transform(frame.slice(0, 0)).shape == (0, matrix.shape[1])

    def test_in_a_union(self, fitted):
        features, frame, _ = fitted
        union = FeatureUnion([("activity", ActivityFeatures(features.log)), ("text", clone(features))]).fit(frame)
        assert union.get_feature_names_out()[-1] == "text__user_text_2"

    def test_each_distinct_history_is_rendered_once(self, fitted, rendered):
        features, frame, _ = fitted
        features.transform(pa.concat_tables([frame] * 3))
        codes = features.log.labelled_windows(*(frame.column(0), frame.column(2).to_numpy() * 10**6))
        assert len(rendered[0]) <= len(set(zip(*map(np.ndarray.tolist, codes), strict=True)))

    def test_vectors_come_from_the_cache(self, fitted, artifact, tmp_path):
        features, frame, matrix = fitted
        cached = TextEncoder(artifact, cache=tmp_path)
        again = clone(features).set_params(artifact=cached).fit(frame)
        assert again.transform(frame).tobytes() == matrix.tobytes()
        computed = cached.tally.texts - cached.tally.cached
        clone(again).fit(frame).transform(frame.slice(20, 50))
        assert cached.tally.texts - cached.tally.cached == computed

    def test_another_log_takes_the_place_of_the_fitted(self, fitted, encoder, log):
        features, frame, matrix = fitted
        served = UserTextFeatures(log, encoder, many_items(), with_vector=True, reduce=3, template=None)
        served.set_params(log=features.log).fit(frame)
        assert served.transform(frame).tobytes() == matrix.tobytes()
        served.set_params(log=features.log.until(int(np.median(features.log.times_us))))
        assert served.transform(frame)[:, 0].sum() < matrix[:, 0].sum()

    def test_a_parameter_that_is_changed_later_counts(self, encoder, log, events, rendered):
        features = UserTextFeatures(log, encoder, TITLES).fit(events)
        features.transform(row("u1", "b", 500))
        features.set_params(liked_only=False).transform(row("u1", "b", 500))
        assert rendered == [["casino; heat"], ["casino; alien; heat"]]

    def test_nothing_was_liked_ever(self, encoder, events):
        log = InteractionLog.from_frame(events.set_column(3, "label", pa.array([0] * 6)), label="label")
        out = UserTextFeatures(log, encoder, TITLES, with_vector=True).fit(events).transform(events)
        assert (out[:, 0] == 0).all()
        assert np.isnan(out[:, 1:]).all()


class TestVectors:
    template = ItemTemplate("{title}[ {year}]")

    @pytest.fixture
    def table(self, encoder, items, tmp_path):
        encode_table(items, template=self.template, encoder=encoder, out=tmp_path, valid_from="valid_from")
        return VectorTable.open(tmp_path)

    def test_of_the_same_model_and_template_are_taken(self, encoder, log, events, items, table):
        parameters = {"items": items, "item_template": self.template}
        own = UserTextFeatures(log, encoder, **parameters).fit(events).transform(events)
        read = UserTextFeatures(log, encoder, vectors=table, **parameters).fit(events)
        assert read.transform(events).tobytes() == own.tobytes()

    def test_of_another_template_are_taken_where_it_is_said(self, encoder, log, events, table):
        features = UserTextFeatures(log, encoder, TITLES, vectors=table, vector_template=self.template.template)
        assert np.isfinite(features.fit(events).transform(row("u1", "b", 500))).all()

    def test_what_is_not_known_to_be_of_that_model_is_refused(self, encoder, log, events, items, table, tmp_path):
        other = write_artifact(tmp_path / "other", seed=1)
        shortened = reduce_table(Matryoshka(), table)
        for parameters in (
            {"artifact": other, "items": items, "item_template": self.template},
            {"items": items, "item_template": "{title}"},
            {"items": TITLES},
            {"items": items, "item_template": self.template, "vectors": shortened},
        ):
            features = UserTextFeatures(**{"log": log, "artifact": encoder, "vectors": table, **parameters})
            with pytest.raises(TableFingerprintError, match="pass its template as vector_template"):
                features.fit(events)

    def test_a_table_of_another_backend_is_of_that_model(self, encoder, log, events, items, table, monkeypatch):
        monkeypatch.setattr(type(encoder), "numerics", "openvino-bf16")
        elsewhere = VectorTable(table.ids, table.vectors.copy(), fingerprint=encoder.table_fingerprint(self.template))
        assert elsewhere.fingerprint != table.fingerprint
        UserTextFeatures(log, encoder, items, item_template=self.template, vectors=elsewhere).fit(events)

    def test_another_table_is_refused_later(self, encoder, log, events, items, table):
        features = UserTextFeatures(log, encoder, items, item_template=self.template, vectors=table).fit(events)
        features.set_params(vectors=VectorTable.from_arrays(["a"], np.ones((1, DIM))))
        with pytest.raises(TableFingerprintError, match="serve the generation that the ranker was trained on"):
            features.transform(events)


class TestErrors:
    def test_another_artifact_is_refused_later(self, encoder, log, events, tmp_path):
        features = UserTextFeatures(log, encoder, TITLES).fit(events)
        features.set_params(artifact=write_artifact(tmp_path, seed=1))
        with pytest.raises(TableFingerprintError, match="UserTextFeatures was fitted with"):
            features.transform(events)

    @pytest.mark.parametrize(
        ("parameters", "error", "said"),
        [
            ({"log": None}, InputError, r"InteractionLog\.from_frame"),
            ({"artifact": None}, InputError, "artifact=None"),
            ({"items": {"a": b"heat"}}, InputError, "a cell of X is of type bytes"),
            ({"items": None}, InputError, "items is a NoneType and item_template=None"),
            ({"items": pa.table({"item_id": ["a"]})}, InputError, "items is a Table and item_template=None"),
            ({"item_template": "{title}"}, InputError, "items is a mapping of texts and item_template"),
            ({"items": {}}, EmptyInputError, "items has 0 rows"),
            ({"items": {1: "heat", "1": "war"}}, DuplicateIdError, "1 of 2 ids of items"),
            ({"template": "{items}"}, InputError, "a HistoryTemplate was expected"),
            ({"vectors": np.eye(2)}, InputError, "vectors is a ndarray"),
            ({"reduce": "pca"}, InputError, "reduce='pca'"),
            ({"history_lag_s": -1}, InputError, "history_lag_s=-1"),
        ],
    )
    def test_bad_parameters(self, encoder, log, events, parameters, error, said):
        with pytest.raises(error, match=said):
            UserTextFeatures(**{"log": log, "artifact": encoder, "items": TITLES, **parameters}).fit(events)
