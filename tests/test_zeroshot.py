"""``llmfeat zeroshot``: which rows are asked about, what each arm says of them, and what is written and printed."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from llmfeat import InteractionLog, TextEncoder
from llmfeat.cli import _texts
from llmfeat.cli.main import cli
from llmfeat.cli.zeroshot import print_zeroshot
from llmfeat.errors import InputError
from llmfeat.evaluate.inputs import InputSpec, read_inputs
from llmfeat.evaluate.metrics import Resamples, measure
from llmfeat.evaluate.split import split_by_time
from llmfeat.evaluate.zeroshot import ARMS, METRICS, ListeningScorer, remarks, run_zeroshot, write_zeroshot
from llmfeat.evaluate.zeroshot_rows import ZeroshotConfig, asked_rows
from llmfeat.rank.llm import LLMScorer
from llmfeat.text import PreferencePrompt
from tests.conftest import WORDS
from tests.llm_fixtures import ANSWERS

N_USERS, N_ITEMS, N_EVENTS = 12, 24, 300
KEYS = ["schema", "data", "model", "arms", "differences", "counts", "cost", "method"]
TITLES = [f"{WORDS[4 + at % 6]} {WORDS[4 + at // 6]} {at}" for at in range(N_ITEMS)]
TEXTLESS = 5


@pytest.fixture
def items() -> pa.Table:
    titles = [None if at == TEXTLESS else title for at, title in enumerate(TITLES)]
    return pa.table({"film": [f"f{at}" for at in range(N_ITEMS)], "title": titles})


@pytest.fixture
def ratings() -> pa.Table:
    """Ratings with ties in time."""
    draw = np.random.default_rng(0)
    return pa.table(
        {
            "viewer": [f"v{at}" for at in draw.integers(0, N_USERS, N_EVENTS)],
            "film": [f"f{at}" for at in draw.integers(0, N_ITEMS, N_EVENTS)],
            "when": np.sort(draw.integers(0, 120, N_EVENTS)) * 60 + 1_700_000_000,
            "stars": draw.choice([2.0, 5.0], N_EVENTS),
        }
    )


@pytest.fixture
def folder(tmp_path: Path, items: pa.Table, ratings: pa.Table) -> Path:
    pq.write_table(items, tmp_path / "films.parquet")
    csv.write_csv(ratings, tmp_path / "ratings.csv")
    pq.write_table(ratings.drop_columns(["stars"]), tmp_path / "purchases.parquet")
    return tmp_path


def spec_of(items: pa.Table, log: pa.Table) -> InputSpec:
    kind = {"rating": "stars"} if "stars" in log.column_names else {"task": "next-item"}
    return InputSpec(items, log, text=("title",), user_id="viewer", item_id="film", timestamp="when", **kind)


def rows_of(spec: InputSpec, config: ZeroshotConfig):
    """Return the rows, the inputs, and the numbers of the test rows."""
    inputs = read_inputs(spec)
    test = split_by_time(inputs.times_us, test_fraction=config.test_fraction).test
    has_text = inputs.items.column("title").is_valid().to_numpy()
    return asked_rows(inputs, test, has_text, config), inputs, test


@pytest.fixture
def listened(monkeypatch) -> dict[str, np.ndarray]:
    """Return what will hold the scores of each arm of the last run."""
    heard: list[np.ndarray] = []
    found: dict[str, np.ndarray] = {}

    def listening(scores, labels, *args, **options):
        heard.append(scores)
        found[ARMS[(len(heard) - 1) % len(ARMS)]] = scores
        return measure(scores, labels, *args, **options)

    monkeypatch.setattr("llmfeat.evaluate.zeroshot.measure", listening)
    return found


def run(spec: InputSpec, llm_artifact, artifact, **changes) -> dict:
    config = ZeroshotConfig(**{"n_rows": 60, "n_resamples": 50, **changes})
    scorer = ListeningScorer(llm_artifact, answers=ANSWERS)
    return run_zeroshot(
        spec, config, scorer=scorer, encoder=TextEncoder(artifact), say=lambda line: None, progress=False
    )


def zeroshot(
    folder: Path, scorer, encoder, log: str, *more: str, text=("--text", "title"), answers=("--yes", "a", "--no", "b")
):
    files = ["--items", str(folder / "films.parquet"), "--interactions", str(folder / log)]
    names = ["--item-id", "film", "--user-id", "viewer", "--timestamp", "when"]
    models = ["--artifact", str(scorer.path), "--encoder", str(encoder.path), *answers]
    return CliRunner().invoke(cli, ["zeroshot", *files, *text, *names, *models, *more])


def printed(body: dict) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_zeroshot(console, body)
    return console.file.getvalue()


# Rows


def test_a_user_who_did_much_does_not_fill_the_rows(items, ratings, monkeypatch):
    monkeypatch.setattr("llmfeat.evaluate.zeroshot_rows._MOST_OF_USER", 3)
    asked, inputs, test = rows_of(spec_of(items, ratings), ZeroshotConfig(n_rows=25))
    users, all_users = asked.users.to_pylist(), inputs.users.take(pa.array(test)).to_pylist()
    for user in set(users):
        oldest = sorted(inputs.times_us[test][np.array(all_users) == user].tolist())[:3]
        kept = asked.times_us[np.array(users) == user].tolist()
        assert kept == oldest[: len(kept)]


def test_users_are_whole_but_the_last_whose_oldest_rows_are_kept(items, ratings):
    asked, inputs, test = rows_of(spec_of(items, ratings), ZeroshotConfig(n_rows=25))
    assert len(asked.labels) == 25
    users, all_users = asked.users.to_pylist(), inputs.users.take(pa.array(test)).to_pylist()
    times = {user: inputs.times_us[test][np.array(all_users) == user].tolist() for user in set(users)}
    *whole, cut = list(dict.fromkeys(users))
    for user in whole:
        assert asked.times_us[np.array(users) == user].tolist() == sorted(times[user])
    kept = asked.times_us[np.array(users) == cut].tolist()
    assert kept == sorted(times[cut])[: len(kept)]


def test_rows_are_drawn_by_seed_and_fewer_are_the_first_of_more(items, ratings):
    spec = spec_of(items, ratings)
    few, more, other = (
        rows_of(spec, ZeroshotConfig(n_rows=n_rows, seed=seed))[0] for n_rows, seed in ((20, 1), (40, 1), (20, 2))
    )
    assert few.items.equals(more.items[:20])
    assert not few.items.equals(other.items)


def test_all_rows_where_the_test_has_no_more(items, ratings):
    asked, _, test = rows_of(spec_of(items, ratings), ZeroshotConfig(n_rows=10_000))
    assert len(asked.labels) == len(test)
    assert asked.groups is None


def test_negatives_are_items_with_a_text_that_the_user_did_not_meet_till_then(items, ratings):
    spec = spec_of(items, ratings.drop_columns(["stars"]))
    asked, inputs, test = rows_of(spec, ZeroshotConfig(n_rows=60, n_negatives=4))
    assert asked.labels.tolist() == [1, 0, 0, 0, 0] * 12
    assert asked.groups.tolist() == np.repeat(np.arange(12), 5).tolist()
    log = list(zip(inputs.users.to_pylist(), inputs.row_items.to_pylist(), inputs.times_us.tolist(), strict=True))
    tested = {log[row] for row in test}
    for user, item, time_us, label in zip(
        asked.users.to_pylist(), asked.items.to_pylist(), asked.times_us.tolist(), asked.labels.tolist(), strict=True
    ):
        if label:
            assert (user, item, time_us) in tested
        else:
            assert item != f"f{TEXTLESS}"
            assert not [each for each in log if each[:2] == (user, item) and each[2] <= time_us]
    for group in range(12):
        assert len(set(asked.items.to_pylist()[5 * group : 5 * group + 5])) == 5


def test_fewer_negatives_where_the_catalogue_has_no_more(items):
    users, films = np.divmod(np.arange(24), 6)
    log = pa.table({"viewer": users, "film": [f"f{at}" for at in films], "when": films + 10**9})
    asked, _, _ = rows_of(spec_of(items.slice(0, 8), log), ZeroshotConfig(n_rows=200, test_fraction=0.5))
    met = asked.times_us // 10**6 - 10**9 + 1  # each user meets f0, then f1, and so on; f5 has no text
    sizes = np.bincount(asked.groups)
    assert sizes.tolist() == [1 + 8 - n_met - (n_met < 6) for n_met in met[asked.labels == 1].tolist()]


def test_no_negative_at_all_is_an_error(items):
    log = pa.table({"viewer": ["v"] * 20, "film": ["f0", "f1"] * 10, "when": np.arange(20) + 10**9})
    with pytest.raises(InputError, match="larger catalogue"):
        rows_of(spec_of(items.slice(0, 2), log), ZeroshotConfig())


def test_rows_of_one_label_are_an_error(items, ratings):
    late = np.arange(N_EVENTS) > N_EVENTS // 2
    stars = pa.array(np.where(late, 5.0, ratings["stars"].to_numpy()))
    with pytest.raises(InputError, match="have the label 1"):
        rows_of(spec_of(items, ratings.set_column(3, "stars", stars)), ZeroshotConfig())


# Arms


def by_hand(spec: InputSpec, config: ZeroshotConfig, *, lag_s: int = 0) -> np.ndarray:
    """Return the positives of each row's item strictly before it, counted one by one."""
    asked, inputs, _ = rows_of(spec, config)
    liked = np.ones(inputs.n_rows, dtype=bool) if inputs.labels is None else inputs.labels > 0
    items = np.array(inputs.row_items.to_pylist())
    return np.array(
        [
            (liked & (items == item) & (inputs.times_us < time_us - lag_s * 10**6)).sum()
            for item, time_us in zip(asked.items.to_pylist(), asked.times_us.tolist(), strict=True)
        ],
        dtype=np.float64,
    )


