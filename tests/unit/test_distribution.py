"""What is published: the wheel and the sdist work where nothing else of the project is."""

from __future__ import annotations

import json
import os
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


def test_the_citation_names_this_version() -> None:
    assert f"version: {farzi.__version__}\n" in (ROOT / "CITATION.cff").read_text()


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
