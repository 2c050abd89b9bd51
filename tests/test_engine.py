from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import ItemTemplate, TextEncoder
from llmfeat.encode import VectorCache
from llmfeat.errors import ArtifactCorruptError, BackendError, InputError
from tests.conftest import DIM, MAX_TOKENS, WORDS, write_artifact

TEMPLATE = ItemTemplate("{title}[ {year}]")
texts = st.lists(st.sampled_from(WORDS[4:]), max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def encoder(artifact):
    return TextEncoder(artifact, backend="onnxruntime-cpu", batch_tokens=64)


class TestEncoder:
    @given(st.lists(texts, min_size=1, max_size=20), st.randoms())
    @settings(max_examples=30, deadline=None)
    def test_a_text_has_the_same_bits_whatever_is_beside_it(self, encoder, batch, random):
        together = encoder.encode(batch)
        order = random.sample(range(len(batch)), len(batch))
        assert encoder.encode([batch[at] for at in order]).tobytes() == together[order].tobytes()
        for at, text in enumerate(batch):
            assert encoder.encode([text]).tobytes() == together[at].tobytes()

    def test_the_role_chooses_the_prompt(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path, query_prompt="the ", document_prompt="war "))
        plain = TextEncoder(write_artifact(tmp_path / "plain"))
        expected = plain.encode(["war heat", "the heat"])
        assert encoder.encode(["heat"]).tobytes() == expected[0].tobytes()
        assert encoder.encode(["heat"], role="query").tobytes() == expected[1].tobytes()
        assert encoder.count_tokens(["heat"], role="query").tolist() == [4]
        with pytest.raises(InputError, match="role='item', but one of"):
            encoder.encode(["heat"], role="item")

    def test_a_prompt_can_be_left_out_of_the_pooling(self, tmp_path):
        """The mean of the tokens behind the prompt is what remains of the mean of all when the rest is taken away."""
        prompts = {"query_prompt": "the war ", "document_prompt": ""}
        with_prompt = TextEncoder(write_artifact(tmp_path / "with", normalize=False, **prompts))
        without = TextEncoder(write_artifact(tmp_path / "without", include_prompt=False, **prompts))
        assert without.encode(["heat"]).tobytes() == with_prompt.encode(["heat"]).tobytes()
        assert not np.allclose(without.encode(["heat"], role="query"), with_prompt.encode(["heat"], role="query"))

    @pytest.mark.parametrize("role", ["document", "query"])
    def test_an_empty_text_without_any_token_is_one_padding_token(self, tmp_path, role):
        encoder = TextEncoder(write_artifact(tmp_path, around="$A"))
        assert encoder.count_tokens(["", "heat"]).tolist() == [1, 1]
        vectors = encoder.encode(["", "[PAD]", "heat"], role=role)
        assert np.isfinite(vectors).all()
        assert not np.array_equal(vectors[0], vectors[2])

    def test_a_folder_that_was_replaced_is_not_read_under_the_old_name(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path))
        before = pickle.dumps(encoder)
        write_artifact(tmp_path, seed=1)
        with pytest.raises(ArtifactCorruptError, match="make a new TextEncoder"):
            encoder.encode(["heat"])
        with pytest.raises(ArtifactCorruptError, match="make a new TextEncoder"):
            pickle.loads(before).encode(["heat"])

    def test_the_left_end_is_cut_where_the_model_cuts_there(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path, truncation_side="left"))
        long = "heat " * 40 + "alien war"
        kept = " ".join(long.split()[-(MAX_TOKENS - 2) :])
        assert encoder.encode([long]).tobytes() == encoder.encode([kept]).tobytes()

    def test_a_scorer_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="is a scorer, but an encoder was expected"):
            TextEncoder(write_artifact(tmp_path, kind="scorer"))

    def test_shape_dtype_and_unit_length(self, encoder):
        vectors = encoder.encode(["heat", "alien war", ""])
        assert vectors.shape == (3, DIM)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)

    def test_no_texts(self, encoder):
        assert encoder.encode([]).shape == (0, DIM)

    def test_long_texts_are_cut(self, encoder):
        words = ["heat"] * 100
        assert encoder.count_tokens([" ".join(words)]).tolist() == [MAX_TOKENS]
        assert np.array_equal(*encoder.encode([" ".join(words), " ".join(words[:50])]))

    def test_equal_texts_are_encoded_once(self, encoder, monkeypatch):
        rows = []
        run = encoder._backend.run
        monkeypatch.setattr(encoder._backend, "run", lambda ids, *rest: rows.append(len(ids)) or run(ids, *rest))
        encoder.encode(["heat"] * 50 + ["alien"])
        assert sum(rows) == 2

    @pytest.mark.parametrize(
        ("bad", "said"), [(None, "text 1 is of type NoneType"), (3, "type int"), ("\ud800x", "lone surrogate")]
    )
    def test_bad_texts_are_refused_without_quoting_them(self, encoder, bad, said):
        with pytest.raises(InputError, match=said):
            encoder.encode(["heat", bad])

    def test_pickles_hold_no_session(self, encoder):
        encoder.encode(["heat"])
        again = pickle.loads(pickle.dumps(encoder))
        assert "_backend" not in again.__dict__
        assert again.encode(["heat"]).tobytes() == encoder.encode(["heat"]).tobytes()

    def test_fingerprints_tell_model_and_template_apart(self, encoder, tmp_path):
        other = TextEncoder(write_artifact(tmp_path, seed=1))
        prints = {
            encoder.table_fingerprint(TEMPLATE),
            encoder.table_fingerprint(ItemTemplate("{title}")),
            other.table_fingerprint(TEMPLATE),
        }
        assert len(prints) == 3

    def test_one_string_is_no_list_of_texts(self, encoder):
        with pytest.raises(InputError, match="put it in a list"):
            encoder.encode("heat")

    def test_texts_come_out_of_a_stream_in_order_and_with_the_same_bits(self, encoder):
        batches = [["heat", "alien war"], [], ["drama"] * 3, ["the war"], ["casino"]]
        read = []

        def source():
            for batch in batches:
                read.append(batch)
                yield batch

        stream = encoder.encode_iter(source(), window_texts=2)
        first = next(stream)
        assert len(read) < len(batches)  # a window ahead, no more
        for batch, vectors in zip(batches, [first, *stream], strict=True):
            assert vectors.tobytes() == encoder.encode(batch).tobytes()
            assert vectors.shape == (len(batch), DIM)

    def test_a_consumer_may_stop_early(self, encoder):
        more = threading.Event()

        def source():
            yield ["heat"]
            yield ["alien"]
            more.wait(30)
            yield ["war"]

        stream = encoder.encode_iter(source(), window_texts=1)
        next(stream)
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 10
        more.set()

    def test_an_error_of_the_stream_s_source_comes_through(self, encoder):
        def source():
            yield ["heat"]
            raise RuntimeError("the database is gone")

        stream = encoder.encode_iter(source(), window_texts=1)
        assert next(stream).shape == (1, DIM)
        with pytest.raises(RuntimeError, match="the database is gone"):
            next(stream)
        with pytest.raises(InputError, match="a batch is one str"):
            next(encoder.encode_iter(["heat", "alien"]))
        with pytest.raises(InputError, match="window_texts=0"):
            next(encoder.encode_iter([["heat"]], window_texts=0))

    def test_an_error_of_the_backend_comes_through(self, encoder, monkeypatch):
        def fails(*_):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(encoder._backend, "run", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            encoder.encode([f"heat {word}" for word in WORDS])

    def test_vectors_that_are_not_finite_are_refused(self, encoder, monkeypatch):
        run = encoder._backend.run
        monkeypatch.setattr(encoder._backend, "run", lambda *args: run(*args) * np.float32(np.inf))
        with pytest.raises(BackendError, match="2 of 2 vectors are not finite, such as that of text 0"):
            encoder.encode(["heat", "war"])

    def test_a_text_of_10_mb_costs_no_more_than_its_limit(self, encoder):
        long = "heat alien " * 900_000
        assert encoder.encode([long]).tobytes() == encoder.encode([long[:2000]]).tobytes()
        assert encoder.count_tokens([long, " " * 10_000_000 + "war"]).tolist() == [MAX_TOKENS, 3]
        assert encoder.truncate([long, "war"], 3) == ["heat alien heat", "war"]
        with pytest.raises(InputError, match="n_tokens=0"):
            encoder.truncate(["war"], 0)

    def test_the_left_end_of_a_very_long_text(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path, truncation_side="left"))
        long = "heat alien " * 100_000 + "war"
        assert encoder.encode([long]).tobytes() == encoder.encode([long[-2000:]]).tobytes()

    def test_the_tally_counts_what_was_computed(self, artifact):
        encoder = TextEncoder(artifact, backend="onnxruntime-cpu")
        encoder.encode(["heat", "heat", "alien war"])
        assert (encoder.tally.texts, encoder.tally.tokens, encoder.tally.cached) == (2, 3 + 4, 0)
        assert encoder.tally.positions == encoder.tally.tokens  # short texts are not padded
        assert encoder.tokens_per_s(["heat", "war"]) > 0

    def test_threads_may_share_an_encoder(self, encoder):
        batches = [[f"{word} {other}" for other in WORDS[4:]] for word in WORDS[4:]] * 3
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(encoder.encode, batches))
        for batch, vectors in zip(batches, together, strict=True):
            assert vectors.tobytes() == encoder.encode(batch).tobytes()


