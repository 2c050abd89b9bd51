"""A tiny model, a tiny catalogue and a tiny log: right answers that can be checked by hand, and no download."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from llmfeat import InteractionLog, ModelArtifact, export_model
from llmfeat._base.files import file_sha256
from llmfeat.artifact import ArtifactSpec, FileRecord
from llmfeat.export.digest import graph_sha256
from llmfeat.export.graft import graft_head
from llmfeat.export.head import EmbeddingHead
from tests.tiny_models import ENCODERS, SCORERS, save_tiny

if TYPE_CHECKING:
    from tests.shop import Shop

pytest_plugins = ["tests.stores", "tests.llm_fixtures"]
pytest.register_assert_rewrite("tests.shop")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "heat", "alien", "casino", "speed", "drama", "war", "the", "1995"]
DIM = 8
MAX_TOKENS = 16


def tiny_graph(seed: int = 0) -> onnx.ModelProto:
    """A graph with the interface of an exported transformer: embeddings, one mixing layer, masked attention."""
    draw = np.random.default_rng(seed)
    weights = {
        "table": draw.standard_normal((len(WORDS), DIM)).astype(np.float32),
        "mix": draw.standard_normal((DIM, DIM)).astype(np.float32),
        "far": np.array(-1e9, dtype=np.float32),
        "one": np.array(1.0, dtype=np.float32),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("MatMul", ["words", "mix"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["mixed", "turned"], ["affinity"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "far"], ["penalty"]),
        helper.make_node("Unsqueeze", ["penalty", "axis"], ["penalties"]),
        helper.make_node("Add", ["affinity", "penalties"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "mixed"], ["last_hidden_state"]),
    ]
    shape = ["n_texts", "length"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, DIM])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def tiny_head(pooling: str = "mean", **changes: Any) -> EmbeddingHead:
    """What follows `tiny_graph`."""
    plain = EmbeddingHead(
        pooling=pooling,
        stated=True,
        include_prompt=True,
        hidden_size=DIM,
        full_dim=DIM,
        dim=DIM,
        dense=(),
        normalize=True,
    )
    return dataclasses.replace(plain, **changes)


def write_artifact(folder: Path, *, seed: int = 0, around: str = "[CLS] $A [SEP]", **changes: Any) -> ModelArtifact:
    folder.mkdir(parents=True, exist_ok=True)
    graph = tiny_graph(seed)
    graft_head(graph, tiny_head(include_prompt=changes.get("include_prompt", True)), hidden_size=DIM)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if around != "$A":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {
        name: FileRecord((folder / name).stat().st_size, file_sha256(folder / name))
        for name in ("model.onnx", "tokenizer.json")
    }
    described: dict[str, Any] = {
        "kind": "encoder",
        "source": f"tiny-{seed}",
        "revision": "none",
        "architecture": "Tiny",
        "licence": "Apache-2.0",
        "pooling": "mean",
        "normalize": True,
        "max_tokens": MAX_TOKENS,
        "pad_token_id": 0,
        "dim": DIM,
        "precision": "fp32",
        "opset": 18,
        "graph_sha256": graph_sha256(graph),
        "tokenizer_sha256": files["tokenizer.json"].sha256,
        "files": files,
    }
    spec = ArtifactSpec(**{**described, **changes})
    (folder / "artifact.json").write_text(spec.to_json())
    return ModelArtifact.load(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    # Right answers are those of float32; what else runs a model has tests of its own.
    monkeypatch.setenv("LLMFEAT_BACKEND", "onnxruntime-cpu")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return write_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models, by family; tests change copies of them only."""
    folder = tmp_path_factory.mktemp("models")
    return {family: save_tiny(family, folder / family) for family in dict.fromkeys((*ENCODERS, *SCORERS))}


@pytest.fixture(scope="session")
def bert(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """What the tiny BERT is exported to."""
    return export_model(models["bert"], tmp_path_factory.mktemp("bert") / "artifact")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, artifact: ModelArtifact) -> Shop:
    """A catalogue, a log and a trained ranker; tests change copies of their folders only."""
    from tests.shop import make_shop  # loads LightGBM, which most tests do without

    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:  # what every test has, for what is made once for all of them
        patch.setenv("LLMFEAT_CACHE_DIR", str(folder / "cache"))
        patch.setenv("LLMFEAT_BACKEND", "onnxruntime-cpu")
        return make_shop(folder, artifact)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Path:
    """A repository of the shop on SQLite or Redis, applied and materialized; tests do not change it."""
    from tests.shop import serve

    where = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return serve(tmp_path_factory.mktemp("served"), shop, redis=where)


@pytest.fixture
def items() -> pa.Table:
    return pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["heat", "alien", "casino", None],
            "year": [1995, None, 1995, 1994],
            "valid_from": pa.array([0, 0, 0, 0], pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture
def events() -> pa.Table:
    """Two users; u2's two events at 300 s share a moment."""
    return pa.table(
        {
            "user_id": ["u1", "u1", "u2", "u1", "u2", "u2"],
            "item_id": ["a", "b", "a", "c", "c", "b"],
            "timestamp": [10**9 + second for second in (100, 200, 200, 400, 300, 300)],
            "label": [1, 0, 1, 1, 0, 1],
        }
    )


@pytest.fixture
def log(events: pa.Table) -> InteractionLog:
    return InteractionLog.from_frame(events, label="label")


def random_log(seed: int, *, n_events: int = 400, n_users: int = 12, n_items: int = 30, n_times: int = 90) -> pa.Table:
    """Events with many ties in time, unsorted."""
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": draw.integers(0, n_users, n_events),
            "item_id": draw.integers(0, n_items, n_events),
            "timestamp": 10**9 + 700 * draw.integers(0, n_times, n_events),
            "label": draw.integers(0, 2, n_events),
        }
    )
