"""Settings of every test: one thread, repeatable draws, GPU tests only where there is a GPU."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: workers share the cores

from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# Runs on the same commit test the same examples; HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Let no test of this process reach beyond this machine."""
    if event == "socket.connect":
        address = arguments[1]
        outside = isinstance(address, tuple) and not _is_local(str(address[0]))
    elif event == "socket.getaddrinfo":
        outside = arguments[0] is not None and not _is_local(_text(arguments[0]))
    else:
        return
    if outside:
        raise ConnectionRefusedError(f"no test may reach the network: {event} {arguments[-1]}")


def _is_local(host: str) -> bool:
    return host in ("", "localhost", "::1", socket.gethostname()) or host.startswith("127.")


def _text(host: str | bytes) -> str:
    return host.decode() if isinstance(host, bytes) else host


sys.addaudithook(_refuse_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def data_root() -> Path:
    """The folder of real datasets that FARZI_DATA_ROOT names; skips the test without it."""
    root = os.environ.get("FARZI_DATA_ROOT")
    if not root or not Path(root).is_dir():
        pytest.skip("FARZI_DATA_ROOT names no folder with the real datasets")
    return Path(root)