class TestCache:
    def test_what_the_cache_holds_is_not_computed_again(self, artifact, tmp_path):
        first, second = (TextEncoder(artifact, cache=tmp_path / "cache") for _ in range(2))
        texts = ["heat", "alien war", "heat", ""]
        vectors = first.encode(texts)
        assert second.encode(texts).tobytes() == vectors.tobytes() == TextEncoder(artifact).encode(texts).tobytes()
        assert (first.tally.cached, second.tally.cached, second.tally.tokens) == (0, 3, 0)
        assert second.encode(["heat", "drama"]).tobytes() == TextEncoder(artifact).encode(["heat", "drama"]).tobytes()
        assert second.tally.tokens == 3  # [CLS] drama [SEP]

    def test_another_model_backend_or_prompt_is_another_entry(self, artifact, tmp_path):
        pytest.importorskip("openvino")
        cache = VectorCache(tmp_path / "cache")
        prompts = {"query_prompt": "the war ", "document_prompt": "", "include_prompt": False}
        left_out = write_artifact(tmp_path / "left", **prompts)
        TextEncoder(artifact, cache=cache).encode(["heat", "the war heat"])
        others = [
            TextEncoder(write_artifact(tmp_path / "other", seed=1), cache=cache),
            TextEncoder(artifact, cache=cache, backend="openvino-f32"),
            TextEncoder(left_out, cache=cache),
        ]
        for other in others:
            other.encode(["heat", "the war heat"])
            assert other.tally.cached == 0
        # The same text, "the war heat", without its first two tokens in the pooling.
        assert not np.allclose(others[2].encode(["heat"], role="query"), others[2].encode(["the war heat"]))

    def test_what_was_computed_before_an_error_is_kept(self, artifact, tmp_path, monkeypatch):
        encoder = TextEncoder(artifact, cache=tmp_path / "cache", batch_tokens=3)
        run, calls = encoder._backend.run, iter(range(100))

        def breaks(*args):
            if next(calls) == 4:
                raise RuntimeError("out of memory")
            return run(*args)

        words = WORDS[4:]
        with monkeypatch.context() as patch:
            patch.setattr(encoder._backend, "run", breaks)
            with pytest.raises(RuntimeError, match="out of memory"):
                encoder.encode(words)
        again = TextEncoder(artifact, cache=tmp_path / "cache")
        assert again.encode(words).tobytes() == TextEncoder(artifact).encode(words).tobytes()
        assert again.tally.cached >= 3

    def test_vectors_that_are_not_finite_are_not_kept(self, artifact, tmp_path, monkeypatch):
        encoder = TextEncoder(artifact, cache=tmp_path / "cache")
        run = encoder._backend.run
        with monkeypatch.context() as patch:
            patch.setattr(encoder._backend, "run", lambda *args: run(*args) * np.float32(np.nan))
            with pytest.raises(BackendError, match="not finite"):
                encoder.encode(["heat"])
        assert np.isfinite(encoder.encode(["heat"])).all()

    def test_pickles_keep_the_cache_s_place(self, artifact, tmp_path):
        encoder = TextEncoder(artifact, cache=tmp_path / "cache")
        encoder.encode(["heat"])
        again = pickle.loads(pickle.dumps(encoder))
        again.encode(["heat"])
        assert again.tally.cached == 1

    def test_true_is_the_user_s_cache(self, artifact):
        TextEncoder(artifact, cache=True).encode(["heat"])
        other = TextEncoder(artifact, cache=True)
        other.encode(["heat"])
        assert other.tally.cached == 1
        assert TextEncoder(artifact, cache=False).cache is None
