"""Two processes that write to one place: one does, or both do; the result is whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash_campaign import Commands, Ended, tree
from crash_cases import cases

pytestmark = pytest.mark.slow

ROUNDS = 4


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("others"))
    yield running
    running.close()


@pytest.mark.parametrize(
    "name",
    ["distill", "train", "prepare", "compare", "experiments", "export hf", "export artifact",
     "export topk"],
)  # fmt: skip
def test_two_at_once(
    name: str,
    shared: Path,
    commands: Commands,
    others: Commands,
    tmp_path: Path,
) -> None:
    case = cases(shared)[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    case.makes(whole)
    assert commands(whole, case.arguments).code == 0
    expected = tree(whole)
    for number in range(ROUNDS):
        work = tmp_path / f"work-{number}"
        work.mkdir()
        case.makes(work)
        ended: list[Ended] = []

        def run(which: Commands, folder: Path = work, ended: list[Ended] = ended) -> None:
            ended.append(which(folder, case.arguments))

        threads = [threading.Thread(target=run, args=(which,)) for which in (commands, others)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = sorted(each.code for each in ended)
        assert codes[0] == 0, [each.err for each in ended]
        for each in ended:
            assert each.code == 0 or (each.code in (1, 2) and each.err.count("\n") == 1), each.err
        assert tree(work) == expected
