"""How much memory there is, and how much a call takes."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farzi.metagrad.guards import LightMode

__all__ = ["Peak", "available_bytes", "peak_bytes"]

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on `device`; None where there is no way to know."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    limits = [limit for limit in (_meminfo_bytes(), _cgroup_bytes()) if limit is not None]
    return min(limits, default=None)


def _meminfo_bytes() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _cgroup_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())
        return limit - int((_CGROUP / "memory.current").read_text())
    return None


class Peak:
    """Most bytes held at once by tensors made while it was measured."""

    def __init__(self) -> None:
        self.num_bytes = 0


class _StorageWatch(LightMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are made under it, for as long as they live."""

    def __init__(self, peak: Peak) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._peak = peak
        self._live: dict[int, int] = {}
        self._total = 0

    def _forget(self, key: int) -> None:
        self._total -= self._live.pop(key, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in inputs and key not in self._live:
                    self._live[key] = storage.nbytes()
                    self._total += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self._peak.num_bytes = max(self._peak.num_bytes, self._total)
        return result


@contextlib.contextmanager
def peak_bytes(device: torch.device) -> Iterator[Peak]:
    """Measure the most bytes of tensors held at once inside the block, above those held before."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.num_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _StorageWatch(peak):
        yield peak
