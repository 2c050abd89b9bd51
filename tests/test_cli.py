from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from llmfeat import ModelArtifact, TextEncoder, VectorTable, __version__
from llmfeat._base import machine
from llmfeat.cli import doctor
from llmfeat.cli import main as main_module
from llmfeat.cli.export import read_texts
from llmfeat.cli.main import cli, main
from llmfeat.errors import DownloadError, EmptyInputError, MissingColumnError
from tests.conftest import write_artifact
from tests.tiny_models import save_tiny

COMMANDS = (
    "cache",
    "certify",
    "demo",
    "doctor",
    "encode",
    "export",
    "inspect",
    "lift",
    "materialize",
    "store",
    "zeroshot",
)


def test_help_lists_the_commands():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "\\b" not in result.output


def test_version_and_unknown_commands():
    assert __version__ in CliRunner().invoke(cli, ["--version"]).output
    result = CliRunner().invoke(cli, ["lfit"])
    assert result.exit_code == 2
    assert "No such command 'lfit'" in result.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from llmfeat.cli.main import cli; cli(['--help'], standalone_mode=False); "
        "print([name for name in ('numpy', 'pyarrow', 'sklearn', 'feast', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_doctor_says_what_is_here():
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "CPUExecutionProvider" in result.output
    assert "cores" in result.output
    assert "nothing to mend" in result.output


