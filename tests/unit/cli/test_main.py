"""The frame around the commands: exit codes, one-line errors, help, output."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from farzi import cli
from farzi.cli import _common
from farzi.errors import ArtifactError, DataError, SettingsError

WRITTEN = [name for name in cli.COMMANDS if importlib.util.find_spec(f"farzi.cli.{name}")]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Register a command `probe` that does what a test tells it to."""
    module = ModuleType("farzi.cli.probe")

    def probe(
        source: str,
        /,
        *,
        inner_steps: int = 1,
        split_seed: _common.SplitSeeds = (0,),
        device: _common.Device = "auto",
        output: _common.Output = _common.DEFAULT_OUTPUT,
    ) -> int | None:
        """Probe a source.

        Example:
            farzi probe ml-100k
        """
        module.called_with = (source, inner_steps, split_seed, device, output)
        return module.action(output)

    module.probe = probe
    module.action = lambda output: None
    monkeypatch.setitem(cli.COMMANDS, "probe", "Probe a source.")
    monkeypatch.setitem(sys.modules, "farzi.cli.probe", module)
    return module


def fail_with(error: BaseException):
    def action(output: _common.Output) -> None:
        raise error

    return action


def test_the_module_is_the_program() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "farzi", "--version"], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == importlib.import_module("farzi").__version__


@pytest.mark.parametrize("name", WRITTEN)
def test_every_command_has_a_help_page_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"farzi {name}" in page.partition("Example:")[2]
    assert "--json" in page
    assert cli.COMMANDS[name].removesuffix(".") in " ".join(page.split())


