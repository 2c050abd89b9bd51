from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import numpy_helper

from llmfeat import ModelArtifact
from llmfeat.errors import ArtifactCorruptError, ArtifactNotFoundError, ArtifactSchemaError
from llmfeat.export.graph import graft_pooling, graph_sha256
from tests.conftest import DIM, tiny_graph, write_artifact


def edit(folder, **changes):
    path = folder / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_exporting_again_or_elsewhere_keeps_the_fingerprint(tmp_path):
    one, two = write_artifact(tmp_path / "one"), write_artifact(tmp_path / "two")
    assert one.fingerprint == two.fingerprint != write_artifact(tmp_path / "three", seed=1).fingerprint


def test_what_was_written_is_what_is_read(artifact):
    assert ModelArtifact.load(str(artifact.path)).spec == artifact.spec


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match="llmfeat export"):
        ModelArtifact.load(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_missing_file(tmp_path, name):
    folder = write_artifact(tmp_path).path
    (folder / name).unlink()
    with pytest.raises(ArtifactNotFoundError, match=f"{name} is missing"):
        ModelArtifact.load(folder)


def test_a_changed_byte_and_a_changed_size(tmp_path):
    folder = write_artifact(tmp_path).path
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match="not the file that was exported"):
        ModelArtifact.load(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(ArtifactCorruptError, match="bytes"):
        ModelArtifact.load(folder)


def test_a_newer_schema(tmp_path):
    folder = write_artifact(tmp_path).path
    edit(folder, schema=99)
    with pytest.raises(ArtifactSchemaError, match="schema 99"):
        ModelArtifact.load(folder)


def test_an_edited_spec(tmp_path):
    folder = write_artifact(tmp_path).path
    edit(folder, max_tokens=3)
    with pytest.raises(ArtifactCorruptError, match="it was edited"):
        ModelArtifact.load(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_path_that_leaves_the_folder(tmp_path, name):
    folder = write_artifact(tmp_path / "in").path
    files = json.loads((folder / "artifact.json").read_text())["files"]
    edit(folder, files={**files, name: {"size_bytes": 1, "sha256": "0"}})
    with pytest.raises(ArtifactCorruptError, match="leaves the folder"):
        ModelArtifact.load(folder)


def test_garbage_in_place_of_the_spec(tmp_path):
    (tmp_path / "artifact.json").write_text("[1]")
    with pytest.raises(ArtifactCorruptError, match=r"is no artifact\.json"):
        ModelArtifact.load(tmp_path)


class TestGraphDigest:
    def test_names_do_not_enter(self):
        graph, renamed = tiny_graph(), tiny_graph()
        for node in renamed.graph.node:
            node.input[:] = ["words2" if name == "words" else name for name in node.input]
            node.output[:] = ["words2" if name == "words" else name for name in node.output]
        renamed.graph.doc_string = "another exporter"
        assert graph_sha256(renamed) == graph_sha256(graph)

    def test_weights_wiring_and_attributes_do(self):
        digests = {graph_sha256(tiny_graph())}
        weights, wiring, attribute = tiny_graph(), tiny_graph(), tiny_graph()
        table = numpy_helper.to_array(weights.graph.initializer[0]).copy()
        table[3, 3] = np.nextafter(table[3, 3], np.float32(9))
        weights.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
        wiring.graph.node[3].input[:] = ["turned", "mixed"]
        attribute.graph.node[9].attribute[0].i = 1
        digests |= {graph_sha256(weights), graph_sha256(wiring), graph_sha256(attribute)}
        assert len(digests) == 4

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_pooling_is_what_torch_would_do(self, pooling):
        import onnxruntime

        plain, pooled = tiny_graph(), tiny_graph()
        graft_pooling(pooled, pooling=pooling, normalize=True, dim=DIM)
        feeds = {"input_ids": np.array([[2, 4, 3], [2, 5, 0]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}

        def run(graph):
            session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
            return session.run(None, feeds)[0]

        hidden = run(plain)
        rows = [hidden[0].mean(axis=0), hidden[1, :2].mean(axis=0)] if pooling == "mean" else list(hidden[:, 0])
        expected = np.stack([row / np.linalg.norm(row) for row in rows])
        np.testing.assert_allclose(run(pooled), expected, rtol=1e-5)
