"""`farzi doctor`: what is missing is named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farzi import cli, native
from farzi.cli import doctor


def test_all_is_said_in_the_table_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    table = capsys.readouterr().out
    for name in ("farzi", "torch", "kernels", "compiler", "cuda", "java", "spark", "data root"):
        assert f"\n{name} " in f"\n{table}"


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("turned off by FARZI_NATIVE=0", "unset FARZI_NATIVE"),
        ("no C compiler found", "install one"),
        ("cc failed: line one\nline two", "gcc 9"),
    ],
)
def test_kernels_that_do_not_run(monkeypatch: pytest.MonkeyPatch, status: str, advice: str) -> None:
    monkeypatch.setattr(native, "status", lambda: status)
    finding = doctor._kernels()
    assert advice in finding.advice
    assert finding.mark == "look"
    assert "\n" not in finding.found


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "C compiler" in doctor._compiler().advice


def test_a_gpu_that_torch_cannot_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.version.cuda", None)
    assert "install torch for CUDA" in doctor._cuda().advice
    monkeypatch.setattr("torch.version.cuda", "12.9")
    assert "driver for CUDA 12.9" in doctor._cuda().advice


@pytest.mark.parametrize(
    ("version", "advised"),
    [('openjdk version "17.0.2"', False), ('java version "1.8.0_401"', True), ("broken", True)],
)
def test_the_java_of_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, advised: bool
) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{version}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    finding = doctor._java()
    assert bool(finding.advice) is advised
    assert finding.mark == ("optional" if advised else "ok")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert "set JAVA_HOME right" in doctor._java().advice


def test_extras_say_how_they_are_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["doctor"]) == 0
    assert "pip install 'farzi[spark]'" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    assert "farzi[track]" in json.loads(capsys.readouterr().out)["advice"]["track"]


def test_a_data_root_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARZI_DATA_ROOT", "/nowhere")
    assert doctor._data_root().mark == "look"
    monkeypatch.delenv("FARZI_DATA_ROOT")
    assert doctor._data_root().mark == "optional"
