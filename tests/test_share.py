"""A cache of one row for a whole batch, against the graph that copies it, and doubles that only look alike."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from llmfeat.artifact import TextTokenizer
from llmfeat.export import parity
from llmfeat.export.exporter import save_tokenizer
from llmfeat.export.fetch import open_source
from llmfeat.export.fuse import fuse
from llmfeat.export.graft import graft_last_logits, graft_positions
from llmfeat.export.parity import certify_scorer
from llmfeat.export.precision import to_fp16
from llmfeat.export.quiet import quietly
from llmfeat.export.reference import ScorerReference
from llmfeat.export.runner import GraphRunner
from llmfeat.export.share import PREFIXES, share_prefix
from llmfeat.export.trace import trace
from tests.conftest import tiny_graph
from tests.tiny_models import SCORERS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PREFIX = [5, 6, 7, 8, 9, 10, 11]
ROWS = [[12, 13, 14, 15], [16, 17], [18]]


def copy(graph):
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    return made


@pytest.fixture(scope="module")
def traced(models):
    """Graphs by family as an export has them before a prefix is shared: as traced, and with operators fused."""
    found = {}

    def get(family, *, fused=False):
        if family not in found:
            with open_source(models[family]) as source, quietly():
                plain = trace(source, kind="scorer")
                found[family] = {False: plain, True: fuse(copy(plain), source, attention_for="rows can share")[0]}
            for graph in found[family].values():
                graft_positions(graph)
                graft_last_logits(graph, vocab_size=source.config.vocab_size)
        return copy(found[family][fused])

    return get


class Graph:
    """A graph that is run on rows behind a cache."""

    def __init__(self, model):
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.past = [entry for entry in self.session.get_inputs() if entry.name.startswith("past_key_values.")]

    def run(self, rows, caches=None, *, side="right"):
        width = max(map(len, rows))
        ids, mask = np.zeros((2, len(rows), width), dtype=np.int64)
        for at, row in enumerate(rows):
            where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[at, where], mask[at, where] = row, 1
        if caches is None:
            caches = [np.zeros((len(rows), e.shape[1], 0, e.shape[3]), self.dtype) for e in self.past]
        mask = np.concatenate([np.ones((len(rows), caches[0].shape[2]), dtype=np.int64), mask], axis=1)
        feeds = {"input_ids": ids, "attention_mask": mask}
        logits, *present = self.session.run(None, feeds | dict(zip([e.name for e in self.past], caches, strict=True)))
        return logits, present

    @property
    def dtype(self):
        return np.float16 if "float16" in self.past[0].type else np.float32


def close(left, right, atol=1e-5):
    np.testing.assert_allclose(left, right, rtol=0, atol=atol)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", SCORERS)
def test_is_exact_to_the_plain_graph(traced, family, fused):
    graph = traced(family, fused=fused)
    plain = Graph(graph)
    assert share_prefix(graph)
    shared = Graph(graph)
    assert {entry.shape[0] for entry in shared.past} == {PREFIXES}
    _, cache = plain.run([PREFIX])
    close(np.concatenate([c.ravel() for c in shared.run([PREFIX])[1]]), np.concatenate([c.ravel() for c in cache]))
    copies = [np.repeat(each, len(ROWS), axis=0) for each in cache]
    for side in ("right", "left"):
        expected, joined = plain.run(ROWS, copies, side=side)
        for caches in (cache, copies):  # of one row, or as many as there are
            got, present = shared.run(ROWS, caches, side=side)
            close(got, expected)
            for new, all_tokens in zip(present, joined, strict=True):
                close(new, all_tokens[:, :, len(PREFIX) :])
    close(shared.run(ROWS)[0], plain.run(ROWS)[0])
    alone = np.concatenate([plain.run([PREFIX + row])[0] for row in ROWS])
    close(shared.run(ROWS, cache)[0], alone)


def test_nodes_stand_behind_what_they_read(traced):
    """ONNX wants them sorted; not every runtime does it itself."""
    graph = traced("llama")
    onnx.checker.check_model(graph)
    assert share_prefix(graph)
    onnx.checker.check_model(graph)


def test_rows_may_have_caches_of_their_own(traced):
    graph = traced("llama")
    plain = Graph(graph)
    assert share_prefix(graph)
    _, caches = plain.run([PREFIX, PREFIX[::-1], PREFIX[1:] + PREFIX[:1]])
    expected, _ = plain.run(ROWS, caches)
    close(Graph(graph).run(ROWS, caches)[0], expected)


def test_a_prefix_grows_by_what_is_present(traced):
    graph = traced("qwen3")
    assert share_prefix(graph)
    shared = Graph(graph)
    _, first = shared.run([PREFIX[:3]])
    _, second = shared.run([PREFIX[3:]], first)
    grown = [np.concatenate(pair, axis=2) for pair in zip(first, second, strict=True)]
    close(shared.run(ROWS, grown)[0], shared.run([PREFIX + row for row in ROWS])[0])


def test_in_float16(traced):
    graph = traced("llama")
    plain = Graph(graph)
    assert share_prefix(graph)
    with quietly():
        shared = Graph(to_fp16(graph, keep=["last_hidden_state", "logits"]))
    _, cache = shared.run([PREFIX])
    assert cache[0].dtype == np.float16
    close(shared.run(ROWS, cache)[0], plain.run([PREFIX + row for row in ROWS])[0], atol=0.05)


def another_use(graph):
    graph.graph.node.append(helper.make_node("Identity", ["present.1.key"], ["seen"]))


def another_order(graph):
    joined = next(node for node in graph.graph.node if list(node.output) == ["present.1.value"])
    joined.input[0], joined.input[1] = joined.input[1], joined.input[0]


def a_computed_scale(graph):
    node = next(node for node in graph.graph.node if list(node.input)[:1] == ["present.1.value"])
    graph.graph.node.insert(0, helper.make_node("Neg", ["present.1.value"], ["turned"]))
    node.input[0] = "turned"


@pytest.mark.parametrize("change", [another_use, another_order, a_computed_scale])
def test_another_attention_is_left_alone(traced, change):
    """In the last layer only: nothing of the first may have been rewritten by then."""
    graph = traced("llama")
    change(graph)
    before = graph.SerializeToString(deterministic=True)
    assert not share_prefix(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_a_graph_without_a_cache_and_one_that_shares_already_are_left_alone(traced):
    shared = traced("llama")
    assert share_prefix(shared)
    for graph in (tiny_graph(), shared):
        before = graph.SerializeToString(deterministic=True)
        assert not share_prefix(graph)
        assert graph.SerializeToString(deterministic=True) == before


def test_the_certificate_says_what_it_found(llm_artifact, llm_unshared):
    shared, copied = llm_artifact.spec.parity, llm_unshared.spec.parity
    assert shared["shares_prefix"]
    assert 0 < shared["shared_log_prob_diff_max"] < 1e-4
    assert not copied["shares_prefix"]
    assert copied["shared_log_prob_diff_max"] is None
    assert shared["failures"] == copied["failures"] == []


def test_a_double_that_is_wrong_where_rows_share_only_fails_the_certificate(models, traced, tmp_path, monkeypatch):
    """Caches of one row for each text are right."""
    monkeypatch.setattr(parity, "_N_CATALOGUE", 16)
    graph = traced("llama")
    assert share_prefix(graph)
    for node in graph.graph.node:
        for at, name in enumerate(node.input):
            if name == "past_key_values.1.value" and node.op_type == "MatMul":
                node.input[at] = "spoiled"
    made = [
        helper.make_node("Shape", ["input_ids"], ["double_rows"], start=0, end=1),
        helper.make_node("Shape", ["past_key_values.1.value"], ["double_caches"], start=0, end=1),
        helper.make_node("Equal", ["double_rows", "double_caches"], ["double_own"]),
        helper.make_node("CastLike", ["double_own", "past_key_values.1.value"], ["double_factor"]),
        helper.make_node("Mul", ["past_key_values.1.value", "double_factor"], ["spoiled"]),
    ]
    for at, node in enumerate(made):
        graph.graph.node.insert(at, node)
    onnx.save(graph, tmp_path / "model.onnx")
    with open_source(models["llama"]) as source:
        save_tokenizer(source, tmp_path / "tokenizer.json")
        tokenizer = TextTokenizer(tmp_path / "tokenizer.json", max_tokens=512, pad_id=0)
        runner = GraphRunner(tmp_path / "model.onnx", pad_id=0)
        found = certify_scorer(runner, tokenizer, ScorerReference(source), precision="fp32")
    assert found["shares_prefix"]
    assert found["shared_log_prob_diff_max"] > 0.001
    assert len(found["failures"]) == 1
    assert "between a text in one piece and behind a shared prefix, at most 0.001" in found["failures"][0]
