"""`farzi doctor`: what farzi finds on this machine, and what would make it better."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from farzi.cli._common import DEFAULT_OUTPUT, Output, keep_freed_memory

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Finding", "doctor"]

PACKAGES = ["torch", "numpy", "safetensors", "ibis-framework", "duckdb", "pyarrow"]
EXTRAS = {
    "fetch": ("pooch", "downloading the known datasets"),
    "hf": ("transformers", "Hugging Face models and data"),
    "hub": ("huggingface_hub", "sharing an artifact"),
    "spark": ("pyspark", "event logs too large for one machine"),
    "sweep": ("optuna", "searching over settings"),
    "track": ("tensorboard", "curves in TensorBoard while a run goes on"),
}
MIN_JAVA = 17  # what PySpark 4 asks for


@dataclass(frozen=True)
class Finding:
    """One thing looked for.

    Args:
        name: what.
        found: what was found.
        advice: what to do; empty where all is well.
        needed: whether farzi is worse off without it, or it is for some uses alone.
    """

    name: str
    found: str
    advice: str = ""
    needed: bool = True

    @property
    def mark(self) -> str:
        """A word for the table."""
        return "ok" if not self.advice else "look" if self.needed else "optional"


def doctor(*, output: Output = DEFAULT_OUTPUT) -> None:
    """Show what farzi finds here, and say what to do where something is missing.

    Looks at the versions, the C kernels and their compiler, CUDA, Spark and its Java, the optional
    parts, and the folder of datasets.

    Example:
        farzi doctor
        farzi doctor --json
    """
    findings = [
        Finding("farzi", importlib.metadata.version("farzi")),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        *(Finding(name, _version(name)) for name in PACKAGES),
        Finding("cores", f"{os.cpu_count()}, torch uses {_torch_threads()}"),
        Finding("freed memory", _memory()),
        _compiler(),
        _kernels(),
        _cuda(),
        _java(),
        *(_extra(name) for name in EXTRAS),
        _data_root(),
    ]
    advice = {finding.name: finding.advice for finding in findings if finding.advice}
    output.result(
        {**{finding.name: finding.found for finding in findings}, "advice": advice},
        text=_render(findings),
    )


def _render(findings: list[Finding]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    styles = {"ok": "green", "look": "yellow", "optional": "dim"}
    for finding in findings:
        mark = f"[{styles[finding.mark]}]{finding.mark}[/]"
        words = finding.found if not finding.advice else f"{finding.found}\n→ {finding.advice}"
        table.add_row(finding.name, mark, Text(words))
    return table


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_threads() -> str:
    import torch

    return f"{torch.get_num_threads()} thread(s)"


def _memory() -> str:
    return "kept for the next step" if keep_freed_memory() else "given back (no glibc)"


def _kernels() -> Finding:
    """Whether the C kernels run, which are several times as fast as plain torch."""
    from farzi import native

    status = native.status()
    if status.startswith("compiled"):
        return Finding("kernels", status)
    if "FARZI_NATIVE" in status:
        advice = "unset FARZI_NATIVE: training and distilling on CPU are several times as fast"
    elif "no C compiler" in status:
        advice = "install one (below), or go on: the results are the same, several times slower"
    else:
        status, advice = _first_line(status), "the compiler's words above say why; gcc 9 or later"
    return Finding("kernels", status, advice)


def _compiler() -> Finding:
    path = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if path is None:
        mac = sys.platform == "darwin"
        way = "Xcode's command line tools" if mac else "apt install gcc (or your system's way)"
        return Finding("compiler", "none", f"{way}: brings a C compiler")
    version = _run([path, "--version"])
    return Finding("compiler", f"{_first_line(version)} ({path})")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("cuda", f"{', '.join(names)} (CUDA {torch.version.cuda})")
    if shutil.which("nvidia-smi") is None:
        return Finding("cuda", "no CUDA device")
    if torch.version.cuda is None:
        advice = "install torch for CUDA: https://pytorch.org/get-started"
        return Finding("cuda", "a GPU is here, and this torch is built for CPU alone", advice)
    advice = f"this torch needs a driver for CUDA {torch.version.cuda}; nvidia-smi says what it is"
    return Finding("cuda", "a GPU is here, and torch cannot reach it", advice)


def _java() -> Finding:
    """The Java that Spark runs on: JAVA_HOME's, else that of the path."""
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if path is None:
        advice = f"only `farzi prepare --engine spark` needs it: Java {MIN_JAVA} or later"
        return Finding("java", "none", advice, needed=False)
    if home and not Path(path).is_file():
        return Finding("java", f"none in JAVA_HOME {home}", "set JAVA_HOME right, or unset it")
    said = _run([path, "-version"])
    number = re.search(r'version "(?:1\.)?(\d+)', said)
    found = f"{_first_line(said)} ({path})"
    if number is None or int(number[1]) < MIN_JAVA:
        advice = f"Spark needs Java {MIN_JAVA} or later; set JAVA_HOME to one"
        return Finding("java", found, advice, needed=False)
    return Finding("java", found)


def _extra(name: str) -> Finding:
    module, purpose = EXTRAS[name]
    if importlib.util.find_spec(module) is not None:
        return Finding(name, f"{module} {_version(module)}")
    return Finding(name, "not installed", f"pip install 'farzi[{name}]': {purpose}", needed=False)


def _data_root() -> Finding:
    root = os.environ.get("FARZI_DATA_ROOT")
    if not root:
        advice = "set it to the folder of the datasets that `farzi sources` lists"
        found = "FARZI_DATA_ROOT is not set: only the embedded sources and paths"
        return Finding("data root", found, advice, needed=False)
    if not Path(root).is_dir():
        return Finding("data root", f"{root}: there is no such folder", "set FARZI_DATA_ROOT right")
    return Finding("data root", root)


def _run(command: list[str]) -> str:
    """What a program prints, on either stream; empty where it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
