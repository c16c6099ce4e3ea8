"""SIGTERM and SIGINT end every command within seconds, wherever it is, and leave no draft."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from farzi.cli import _common, main
from toy import ended_by, write_log

SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)


@SIGNALS
def test_a_long_query_is_interrupted(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """However few cores there are, though the handler is Python's and DuckDB is at work."""
    import duckdb

    from farzi.data.interrupts import interrupted_by_signals

    began = time.monotonic()
    with _common.error_boundary() as outcome, _common.ended_by_signals():
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
        with duckdb.connect() as connection, interrupted_by_signals(connection.interrupt):
            connection.execute("SELECT count(*) FROM range(1000000) a, range(1000000) b").fetchall()
    assert outcome.code == code
    assert time.monotonic() - began < 30  # a second on an idle machine, and hours to its end
    said = capsys.readouterr().err
    assert said in ("stopped by SIGTERM; run it again\n", "interrupted\n")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _ask_oneself_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)


def test_a_listener_leaves_nothing_behind_and_yields_to_another() -> None:
    from farzi.data.interrupts import interrupted_by_signals

    called: list[str] = []
    before = _open_files(), threading.active_count()
    with interrupted_by_signals(lambda: called.append("outer")):
        with interrupted_by_signals(lambda: called.append("inner")):
            pass  # the outer one reads the signals already
        # A shell without job control starts what runs in its background with SIGINT ignored.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                _ask_oneself_to_stop()
        finally:
            signal.signal(signal.SIGINT, handler)
    assert called == ["outer"]
    assert (_open_files(), threading.active_count()) == before
    assert signal.set_wakeup_fd(-1) == -1


@SIGNALS
def test_a_draft_does_not_stay(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while a file of the prepared folder is written."""
    from farzi.data.sequences import Sequences

    log = write_log(tmp_path / "log.tsv")

    def slow(self: Sequences, path: Path) -> None:
        Path(f"{path}.tokens.npy").write_text("half")
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(Sequences, "save", slow)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["prepare", str(log), "--out", str(tmp_path / "out"), "-q"]) == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in tmp_path.iterdir()] == ["log.tsv"]


@SIGNALS
def test_a_signal_waits_for_an_import_to_end(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the middle of `import torch` can end the process with SIGABRT."""
    (tmp_path / "heavy.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\nloaded = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = signal.getsignal(number)
    with _common.error_boundary() as outcome, _common.ended_by_signals():
        importlib.import_module("heavy")
        time.sleep(30)
    assert outcome.code == code
    assert sys.modules.pop("heavy").loaded
    assert signal.getsignal(number) is before


def test_a_signal_does_not_wait_for_an_import_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(signal.SIGTERM)})\ntime.sleep(30)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_common, "IMPORT_SECONDS", 0.3)
    began = time.monotonic()
    with _common.error_boundary() as outcome, _common.ended_by_signals():
        importlib.import_module("endless")
    assert outcome.code == 75
    assert time.monotonic() - began < 15


@pytest.mark.slow
@SIGNALS
@pytest.mark.parametrize("command", ["distill", "train", "compare"])
def test_while_libraries_are_loaded(
    command: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """The first seconds of a command go into `import torch`."""
    write_log(tmp_path / "log.tsv")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from farzi.cli import main\n"
        "class Say:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch.nn':\n"
        "            print('loading', flush=True)\n"
        "sys.meta_path.insert(0, Say())\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [command, str(tmp_path / "log.tsv")]
    if command == "compare":
        arguments += ["--artifact", str(tmp_path / "none")]
    else:
        arguments += ["--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "loading\n"
        said = ended_by(running, number, code)
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.tsv", "run.py"]