def test_shared_flags_reach_the_command(probe: ModuleType) -> None:
    arguments = ["probe", "x", "--split-seed", "0", "1", "2", "--device", "cpu", "--json", "-qv"]
    assert cli.main(arguments) == 0
    output = _common.Output(json=True, quiet=True, verbose=True)
    assert probe.called_with == ("x", 1, (0, 1, 2), "cpu", output)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda output: None, 0),
        (lambda output: _common.EXIT_STOPPED, 75),
        (fail_with(DataError("log.csv: row 3: no time")), 1),
        (fail_with(ArtifactError("farzi.json: `recipe` is missing")), 1),
        (fail_with(SettingsError("--size 5y5: expected SEQUENCESxLENGTH")), 2),
        (fail_with(ValueError("`inner_steps` must be an int >= 1, got 0.")), 2),
        (fail_with(ValueError("not about an argument")), 1),
        (fail_with(FileNotFoundError(2, "No such file or directory", "log.csv")), 1),
        (fail_with(ZeroDivisionError("division\nby zero")), 1),
        (fail_with(KeyboardInterrupt()), 130),
    ],
)
def test_exit_codes(
    probe: ModuleType, action, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.action = action
    assert cli.main(["probe", "x"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == (0 if code in (0, 75) else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["probe", "x", "--inner-step", "3"], ["--inner-step.", "--inner-steps"]),
        (["probe", "x", "--devise=cpu"], ["--devise", "--device"]),
        (["probe", "x", "--inner-steps", "many"], ["--inner-steps", "many"]),
        (["probe", "x", "--device", "gpu"], ["--device", "gpu", "cuda"]),
        (["probe"], ["SOURCE"]),
        (["prob", "x"], ["prob", "probe"]),
        (["--jsn"], ["--jsn"]),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(
    probe: ModuleType, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for word in words:
        assert word in line


def test_an_argument_error_names_the_flag(
    probe: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.action = fail_with(ValueError("`inner_steps` must be an int >= 1, got 0."))
    cli.main(["probe", "x"])
    assert capsys.readouterr().err == "farzi: --inner-steps must be an int >= 1, got 0.\n"


def test_traceback_shows_the_rest(probe: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    probe.action = fail_with(DataError("log.csv: empty"))
    cli.main(["probe", "x", "--traceback"])
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed
    assert printed.endswith("farzi: log.csv: empty\n")


def test_a_result_is_text_or_one_json_object(
    probe: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = {"ndcg@10": 0.25, "ratio": float("inf"), "draws": (1, float("nan"))}
    probe.action = lambda output: output.result(payload, text="nDCG@10 0.25")
    cli.main(["probe", "x"])
    assert capsys.readouterr().out == "nDCG@10 0.25\n"
    cli.main(["probe", "x", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"ndcg@10": 0.25, "ratio": None, "draws": [1, None]}


def test_json_with_a_file_writes_it_and_prints_the_text(
    probe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe.action = lambda output: output.result({"ndcg@10": 0.25}, text="nDCG@10 0.25")
    file = tmp_path / "out.json"
    assert cli.main(["probe", "x", "--json", str(file), "-q"]) == 0
    assert capsys.readouterr().out == "nDCG@10 0.25\n"
    assert json.loads(file.read_text()) == {"ndcg@10": 0.25}
    assert list(tmp_path.iterdir()) == [file]


def test_the_time_left_is_that_of_the_stage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 100.0, 102.0, 104.0, 130.0, 140.0])
    monkeypatch.setattr(_common.time, "monotonic", lambda: next(clock))
    lines = _common._ProgressLines("distil", "steps", interval_s=0.0)
    for done, total in ((6, 6), (1, 4), (2, 4), (11, 20), (12, 20)):
        lines(done, total)
    left = [line.rpartition(", ")[2] for line in capsys.readouterr().err.splitlines()]
    assert left == ["0 s left", "6 s left", "4 s left", "234 s left", "144 s left"]


def test_a_task_may_tell_the_time_left_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with _common.Output().progress("runs", unit="cells", time_left=False) as progress:
        progress(2, 2, "about 3 h left")
    assert capsys.readouterr().err == "runs: 2/2 cells (100%), about 3 h left\n"


def test_progress_is_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with _common.Output().progress("unrolling") as progress:
        progress(1, 200)
        progress(200, 200, "loss 0.5")
    assert capsys.readouterr().err == "unrolling: 200/200 steps (100%), 0 s left, loss 0.5\n"


def test_quiet_leaves_only_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    output = _common.Output(quiet=True, verbose=True)
    with output.progress("unrolling") as progress:
        progress(200, 200)
    output.say("one")
    output.detail("two")
    output.result({}, text="three")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("three\n", "")


def test_the_reader_of_the_output_may_leave() -> None:
    child = subprocess.run(
        f"{sys.executable} -m farzi doctor | true", shell=True, capture_output=True, check=False
    )
    assert child.stderr == b""


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _common.choose_device("auto")[0].type == "cpu"
    with pytest.raises(SettingsError, match="`device` cuda"):
        _common.choose_device("cuda")


def test_glibc_takes_the_thresholds() -> None:
    code = (
        "import platform, resource\n"
        "from farzi.cli._common import keep_freed_memory\n"
        "took = keep_freed_memory()\n"
        "assert took == (platform.libc_ver()[0] == 'glibc')\n"
        "bytearray(64 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): bytearray(b'x') * (64 << 20)\n"
        "faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults if took else 0)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages = (64 << 20) // 4096
    assert int(child.stdout) < 3 * pages  # ten passes over one block, not over ten


def test_doctor_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["farzi"] == importlib.import_module("farzi").__version__
    assert found["torch"].startswith("2.")


def test_the_environment_gives_shared_flags_and_a_flag_goes_before_it(
    probe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARZI_SPLIT_SEED", "3")
    monkeypatch.setenv("FARZI_DEVICE", "cpu")
    monkeypatch.setenv("FARZI_QUIET", "1")
    assert cli.main(["probe", "ml-100k"]) == 0
    _, _, split_seed, device, output = probe.called_with
    assert (tuple(split_seed), device, output.quiet) == ((3,), "cpu", True)
    assert cli.main(["probe", "ml-100k", "--split-seed", "1", "2"]) == 0
    assert tuple(probe.called_with[2]) == (1, 2)


def test_quiet_from_the_environment_keeps_the_log_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value, said in (("", "told\n"), ("1", "")):
        monkeypatch.setenv("FARZI_QUIET", value)
        with _common.log_to_stderr(["train", "ml-100k"]):
            logging.getLogger("farzi").info("told")
        assert capsys.readouterr().err == said


def test_a_shell_learns_every_command_and_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "completion"
    words = ["--install-completion", "--shell", "bash", "--output", str(script)]
    assert cli.main(words) == 0
    text = script.read_text()
    for flag in ("sweep", "--vary", "--outer-steps", "--grid-lr"):
        assert flag in text
    said = subprocess.run(
        ["bash", "-c", f"source {script} && complete -p farzi"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "farzi" in said.stdout
