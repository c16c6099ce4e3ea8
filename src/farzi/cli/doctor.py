"""`farzi doctor`: what farzi finds on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from farzi.cli._common import DEFAULT_OUTPUT, Output, keep_freed_memory

__all__ = ["doctor"]

PACKAGES = ["torch", "numpy", "safetensors", "ibis-framework", "duckdb", "pyarrow"]


def doctor(*, output: Output = DEFAULT_OUTPUT) -> None:
    """Show the versions, devices and settings that farzi finds here.

    Example:
        farzi doctor --json
    """
    findings = {
        "farzi": importlib.metadata.version("farzi"),
        "python": f"{platform.python_version()} ({sys.executable})",
        **{name: _version(name) for name in PACKAGES},
        "cores": f"{os.cpu_count()}, torch uses {_torch_threads()}",
        "cuda": _cuda(),
        "freed memory": "kept for the next step"
        if keep_freed_memory()
        else "given back (no glibc)",
        "compiler": _compiler(),
        "data root": _data_root(),
    }
    width = max(map(len, findings))
    output.result(
        findings, text="\n".join(f"{name:{width}}  {found}" for name, found in findings.items())
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_threads() -> str:
    import torch

    return f"{torch.get_num_threads()} thread(s)"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})"


def _compiler() -> str:
    path = shutil.which(os.environ.get("CC", "cc"))
    if path is None:
        return "none"
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{version.stdout.partition(chr(10))[0]} ({path})"


def _data_root() -> str:
    root = os.environ.get("FARZI_DATA_ROOT")
    if not root:
        return "FARZI_DATA_ROOT is not set: only the embedded sources and paths"
    return root if Path(root).is_dir() else f"{root} (there is no such folder)"