def test_doctor_finds_both_onnxruntimes(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in result.output
    monkeypatch.setattr(doctor, "installed", dict)
    assert "there is nothing to encode with" in CliRunner().invoke(cli, ["doctor"]).output


def test_instruction_sets_are_read_from_cpuinfo(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags : fpu avx2 avx512f amx_tile amx_bf16\n")
    monkeypatch.setattr(machine, "Path", lambda _: path)
    assert machine.instruction_sets() == ["AMX", "AMX-BF16", "AVX-512", "AVX2"]


def test_an_error_of_ours_is_a_message_and_status_1(monkeypatch, capsys):
    def fail() -> None:
        raise DownloadError("no network: [check] it")

    monkeypatch.setattr(main_module, "cli", fail)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "no network: [check] it" in said
    assert "Traceback" not in said


class TestExportAndInspect:
    pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        return save_tiny("bert", tmp_path_factory.mktemp("model") / "bert")

    def test_the_way_from_a_model_to_a_table(self, model, tmp_path):
        out = tmp_path / "artifact"
        made = CliRunner().invoke(cli, ["export", str(model), "--out", str(out), "--max-tokens", "100", "--dim", "8"])
        assert made.exit_code == 0, made.output
        assert re.search(r"encoder, 8 dimensions, fp32, \d+\.\d MB, fingerprint [0-9a-f]{12}", made.stdout)
        assert "cosine at least 1.0" in made.stderr
        shown = CliRunner().invoke(cli, ["inspect", str(out)])
        assert shown.exit_code == 0
        for said in (
            "8 dimensions, mean pooling, unit length",
            "passed",
            "at least 0.99999",
            "the same bits",
            "unknown",
        ):
            assert said in shown.stdout
        body = json.loads(CliRunner().invoke(cli, ["inspect", str(out), "--json"]).stdout)
        assert (body["max_tokens"], body["dim"]) == (100, 8)
        assert body["fingerprint"] == ModelArtifact.load(out).fingerprint

    def test_a_scorer_is_shown_too(self, tmp_path):
        model, out = save_tiny("qwen3", tmp_path / "model"), tmp_path / "artifact"
        made = CliRunner().invoke(cli, ["export", str(model), "--kind", "scorer", "--out", str(out)])
        assert made.exit_code == 0, made.output
        shown = CliRunner().invoke(cli, ["inspect", str(out)]).stdout
        for said in ("chat template no", "with the cache", "nats", "left or right padding"):
            assert said in shown

    def test_calibration_texts_of_a_file(self, model, tmp_path):
        (tmp_path / "texts.txt").write_text("steel bottle\n\nwooden desk, oak\n")
        pq.write_table(pa.table({"text": ["steel bottle", None, " ", "wooden desk, oak"]}), tmp_path / "texts.parquet")
        (tmp_path / "empty.txt").write_text("\n\n")
        assert read_texts(tmp_path / "texts.txt") == read_texts(tmp_path / "texts.parquet")
        with pytest.raises(EmptyInputError, match="holds no text"):
            read_texts(tmp_path / "empty.txt")
        pq.write_table(pa.table({"title": ["x"]}), tmp_path / "other.parquet")
        with pytest.raises(MissingColumnError, match="'text'"):
            read_texts(tmp_path / "other.parquet")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["export", "nothing", "--out", "x"], "is no model"),
            (["export", "bundled:minilm", "--precision", "int8-dynamic", "--out", "x"], "depends on its neighbours"),
            (["inspect", "nothing"], "llmfeat export MODEL --out DIR"),
        ],
    )
    def test_errors_are_messages(self, monkeypatch, capsys, tmp_path, arguments, said):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["llmfeat", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert said in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


class TestEncode:
    @pytest.fixture(autouse=True)
    def _quiet(self, monkeypatch, tmp_path, items):
        monkeypatch.chdir(tmp_path)
        pq.write_table(items, "items.parquet")

    def run(self, artifact, *arguments):
        command = ["encode", "items.parquet", "--artifact", str(artifact.path), "--out", "t", "--text", "title"]
        return CliRunner().invoke(cli, [*command, "--valid-from", "valid_from", *arguments])

    def vectors(self, artifact):
        """What a table of the three titles and of one without holds."""
        return (
            np.vstack([TextEncoder(artifact).encode(["heat", "alien", "casino"]), [[np.nan] * 8]])
            .astype("f4")
            .tobytes()
        )

    def test_one_json_object_on_standard_output(self, artifact):
        result = self.run(artifact, "--json")
        body = json.loads(result.stdout)
        assert {name: body[name] for name in ("new", "changed", "unchanged", "deleted", "missing", "failed")} == {
            "new": 4,
            "changed": 0,
            "unchanged": 0,
            "deleted": 0,
            "missing": 1,
            "failed": 0,
        }
        assert body["tokens"] == 9
        assert body["seconds"] > 0
        assert body["texts_per_s"] > 0
        assert json.loads(self.run(artifact, "--json").stdout)["unchanged"] == 4

    def test_words_for_people(self, artifact):
        result = self.run(artifact)
        assert "t: 4 new, 0 changed, 0 unchanged, 0 deleted, 1 without text\n9 tokens in " in result.stdout
        assert "with onnxruntime-cpu" in result.stdout

    def test_a_plan_writes_nothing(self, artifact, tmp_path):
        result = self.run(artifact, "--plan")
        assert "3 texts of 9 tokens, about 0.0 minutes with onnxruntime-cpu; nothing was written" in result.stdout
        assert not (tmp_path / "t").exists()
        assert self.run(artifact, "--plan", "--prune").exit_code == 2

    def test_bounded_then_pruned(self, artifact, tmp_path):
        assert json.loads(self.run(artifact, "--json", "--max-texts", "2").stdout)["remaining"] == 2
        other = write_artifact(tmp_path / "other", seed=1)
        self.run(artifact)
        assert "pruned" not in self.run(other, "--max-texts", "1", "--prune").stdout
        assert VectorTable.open("t").vectors.tobytes() == self.vectors(artifact)
        result = self.run(other, "--prune")
        assert "pruned 1 generations" in result.stdout
        assert len(VectorTable.open("t")) == 4

    def test_the_cache_spares_a_second_table(self, artifact):
        self.run(artifact)
        assert json.loads(self.run(artifact, "--out", "u", "--json").stdout)["cached"] == 3
        assert json.loads(self.run(artifact, "--out", "v", "--json", "--no-cache").stdout)["cached"] == 0

    def test_a_template_file(self, artifact, tmp_path):
        (tmp_path / "item.toml").write_text('[item]\ntemplate = "{title:1}[ {year}]"\n')
        command = ["encode", "items.parquet", "--artifact", str(artifact.path), "--out", "t"]
        result = CliRunner().invoke(cli, [*command, "--template", "item.toml", "--valid-from", "valid_from"])
        assert "4 new" in result.stdout
        expected = TextEncoder(artifact).encode(["heat 1995"])
        assert VectorTable.open("t").lookup(["a"]).tobytes() == expected.tobytes()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ([], "neither --text nor --template came"),
            (["--text", "name", "--valid-from", "valid_from"], "'name'"),
            (["--text", "title", "--id", "sku"], "'sku'"),
            (["--text", "title", "--backend", "onnx"], "backend='onnx'"),
        ],
    )
    def test_errors_say_what_to_do(self, monkeypatch, capsys, artifact, changes, said):
        command = ["llmfeat", "encode", "items.parquet", "--artifact", str(artifact.path), "--out", "t", *changes]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert said in capsys.readouterr().err


class TestCertify:
    def test_what_is_found_is_printed_and_kept(self, artifact, tmp_path):
        pytest.importorskip("openvino")
        copy = shutil.copytree(artifact.path, tmp_path / "copy")
        result = CliRunner().invoke(cli, ["certify", str(copy), "--backend", "openvino-f32"])
        assert "cosine min 1.000000" in result.stdout
        assert "alone and in a batch the same bits" in result.stdout
        body = json.loads(CliRunner().invoke(cli, ["certify", str(copy), "--backend", "openvino-f32", "--json"]).stdout)
        assert ModelArtifact.load(copy).spec.parity["numerics"] == body
