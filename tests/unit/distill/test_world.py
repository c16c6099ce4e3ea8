"""Two processes with one student each step as one process with both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from farzi.distill import Distiller
from farzi.distill.world import world_of_torchrun
from toy import TINY, distiller
from dataclasses import replace

out, dtype, together = Path(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3] == "one"
students = 2 if together else 1
settings = TINY.with_values(
    {"outer.num_students": students, "outer.students_per_step": students}
)
with world_of_torchrun(torch.device("cpu")) as world:
    loop = distiller(out / f"data-{world.rank}", settings, world=world)
    state = loop.begin()
    to = lambda values: {name: value.to(dtype) for name, value in values.items()}
    members = tuple(
        replace(m, params=to(m.params), state=m.state and {k: to(v) for k, v in m.state.items()})
        for m in state.members
    )
    start = loop.start.with_factors(to(loop.start.factors()))
    loop = replace(loop, start=start)
    zeros = {name: torch.zeros_like(block) for name, block in start.factors().items()}
    state = replace(state, members=members, synthetic=start, first=zeros, second=zeros)
    state, _ = loop.step(state)
    if world.rank == 0:
        save_file({k: v.contiguous() for k, v in state.first.items()}, out / f"{sys.argv[3]}.st")
"""


def run(tmp_path, dtype, name, launcher):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1]), *sys.path]),
    }
    for rank in (0, 1):
        (tmp_path / f"data-{rank}").mkdir(exist_ok=True)
    command = [*launcher, str(script), str(tmp_path), dtype, name]
    subprocess.run(command, check=True, env=environment, timeout=120)
    return load_file(tmp_path / f"{name}.st")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_two_gloo_ranks_give_the_gradients_of_one_process(tmp_path, dtype, tolerance):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-port", "29671" if dtype == "float32" else "29672"]
    alone = run(tmp_path, dtype, "one", [sys.executable])
    together = run(tmp_path, dtype, "two", torchrun)
    for name, block in alone.items():
        scale = float(block.abs().max())
        assert scale > 0
        torch.testing.assert_close(together[name], block, rtol=0, atol=tolerance * scale)
