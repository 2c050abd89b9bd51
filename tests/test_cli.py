from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from llmfeat import __version__
from llmfeat.cli import doctor
from llmfeat.cli import main as main_module
from llmfeat.cli.main import cli, main
from llmfeat.errors import DownloadError


def test_help_lists_the_commands():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for command in ("demo", "doctor"):
        assert f"  {command} " in result.output


@pytest.mark.parametrize("command", ["demo", "doctor"])
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
