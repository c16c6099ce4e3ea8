"""A process that runs commands, and what they read: a log, settings and a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash_campaign import Commands
from crash_cases import EXPERIMENT, distil
from toy import SMALL, write_log


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("log"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Path:
    """A log, settings and a finished run, which the cases read."""
    folder = tmp_path_factory.mktemp("shared")
    write_log(folder / "log.tsv")
    (folder / "small.json").write_text(json.dumps(SMALL.as_dict()))
    (folder / "toy.toml").write_text(EXPERIMENT.format(log=folder / "log.tsv"))
    ended = commands(folder, distil(folder, "run"))
    assert ended.code == 0, ended.err
    return folder