@pytest.mark.parametrize("lag_s", [0, 600])
@pytest.mark.parametrize("drop", [[], ["stars"]])
def test_arms_are_what_they_say(items, ratings, llm_artifact, artifact, listened, lag_s, drop):
    """Popularity as counted, cosine as summed, the model as asked alone; measured as `measure` does."""
    spec, config = spec_of(items, ratings.drop_columns(drop)), ZeroshotConfig(n_rows=60, n_resamples=50)
    body = run(spec, llm_artifact, artifact, history_lag_s=lag_s)
    asked, inputs, _ = rows_of(spec, config)
    np.testing.assert_array_equal(listened["popularity"], by_hand(spec, config, lag_s=lag_s))
    labels = np.ones(inputs.n_rows) if inputs.labels is None else inputs.labels
    log = InteractionLog.from_arrays(inputs.users, inputs.row_items, inputs.times_us, labels.astype(np.float32))
    np.testing.assert_allclose(listened["cosine"], cosines(asked, log, items, artifact, lag_s), atol=1e-5)
    scorer = LLMScorer(
        log,
        llm_artifact,
        items,
        item_template="{title}",
        answers=ANSWERS,
        calibration=None,
        history_lag_s=lag_s,
        user_id="viewer",
        item_id="film",
        timestamp="when",
    )
    frame = asked.frame(spec)
    np.testing.assert_allclose(listened["llm"], scorer.fit(frame).log_odds(frame), atol=1e-4)
    users = asked.users.dictionary_encode().indices.to_numpy().astype(np.int64)
    drawn = Resamples.draw(int(users.max()) + 1, n_resamples=50, seed=0)
    for arm, scores in listened.items():
        found = measure(scores, asked.labels, users, drawn, groups=asked.groups)
        assert [body["arms"][arm][name]["value"] for name in METRICS] == [found[name].point for name in METRICS]


