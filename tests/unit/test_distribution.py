"""What is published: the wheel and the sdist work where nothing else of the project is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import farzi

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, cwd: Path, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("FARZI")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of the tracked files."""
    pytest.importorskip("build", reason="`build` is not installed")
    pytest.importorskip("hatchling", reason="`hatchling` is not installed")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, clone, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


CHANGELOG = "# Changelog\n\n## [0.2.0] - {}\n\n### Added\n\n## [0.1.0] - 2026-01-31\n"
CITATION = "title: farzi\nversion: 0.2.0\n"


def faults(version: str, changelog: str, citation: str, tags: list[str]) -> list[str]:
    """What contradicts CONTRIBUTING's rule for versions; `tags` are those of this commit."""
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    found = []
    for place, heading in enumerate(headings):
        known = re.fullmatch(r"\[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d\d-\d\d)", heading)
        if known is None or (place and known[1] == "unreleased"):
            found.append(f"CHANGELOG.md: heading {heading!r}")
    numbers = [[int(n) for n in re.findall(r"\d+", line.partition(" ")[0])] for line in headings]
    if numbers != sorted(numbers, reverse=True) or len({*map(tuple, numbers)}) < len(numbers):
        found.append("CHANGELOG.md: versions must fall")
    if not headings or not headings[0].startswith(f"[{version}] "):
        found.append(f"CHANGELOG.md: the first heading is not that of {version}")
    if f"\nversion: {version}\n" not in citation:
        found.append(f"CITATION.cff: not of {version}")
    dated = bool(headings) and not headings[0].endswith("unreleased")
    wrong = [tag for tag in tags if tag != f"v{version}" or not dated]
    found += [f"tag {tag}: of another version, or of one without a date" for tag in wrong]
    return found


def test_a_version_is_the_same_everywhere() -> None:
    listed = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "--list", "v*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    changelog, citation = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    assert not faults(farzi.__version__, changelog, citation, listed.stdout.split())


def test_a_version_that_differs_is_found() -> None:
    unreleased, released = CHANGELOG.format("unreleased"), CHANGELOG.format("2026-02-28")
    assert faults("0.2.0", unreleased, CITATION, []) == []
    assert faults("0.2.0", released, CITATION, ["v0.2.0"]) == []
    assert len(faults("0.3.0", released, CITATION, [])) == 2
    assert faults("0.2.0", released, CITATION.replace("0.2.0", "0.1.0"), [])
    assert faults("0.2.0", unreleased, CITATION, ["v0.2.0"])
    assert faults("0.2.0", released, CITATION, ["v0.1.0"])
    assert faults("0.2.0", CHANGELOG.format("soon"), CITATION, [])
    assert faults("0.2.0", released.replace("2026-01-31", "unreleased"), CITATION, [])
    assert faults("0.2.0", released.replace("[0.1.0]", "[0.10.0]"), CITATION, [])


@pytest.mark.slow
def test_a_distribution_has_the_version_of_the_source(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert wheel.name == f"farzi-{farzi.__version__}-py3-none-any.whl"
    assert sdist.name == f"farzi-{farzi.__version__}.tar.gz"


@pytest.mark.slow
def test_what_is_not_code_is_inside(built: tuple[Path, Path]) -> None:
    """Kernel sources, templates and styles, the typing marker, the licence."""
    wheel, sdist = built
    package = Path(farzi.__file__).parent
    others = {
        f"farzi/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert others <= held
    assert any(name.endswith(".c") for name in held)
    assert "farzi/py.typed" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"farzi"}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "README.md", "SECURITY.md", "constraints.txt", "tests/conftest.py"):
        assert name in names
    assert not [name for name in names if name.startswith(("runs", "mutants", ".venv"))]


@pytest.mark.slow
def test_the_wheel_distils_in_a_fresh_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Its requirements are lent by the environment that runs the tests; farzi itself is not."""
    home = tmp_path / "env"
    run(sys.executable, "-m", "venv", home, cwd=tmp_path)
    python = home / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", built[0],
        cwd=tmp_path)  # fmt: skip
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import farzi; print(farzi.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(home)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = home / "bin/farzi"
    doctor = json.loads(run(program, "doctor", "--json", cwd=tmp_path, **cache))
    assert farzi.__version__ in json.dumps(doctor)
    run(
        program, "distill", "stdlib-calls", "--out", "run", "--size", "6x10", "--outer-steps", 1,
        "--inner-steps", 4, "--window", 2, "--set", "teachers.num_runs=1",
        "--set", "teachers.max_epochs=1", "--set", "student.width=8", "--latent-dim", 4,
        cwd=tmp_path, **cache,
    )  # fmt: skip
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    if shutil.which("cc"):
        assert list((tmp_path / "cache/farzi/kernels").rglob("*.so"))
    told = run(program, "train", "run", "--out", "model", "--max-steps", 10, "--json",
               cwd=tmp_path, **cache)  # fmt: skip
    assert json.loads(told)["steps"] > 0
