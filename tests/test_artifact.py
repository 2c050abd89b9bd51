from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from onnx import numpy_helper

from llmfeat import ModelArtifact
from llmfeat._base import verified
from llmfeat._base.files import cache_dir, canonical_json, file_sha256, text_sha256
from llmfeat.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ArtifactPathError,
    ArtifactSchemaError,
    LLMFeatWarning,
)
from llmfeat.export.digest import graph_sha256
from tests.conftest import tiny_graph, write_artifact


def edit(folder, **changes):
    """Change the spec as somebody would who knows of the seal."""
    path = folder / "artifact.json"
    body = {**json.loads(path.read_text()), **changes}
    del body["seal"]
    path.write_text(json.dumps({**body, "seal": text_sha256(canonical_json(body))}))


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


@pytest.mark.parametrize(("schema", "advice"), [(99, "upgrade llmfeat"), (1, "export the model again")])
def test_another_schema(tmp_path, schema, advice):
    folder = write_artifact(tmp_path).path
    edit(folder, schema=schema)
    with pytest.raises(ArtifactSchemaError, match=f"schema {schema}, .*{advice}"):
        ModelArtifact.load(folder)


def test_an_edited_spec(tmp_path):
    folder = write_artifact(tmp_path).path
    edit(folder, max_tokens=3)
    with pytest.raises(ArtifactCorruptError, match="it was edited"):
        ModelArtifact.load(folder)


def test_other_files_with_their_digests_are_an_edit_too(tmp_path):
    """What identifies the vectors stands in the fingerprint, what the files are stands beside it: a seal binds both."""
    folder, other = write_artifact(tmp_path / "one").path, write_artifact(tmp_path / "two", seed=1).path
    body, files = (json.loads((path / "artifact.json").read_text()) for path in (folder, other))
    shutil.copy(other / "model.onnx", folder / "model.onnx")
    body["files"] = files["files"]
    (folder / "artifact.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactCorruptError, match="it was edited"):
        ModelArtifact.load(folder)


def test_bytes_that_are_no_text_in_place_of_the_spec(tmp_path):
    folder = write_artifact(tmp_path).path
    data = (folder / "artifact.json").read_bytes()
    (folder / "artifact.json").write_bytes(data.replace(b"Apache", b"Ap\xffche"))
    with pytest.raises(ArtifactCorruptError, match="it was edited"):
        ModelArtifact.load(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a\0b"])
def test_a_path_that_leaves_the_folder(tmp_path, name):
    folder = write_artifact(tmp_path / "in").path
    files = json.loads((folder / "artifact.json").read_text())["files"]
    edit(folder, files={**files, name: {"size_bytes": 1, "sha256": "0"}})
    with pytest.raises(ArtifactPathError, match="leaves the folder"):
        ModelArtifact.load(folder)


def test_a_link_that_leaves_the_folder(tmp_path):
    folder = write_artifact(tmp_path / "in").path
    (folder / "model.onnx").rename(tmp_path / "model.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(ArtifactPathError, match="leaves the folder"):
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


class TestVerification:
    def test_a_file_is_hashed_once(self, tmp_path, monkeypatch):
        folder = write_artifact(tmp_path).path
        ModelArtifact.load(folder)
        hashed = []

        def counted(path):
            hashed.append(path.name)
            return file_sha256(path)

        monkeypatch.setattr(verified, "file_sha256", counted)
        ModelArtifact.load(folder)
        assert hashed == []
        os.utime(folder / "tokenizer.json", (10**9, 10**9))
        ModelArtifact.load(folder)
        assert hashed == ["tokenizer.json"]

    def test_a_changed_byte_is_found_although_size_and_mtime_were_put_back(self, tmp_path):
        folder = write_artifact(tmp_path).path
        ModelArtifact.load(folder)
        path = folder / "model.onnx"
        before, data = path.stat(), bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ArtifactCorruptError, match="not the file that was exported"):
            ModelArtifact.load(folder)

    def test_a_cache_that_cannot_be_written_or_read_costs_time_only(self, tmp_path, monkeypatch):
        folder = write_artifact(tmp_path / "artifact").path
        in_the_way = tmp_path / "file"
        in_the_way.write_text("no folder")
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(in_the_way))
        assert ModelArtifact.load(folder)

    def test_a_broken_note_is_no_digest(self, tmp_path):
        folder = write_artifact(tmp_path).path
        for note in cache_dir("verified").iterdir():
            note.write_text("[]")
        assert ModelArtifact.load(folder)

    def test_an_artifact_that_was_forced_warns(self, tmp_path):
        with pytest.warns(LLMFeatWarning, match="was written by force: cosine 0.9"):
            write_artifact(tmp_path, parity={"failures": ["cosine 0.9"]})
