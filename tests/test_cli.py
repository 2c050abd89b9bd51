from __future__ import annotations

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from llmfeat import ModelArtifact, __version__
from llmfeat.cli import doctor
from llmfeat.cli import main as main_module
from llmfeat.cli.export import read_texts
from llmfeat.cli.main import cli, main
from llmfeat.errors import DownloadError, EmptyInputError, MissingColumnError
from tests.tiny_models import save_tiny


def test_help_lists_the_commands():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for command in ("demo", "doctor", "export", "inspect"):
        assert f"  {command} " in result.output


@pytest.mark.parametrize("command", ["demo", "doctor", "export", "inspect"])
def test_every_command_has_help(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


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
    monkeypatch.setattr(doctor, "Path", lambda _: path)
    assert doctor.instruction_sets() == ["AMX", "AMX-BF16", "AVX-512", "AVX2"]


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
