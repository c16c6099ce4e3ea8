"""The page for those who come from another library: its blocks run, and give the same gradient."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def run(*blocks: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_has_the_task_and_four_ways() -> None:
    assert len(BLOCKS) == 5


def test_ours() -> None:
    gradient = run(BLOCKS[0], BLOCKS[1])["by_farzi"]
    assert gradient.shape == (64, 1)
    assert gradient.abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("block", "library", "tolerance"),
    [(2, "higher", 0.2), (3, "torchopt", 1e-4), (4, "bergson", 1e-4)],
    ids=["higher", "torchopt", "bergson"],
)
def test_theirs(block: int, library: str, tolerance: float) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    ours = run(BLOCKS[0], BLOCKS[1])["by_farzi"]
    theirs = run(BLOCKS[0], BLOCKS[block])[f"by_{library}"]
    assert float((theirs - ours).norm() / ours.norm()) < tolerance
