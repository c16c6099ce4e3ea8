"""Commands killed at random moments: run again, they leave the bytes of an undisturbed run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crash_campaign import Commands, run_campaign
from crash_cases import cases

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FARZI_CRASHES", "50"))


@pytest.mark.parametrize(
    "name",
    [
        "distill",
        "train",
        "prepare",
        "compare",
        "experiments",
        "export hf",
        "export artifact",
        "export topk",
    ],
)
def test_killed_and_run_again(
    name: str, shared: Path, commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = run_campaign(cases(shared)[name], commands, tmp_path, rounds=ROUNDS, seed=0)
    with capsys.disabled():
        print(f"\n{campaign}")
    assert not campaign.faults, "\n".join(campaign.faults)
