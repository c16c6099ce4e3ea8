"""README's lines of shell and of Python, run as they stand in a fresh clone.

What they read is the standard library of the Python that runs them. Here it is a smaller one, a
dozen modules of it: every line, setting and file is as typed, and the runs, whose length at full
size is what `make demo` and `benchmarks/first_quarter_hour.py` show, take a fraction of the time.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from farzi.cli import COMMANDS, flags_of

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The code after `<!-- run:NAME -->`."""
    found = re.search(rf"<!-- run:{name} -->\n\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no code after run:{name}"
    return found[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files as a clone has them, with the environment that runs these tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    folder = tmp_path / "farzi"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
            os.utime(folder / name, (0, 0))  # older than the environment: make has nothing to do
    (folder / ".venv").symlink_to(sys.prefix)
    if not (folder / ".venv/.installed").exists():
        pytest.skip("the tests' own environment was not made by make")
    return folder


MODULES = ("asyncio", "email", "http", "logging", "urllib")
FILES = ("_pyio", "gzip", "mailbox", "subprocess", "tarfile", "tempfile", "zipfile")
SITE = """\
import sysconfig

whole = sysconfig.get_path
sysconfig.get_path = lambda name, *rest, **more: (
    {stdlib!r} if name == "stdlib" else whole(name, *rest, **more)
)
"""


def environment(clone: Path) -> dict[str, str]:
    """The caller's, with the clone's code and a smaller standard library to read."""
    here, site = Path(sysconfig.get_path("stdlib")), clone.parent / "site"
    stdlib = site / "stdlib"
    for name in MODULES:
        shutil.copytree(here / name, stdlib / name)
    for name in FILES:
        shutil.copy(here / f"{name}.py", stdlib)
    (site / "sitecustomize.py").write_text(SITE.format(stdlib=str(stdlib)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FARZI_")}
    return {**kept, "PYTHONPATH": f"{site}:{clone / 'src'}", "OMP_NUM_THREADS": "1"}


def test_they_are_ten_lines_each() -> None:
    for name in ("shell", "python"):
        assert len([line for line in block(name).splitlines() if line]) <= 10


def test_every_command_that_readme_names_has_its_flags() -> None:
    fenced = "\n".join(re.findall(r"```\w*\n(.*?)```", README, re.DOTALL))
    typed = re.findall(r"^farzi ([a-z]+)(.*)$", fenced, re.MULTILINE)
    typed += re.findall(r"(?<!`)`farzi ([a-z]+)([^`]*)`(?!`)", README)
    assert len(typed) > 8
    for command, flags in typed:
        assert command in COMMANDS, command
        named = re.findall(r"(?<![\w-])--[a-z][a-z-]*", flags)
        assert set(named) <= flags_of(command), (command, named)


def test_what_is_timed_is_what_is_written() -> None:
    spec = importlib.util.spec_from_file_location(
        "timed", ROOT / "benchmarks/first_quarter_hour.py"
    )
    timed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timed)
    written = README + (ROOT / "docs/use.md").read_text()
    assert len(timed.STEPS) == 3
    for command in timed.STEPS.values():
        assert command.replace("runs/mine", "runs/ml-100k") in written or command in written


@pytest.mark.slow
def test_the_shell_runs_as_typed(clone: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block("shell")],
        cwd=clone,
        env=environment(clone),
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (clone / "runs/calls/report.html").is_file()
    assert (clone / "models/calls/weights.safetensors").is_file()
    assert "nDCG@10" in done.stdout


@pytest.mark.slow
def test_the_python_runs_as_typed(clone: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=clone,
        env=environment(clone),
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nDCG@10" in done.stdout
