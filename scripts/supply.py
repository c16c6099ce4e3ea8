"""What farzi is made of, and whether that holds: versions, vulnerabilities, an SBOM.

    python scripts/supply.py audit     known vulnerabilities of the pinned versions (pip-audit)
    python scripts/supply.py sbom      dist/farzi.cdx.json: a CycloneDX list of all components
    python scripts/supply.py compat    the tests with the lowest versions that pyproject.toml
                                       allows, then with the newest there are

The tools have an environment of their own, build/tools; what cannot be had without a network is
skipped, and why is said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
TOOLS = {"audit": "pip-audit", "sbom": "cyclonedx-bom", "compat": "uv"}
EXTRAS = "hf,hub,track"
TEST_TOOLS = ["pytest", "hypothesis", "scipy", "scikit-learn", "polars", "matplotlib"]
TESTS = ["tests/unit", "tests/properties", "tests/recipes"]
NO_NETWORK = (
    "ConnectionError", "Max retries", "Name or service not known", "Temporary failure",
    "No route", "403 Client Error", "ProxyError", "ServiceError", "timed out",
)  # fmt: skip


class Skipped(Exception):
    """What was asked for cannot be had here."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=TOOLS)
    parser.add_argument("--tests", nargs="+", default=TESTS, help="what `compat` runs")
    parser.add_argument("--only", choices=["lowest", "newest"], help="of `compat`")
    asked = parser.parse_args()
    try:
        if asked.what == "audit":
            return audit()
        if asked.what == "sbom":
            return sbom()
        kinds = [asked.only] if asked.only else ["lowest", "newest"]
        return max(compat(kind, asked.tests) for kind in kinds)
    except Skipped as reason:
        print(f"[{asked.what}] skipped: {reason}")
        return 0


def tool(name: str) -> Path:
    """The folder of programs that has the tool, installed where it is missing."""
    programs = BUILD / "tools" / "bin"
    if not (programs / "python").exists():
        venv.create(BUILD / "tools", with_pip=True)
    package = TOOLS[name]
    known = run([programs / "python", "-m", "pip", "show", "--quiet", package])
    if known.returncode:
        install = [programs / "python", "-m", "pip", "install", "--quiet", package]
        if (done := run(install)).returncode:
            raise Skipped(f"{package} cannot be installed ({last_line(done)})")
    return programs


def audit() -> int:
    """Look every pinned version up among the known vulnerabilities."""
    command = [tool("audit") / "pip-audit", "--requirement", ROOT / "constraints.txt"]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = run(command)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(sign in done.stderr for sign in NO_NETWORK):
            raise Skipped(f"the vulnerability service is not reached ({last_line(done)})") from None
        print(done.stderr, file=sys.stderr)
        return 1
    hit = [each for each in found if each.get("vulns")]
    for each in hit:
        names = ", ".join(vulnerability["id"] for vulnerability in each["vulns"])
        print(f"[audit] {each['name']} {each['version']}: {names}")
    print(f"[audit] {len(found)} pinned packages, {len(hit)} with known vulnerabilities")
    return 1 if hit else 0


def sbom() -> int:
    """Write what the environment of this Python holds as CycloneDX."""
    out = ROOT / "dist" / "farzi.cdx.json"
    out.parent.mkdir(exist_ok=True)
    command = [tool("sbom") / "cyclonedx-py", "environment", sys.executable]
    command += ["--pyproject", ROOT / "pyproject.toml", "--output-reproducible"]
    done = run([*command, "--output-format", "JSON", "--output-file", out])
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return 1
    found = json.loads(out.read_text())
    print(f"[sbom] {out.relative_to(ROOT)}: {len(found['components'])} components")
    return 0


def compat(kind: str, tests: list[str]) -> int:
    """Install farzi with the lowest or the newest versions of its dependencies, and test it."""
    uv = tool("compat") / "uv"
    place = BUILD / "compat" / kind
    resolution = {"lowest": "lowest-direct", "newest": "highest"}[kind]
    made = run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, place])
    if made.returncode:
        raise Skipped(last_line(made))
    python = place / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", python]
    farzi = [*install, "--resolution", resolution, f"{ROOT}[{EXTRAS}]"]
    if (done := run(farzi)).returncode:
        if any(sign in done.stderr for sign in (*NO_NETWORK, "Failed to fetch", "error sending")):
            raise Skipped(f"the package index is not reached ({last_line(done)})")
        print(done.stderr, file=sys.stderr)
        return 1
    if (done := run([*install, *TEST_TOOLS])).returncode:
        raise Skipped(last_line(done))
    listed = json.loads(run([uv, "pip", "list", "--python", python, "--format", "json"]).stdout)
    versions = {each["name"]: each["version"] for each in listed}
    direct = [name for name in direct_names() if name in versions]
    print(f"[compat] {kind}: " + ", ".join(f"{name} {versions[name]}" for name in direct))
    with tempfile.TemporaryDirectory() as folder:  # farzi as installed, not that of the checkout
        command = [python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
        command += ["--rootdir", ROOT, "-c", ROOT / "pyproject.toml", "--basetemp", f"{folder}/t"]
        # Warnings of other versions than the pinned ones are theirs, not faults of ours.
        command += ["-W", "default", *(ROOT / test for test in tests)]
        code = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
    print(f"[compat] {kind}: {'passed' if code == 0 else 'FAILED'}")
    return code


def direct_names() -> list[str]:
    """The dependencies that pyproject.toml names, without their versions and extras."""
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"]]
    lists += [project["optional-dependencies"][name] for name in EXTRAS.split(",")]
    return [re.split(r"[\[<>=~!; ]", each)[0].lower() for names in lists for each in names]


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    parts = [str(part) for part in command]
    return subprocess.run(parts, capture_output=True, text=True, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"exit {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