def cosines(asked, log: InteractionLog, items: pa.Table, artifact, lag_s: int) -> np.ndarray:
    """Return the mean cosine of each row's item to the last 50 events' liked items with a text."""
    texts = {key: title for key, title in zip(*items.to_pydict().values(), strict=True) if title is not None}
    encoded = TextEncoder(artifact).encode(list(texts.values()))
    vectors = dict(zip(texts, encoded / np.linalg.norm(encoded, axis=1, keepdims=True), strict=True))
    found = []
    for user, item, time_us in zip(asked.users.to_pylist(), asked.items.to_pylist(), asked.times_us, strict=True):
        past = log.as_of(user, int(time_us) - lag_s * 10**6)[-50:]
        ids = log.item_ids.take(pa.array(log.item_codes[past[log.labels[past] > 0]])).to_pylist()
        near = [vectors[item] @ vectors[key] for key in ids if key in vectors] if item in vectors else []
        found.append(np.mean(near) if near else np.nan)
    return np.array(found)


def test_nothing_later_counts(items, ratings, llm_artifact, artifact, listened):
    """Of rows that were there before, what happens later changes no score but the random one."""
    last, n_later = int(ratings["when"].to_numpy().max()), 40
    later = pa.table(
        {
            "viewer": [f"v{at % N_USERS}" for at in range(n_later)],
            "film": [f"f{at % 3}" for at in range(n_later)],
            "when": np.arange(n_later) + last + 1,
            "stars": [5.0, 2.0] * (n_later // 2),
        }
    )
    before = run(spec_of(items, ratings), llm_artifact, artifact, n_rows=N_EVENTS)
    alone = dict(listened)
    fraction = (before["data"]["test_rows"] + n_later) / (before["data"]["rows"] + n_later)
    spec = spec_of(items, pa.concat_tables([ratings, later]))
    after = run(spec, llm_artifact, artifact, n_rows=N_EVENTS, test_fraction=fraction)
    assert after["data"]["test_from"] == before["data"]["test_from"]
    asked, _, _ = rows_of(spec, ZeroshotConfig(n_rows=N_EVENTS, test_fraction=fraction))
    was_there = asked.times_us <= last * 10**6
    for arm in ("popularity", "cosine", "llm"):
        np.testing.assert_allclose(listened[arm][was_there], alone[arm], atol=1e-4)


def test_one_user_has_no_interval(items, ratings, llm_artifact, artifact):
    body = run(spec_of(items, ratings), llm_artifact, artifact, n_rows=4, seed=3)
    assert body["counts"]["users"] == 1
    assert body["arms"]["llm"]["auc"]["ci95"] == [None, None]
    assert body["differences"]["llm_vs_cosine"]["auc"]["ci95"] == [None, None]
    assert "of 1 user only" in printed(body)


def test_differences_are_of_the_same_rows(items, ratings, llm_artifact, artifact):
    body = run(spec_of(items, ratings), llm_artifact, artifact)
    for arm in ("cosine", "popularity"):
        for name in METRICS:
            gain = body["differences"][f"llm_vs_{arm}"][name]
            ours, theirs = (body["arms"][each][name]["value"] for each in ("llm", arm))
            assert gain["diff"] == pytest.approx(ours - theirs)
            assert gain["ci95"][0] <= gain["ci95"][1]


def test_candidates_without_text_and_users_without_history_are_counted(items, ratings, llm_artifact, artifact):
    fresh = pa.table({"viewer": ["new"] * 2, "film": ["f5", "f1"], "when": [1_700_100_000] * 2, "stars": [5.0, 2.0]})
    spec = spec_of(items, pa.concat_tables([ratings, fresh]))
    body = run(spec, llm_artifact, artifact, n_rows=10_000)
    asked, _, _ = rows_of(spec, ZeroshotConfig(n_rows=10_000))
    n_textless = asked.items.to_pylist().count(f"f{TEXTLESS}")
    assert body["counts"]["without_text"] == n_textless > 0
    assert body["counts"]["without_history"] == 2
    assert f"{n_textless} candidates have no text" in printed(body)
    assert "2 rows are of users without an earlier event" in printed(body)


def test_the_share_of_the_answers(items, ratings, llm_artifact, artifact):
    scorer = ListeningScorer(llm_artifact, answers=ANSWERS)
    assert np.isnan(scorer.answer_share())
    heat, alien = (np.exp(scorer.log_probs([prompt])).sum() for prompt in ("heat", "alien"))
    assert scorer.answer_share() == pytest.approx((heat + alien) / 2)
    body = run(spec_of(items, ratings), llm_artifact, artifact)
    assert 0 < body["model"]["answer_share"] < 0.5
    assert "of the probability is on the answers, the model would say something else" in printed(body)


def test_what_is_remarked(items, ratings, llm_artifact, artifact):
    body = run(spec_of(items, ratings), llm_artifact, artifact)
    fine = copy.deepcopy(body)
    fine["counts"] |= {"users": 300, "without_text": 0, "without_history": 0, "prompts_cut": 0, "items_dropped": 0}
    fine["model"]["answer_share"] = 0.9
    fine["arms"]["llm"]["auc"] = {"value": 0.45, "ci95": [0.4, 0.501]}
    assert remarks(fine) == []
    worse = copy.deepcopy(fine)
    worse["arms"]["llm"]["auc"] = {"value": 0.45, "ci95": [0.4, 0.499]}
    (said,) = remarks(worse)
    assert "worse than chance" in said
    assert "LLMScorer.fit" in said
    cut = copy.deepcopy(fine)
    cut["counts"] |= {"prompts_cut": 7, "items_dropped": 30}
    assert remarks(cut) == ["7 prompts had no room for the whole history: 30 items, the oldest, were left out"]


def test_prompts_without_room_are_counted(items, ratings, llm_artifact, artifact):
    long = items.set_column(1, "title", pa.array([f"{title} " * 12 for title in TITLES]))
    scorer = ListeningScorer(llm_artifact, answers=ANSWERS)
    body = run_zeroshot(
        spec_of(long, ratings),
        ZeroshotConfig(n_rows=20, n_resamples=10),
        scorer=scorer,
        encoder=TextEncoder(artifact),
        prompt=PreferencePrompt(max_items=40),
        say=lambda line: None,
        progress=False,
    )
    assert body["counts"]["prompts_cut"] > 0
    assert body["counts"]["items_dropped"] >= body["counts"]["prompts_cut"]


# The command


def test_ratings_from_files_to_json(folder, llm_artifact, artifact):
    more = ("--rating", "stars", "--rows", "50", "--max-items", "3", "--out", str(folder / "out"))
    result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", *more)
    assert result.exit_code == 0, result.output
    written = (folder / "out" / "zeroshot.json").read_text()
    body = json.loads(written, parse_constant=lambda name: pytest.fail(name))
    assert list(body) == KEYS
    assert list(body["arms"]) == list(ARMS)
    for found in body["arms"].values():
        assert list(found) == list(METRICS)
        assert all(set(each) == {"value", "ci95"} for each in found.values())
    assert list(body["differences"]) == ["llm_vs_cosine", "llm_vs_popularity"]
    assert body["counts"]["rows"] == 50
    assert body["data"]["negatives"] == "labels"
    assert body["model"]["answers"] == {"positive": ["a"], "negative": ["b"]}
    assert body["model"]["prompt"]["max_items"] == 3
    assert body["cost"]["tokens"] > 0
    assert body["cost"]["prompts_per_s"] > 0
    assert not [title for title in TITLES if title in written]
    assert "v3" not in written
    for arm in (*ARMS, "LLM over cosine", "LLM over popularity", "prompts/s", "zeroshot.json"):
        assert arm in result.output


def test_purchases_have_negatives_and_a_second_run_comes_from_the_cache(folder, llm_artifact, artifact):
    bodies = []
    for out in ("one", "two"):
        more = ("--rows", "60", "--negatives", "4", "--out", str(folder / out))
        result = zeroshot(folder, llm_artifact, artifact, "purchases.parquet", *more)
        assert result.exit_code == 0, result.output
        assert "negatives drawn" in result.output
        bodies.append(json.loads((folder / out / "zeroshot.json").read_text()))
    first, second = bodies
    assert first["counts"] | {"rows": 60, "groups": 12, "positives": 12} == first["counts"]
    costs = [body.pop("cost") for body in bodies]
    assert first == second
    assert costs[0]["cached"] == 0
    assert costs[1]["cached"] == costs[1]["prompts"] == costs[0]["prompts"]
    assert costs[1]["prompts_per_s"] is None


def test_a_template_may_bring_a_prompt(folder, llm_artifact, artifact):
    file = folder / "template.toml"
    file.write_text(
        '[item]\ntemplate = "film {title}"\n[prompt]\ntemplate = "[{liked}. ]{candidate}?"\nmax_items = 4\n'
    )
    for more, n_items in (((), 4), (("--max-items", "2"), 2)):
        options = ("--rating", "stars", "--rows", "20", "--out", str(folder), *more)
        result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", *options, text=("--template", str(file)))
        assert result.exit_code == 0, result.output or result.exception
        prompt = json.loads((folder / "zeroshot.json").read_text())["model"]["prompt"]
        assert (prompt["template"], prompt["max_items"]) == ("[{liked}. ]{candidate}?", n_items)


def test_a_template_without_a_prompt_asks_the_usual(folder, llm_artifact, artifact):
    file = folder / "template.toml"
    file.write_text('[item]\ntemplate = "{title:4}"\n')
    options = ("--rating", "stars", "--rows", "20", "--out", str(folder))
    result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", *options, text=("--template", str(file)))
    assert result.exit_code == 0, result.output
    prompt = json.loads((folder / "zeroshot.json").read_text())["model"]["prompt"]
    assert prompt == json.loads(json.dumps(dataclasses.asdict(PreferencePrompt.by_example("B", "A"))))
    assert prompt["max_items"] == 20


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rating", "star"), "stars"),
        (("--rating", "stars", "--like-threshold", "9"), "all under --like-threshold 9"),
        (("--rating", "stars", "--label", "stars"), "one of them was expected"),
        (("--rating", "stars", "--no", "a"), "means both yes and no"),
    ],
)
def test_errors_say_what_to_do(folder, llm_artifact, artifact, more, said):
    result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", *more)
    assert isinstance(result.exception, InputError) or "MissingColumn" in type(result.exception).__name__
    assert said in str(result.exception)


