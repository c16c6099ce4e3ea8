"""Where to compute: the device that is asked for, or the one there is, with the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeAlias

import torch

from farzi.errors import SettingsError

__all__ = ["Device", "choose_device", "threads"]

Device: TypeAlias = str | torch.device


def choose_device(device: Device) -> tuple[torch.device, str]:
    """Return the device to compute on, and why.

    Args:
        device: `auto`, `cpu`, `cuda` or a torch device.

    Raises:
        SettingsError: it is no device, or a CUDA device is asked for and there is none.

    Example:
        >>> from farzi.devices import choose_device
        >>> choose_device("cpu")
        (device(type='cpu'), 'asked for')
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"there is one: {torch.cuda.get_device_name()}"
        return torch.device("cpu"), "there is no CUDA device"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"`device` {device}: no such device; use auto, cpu or cuda.") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise SettingsError("`device` cuda: there is no CUDA device here; use `device` cpu.")
        return chosen, f"asked for: {torch.cuda.get_device_name(chosen)}"
    return chosen, "asked for"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with so many threads for each operation of torch; as before afterwards.

    Example:
        >>> from farzi.devices import threads
        >>> with threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
