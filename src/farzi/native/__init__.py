"""The C kernels: compiled once with the system's compiler, loaded from the user's cache.

Where there is no C compiler, or the tensors are not float32 on CPU, `kernels_for` returns None and
callers take their plain torch path, which gives the same results within rounding. Set the
environment variable FARZI_NATIVE=0 to do without. Why the kernels are not used is logged once, and
`status` says it.

A library is code that runs with all of the user's rights. It is loaded only from a folder of the
user's own that no one else may write to, only if it is a plain file of the same owner, and only if
the hash that was written with it still fits; else it is compiled anew.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Kernels", "in_use", "kernels_for", "source", "status"]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")

SOURCES = ("products", "soft_head", "soft_targets", "elementwise", "attention", "block", "adam")
"""Files of `kernels/`: each may use what comes before it."""

_MARK = b"farzi kernels, sha256 of what stands before this: "

_logger = logging.getLogger("farzi.native")

Argument: TypeAlias = Tensor | tuple[Tensor, ...] | int | float | None


class Kernels:
    """The compiled functions, on tensors. Every tensor is float32 on CPU.

    Args:
        library: what `source` was compiled to.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._functions: dict[str, Any] = {}

    def product(self, A: Tensor, B: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """A B into `out`, or added to it. Rows of B and `out` are contiguous; A may be strided."""
        sizes = *out.shape, B.shape[0]
        strides = A.stride(0), A.stride(1), B.stride(0), out.stride(0)
        self.run("matrix_product", *sizes, A, B, out, *strides, int(add))
        return out

    def count(self, name: str, *arguments: int) -> int:
        """What the function `name` returns, a count, for `arguments`."""
        function = getattr(self._library, name)
        function.restype = ctypes.c_long
        return int(function(*map(ctypes.c_long, arguments)))

    def run(self, name: str, *arguments: Argument) -> None:
        """Call the function `name` with the thread count and `arguments`, tensors contiguous.

        Every call of one function has arguments of the same kinds, None standing for a tensor.
        """
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, name)
            function.argtypes = [ctypes.c_long, *map(_kind, arguments)]
        if function(
            torch.get_num_threads(),
            *[x.data_ptr() if isinstance(x, Tensor) else _argument(x) for x in arguments],
        ):
            raise MemoryError(f"the kernel {name} could not allocate its working memory.")


def kernels_for(*tensors: Tensor) -> Kernels | None:
    """The kernels where all `tensors` are float32 on CPU and there is a compiler; else None.

    None too while torch compiles: it fuses plain operations.
    """
    if torch.compiler.is_compiling():
        return None
    if all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors):
        return _load()[0]
    return None


def status() -> str:
    """Whether the kernels are in use, and why not."""
    return _load()[1]


def in_use() -> bool:
    """Whether there are kernels: results then differ from plain torch's by rounding."""
    return _load()[0] is not None


@functools.cache
def _load() -> tuple[Kernels | None, str]:
    kernels, status = _found()
    if kernels is None:
        level = logging.INFO if os.environ.get("FARZI_NATIVE") == "0" else logging.WARNING
        _logger.log(level, "plain torch runs in place of the C kernels: %s", status)
    return kernels, status


def _found() -> tuple[Kernels | None, str]:
    """The kernels, or None and why."""
    if os.environ.get("FARZI_NATIVE") == "0":
        return None, "turned off by FARZI_NATIVE=0"
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None, "no C compiler found"
    try:
        folder = own_folder(_cache_folder())
    except (OSError, RuntimeError) as error:
        return None, f"no folder to keep them in: {error}; set XDG_CACHE_HOME to one of your own"
    try:
        path = _compiled(compiler, folder)
        return Kernels(ctypes.CDLL(str(path))), f"compiled with {compiler}"
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} failed: {error.stderr.decode(errors='replace').strip()}"
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{compiler} failed: {error}"


def source() -> str:
    """The files of `kernels/`, one after the other."""
    folder = resources.files("farzi.native").joinpath("kernels")
    return "".join(
        f'#line 1 "{name}.c"\n' + folder.joinpath(f"{name}.c").read_text() for name in SOURCES
    )


def _compiled(compiler: str, folder: Path) -> Path:
    """The shared library for this source, compiler and processor, compiled where it is missing."""
    text = source().encode()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    built_for = b"\0".join([text, version, " ".join(FLAGS).encode(), _processor()])
    path = folder / f"kernels-{hashlib.sha256(built_for).hexdigest()[:16]}.so"
    if not trusted(path):
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            built = Path(draft) / path.name
            subprocess.run(
                [compiler, *FLAGS, "-x", "c", "-", "-o", str(built), "-lm"],
                input=text,
                capture_output=True,
                check=True,
                timeout=120,
            )
            _sign(built)
            built.replace(path)
        if not trusted(path):
            raise OSError(f"{path} is not what was written there")
    return path


def own_folder(folder: Path) -> Path:
    """`folder`, made where it is missing, if it is the user's own and no one else can write to it.

    A folder of the user's that others may write to is closed to them and emptied of libraries.

    Raises:
        OSError: it cannot be made, is a link or no folder, or belongs to someone else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} is no folder but a link or a file")
    if not _is_own(found):
        raise OSError(f"{folder} belongs to someone else")
    if found.st_mode & 0o022:
        folder.chmod(0o700)
        for library in folder.glob("kernels-*.so"):
            library.unlink()
    return folder


def _is_own(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def _sign(library: Path) -> None:
    """Write the library's hash behind it, where loaders do not look, and close it to others."""
    with library.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(_MARK + digest)
        file.flush()
        os.fsync(file.fileno())
    library.chmod(0o700)


def trusted(library: Path) -> bool:
    """Whether it is a whole library that this user wrote, and no one else can have changed."""
    try:
        descriptor = os.open(library, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or not _is_own(found):
            return False
        content = file.read()
    end = len(content) - len(_MARK) - hashlib.sha256().digest_size
    signature = _MARK + hashlib.sha256(content[: max(end, 0)]).digest()
    return end > 0 and content[end:] == signature


def _cache_folder() -> Path:
    """Where the library is kept; `RuntimeError` where there is no home folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "farzi" / "kernels"


def _processor() -> bytes:
    """What `-march=native` depends on: a library compiled on one machine may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}".encode()


def _kind(value: Argument) -> type:
    """The C type of an argument; of None and of tensors, a pointer."""
    if isinstance(value, int):
        return ctypes.c_long
    return ctypes.c_float if isinstance(value, float) else ctypes.c_void_p


def _argument(value: Argument) -> Any:
    """What ctypes takes for an argument that is not a tensor."""
    if isinstance(value, tuple):
        return (ctypes.c_void_p * len(value))(*[x.data_ptr() for x in value])
    return value
