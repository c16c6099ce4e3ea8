"""Several processes, one distillation: each its own students, averaged meta-gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from farzi.errors import LostProcessError, SettingsError

__all__ = ["ALONE", "World", "world_of_torchrun"]


@dataclass(frozen=True)
class World:
    """The processes of a run; alone by default.

    Args:
        rank: number of this process, from 0; only 0 writes results.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def average(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean over processes, the same bits on each; one exchange for all blocks."""
        if self.size == 1:
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
        with self._together():
            dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients.values()]
        parts = torch.split(flat / self.size, sizes)
        return {
            name: part.view_as(gradients[name]) for name, part in zip(gradients, parts, strict=True)
        }

    def agree(self, yes: bool) -> bool:
        """Whether any process says yes."""
        if self.size == 1:
            return yes
        flag = torch.tensor(float(yes), device=_exchange_device())
        with self._together():
            dist.all_reduce(flag)
        return bool(flag > 0)

    def wait(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            with self._together():
                dist.barrier()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in one line that another process is gone, where an exchange fails."""
        try:
            yield
        except RuntimeError as error:  # of gloo, of nccl, and of their timeouts
            raise LostProcessError(
                f"process {self.rank + 1} of {self.size} waited for another that has ended; what "
                "was saved is kept: the same command with --resume goes on."
            ) from error


ALONE = World()


def _exchange_device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def world_of_torchrun(device: torch.device) -> Iterator[World]:
    """The processes that `torchrun` started, or this one alone.

    Args:
        device: nccl exchanges on `cuda`, gloo on `cpu`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        yield ALONE
        return
    if "RANK" not in os.environ:
        raise SettingsError("WORLD_SIZE is set and RANK is not: start farzi with `torchrun -m`.")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        world = World(dist.get_rank(), dist.get_world_size())
        yield world
        world.wait()  # a group that one process leaves while another exchanges aborts the other
    finally:
        dist.destroy_process_group()