def test_words_that_are_no_token(folder, llm_artifact, artifact):
    words = ("--yes", "certainly", "--no", "never")
    result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", "--rating", "stars", answers=words)
    assert "no variant of positive=('certainly',) is a single token" in str(result.exception)


def test_an_encoder_is_no_scorer_and_the_other_way_round(folder, llm_artifact, artifact):
    for scorer, encoder, said in (
        (artifact, artifact, "a scorer was expected"),
        (llm_artifact, llm_artifact, "an encoder was expected"),
    ):
        result = zeroshot(folder, scorer, encoder, "ratings.csv", "--rating", "stars")
        assert said in str(result.exception)


def test_a_log_of_one_moment_has_no_test(folder, ratings, llm_artifact, artifact):
    at_once = ratings.set_column(2, "when", pa.array([1_700_000_000] * N_EVENTS))
    csv.write_csv(at_once, folder / "ratings.csv")
    result = zeroshot(folder, llm_artifact, artifact, "ratings.csv", "--rating", "stars")
    assert "more moments are needed" in str(result.exception)


@pytest.mark.parametrize(("kind", "asked"), [("encoder", "bundled:minilm"), ("scorer", "bundled:smollm2")])
def test_the_bundled_model_of_each_kind(monkeypatch, kind, asked):
    monkeypatch.setattr("llmfeat.export.cached_artifact", lambda model, *, kind: (model, kind))
    assert _texts.bundled_model(kind) == (asked, kind)


def test_written_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_zeroshot({"value": float("nan")}, tmp_path)


def test_help_has_an_example():
    result = CliRunner().invoke(cli, ["zeroshot", "--help"])
    assert result.exit_code == 0
    assert "llmfeat zeroshot --items items.parquet" in result.output
    assert "\\b" not in result.output
