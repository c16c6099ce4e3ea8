"""Attacks find users that were planted, and nobody where there is nothing to find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from artifact_examples import SOURCE, toy_artifact
from farzi import cli
from farzi.artifact import Artifact, write_artifact
from farzi.data import PreparedData, prepare
from farzi.data.sequences import Sequences
from farzi.errors import SettingsError
from farzi.privacy import Audit, AuditSettings, audit_artifact, longest_runs
from farzi.privacy.auditing import area
from farzi.privacy.read_back import read_back
from farzi.provenance import source_record
from farzi.report import write_report

NUM_ITEMS = 40
FEW = AuditSettings(students=1, references=2, resamples=100, max_steps=150)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """A log of noise: what is known of one user says nothing of another."""
    log = tmp_path_factory.mktemp("noise") / "log.csv"
    generator = np.random.default_rng(0)
    rows = [
        f"u{user},i{item},{time}\n"
        for user in range(120)
        for time, item in enumerate(generator.integers(NUM_ITEMS, size=12))
    ]
    log.write_text("user,item,time\n" + "".join(rows))
    return prepare(log)


def artifact_of(data: PreparedData, rows: Sequences, factor: float = 12.0) -> Artifact:
    """An artifact whose soft tokens are those of real sequences."""
    length = int(rows.lengths.max())
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.from_numpy(np.asarray(row, np.int64))
    size = data.vocabulary.size
    student = {"name": "gru4rec", "num_tokens": size, "context_length": length, "width": 32}
    return toy_artifact(
        latent=factor * torch.nn.functional.one_hot(tokens, size).float(),
        decoder=torch.eye(size),
        lengths=torch.from_numpy(np.asarray(rows.lengths, np.int64)),
        vocabulary=list(data.vocabulary.ids),
        source={**SOURCE, **source_record(data)},
        recipe={"student": student, "lr": 0.02, "batch_size": 16, "start": "real"},
    )


def by_name(found: Audit) -> dict[str, float]:
    return {attack.name: attack.auc for attack in found.attacks}


def test_planted_users_are_found_by_every_attack(noise: PreparedData) -> None:
    """The artifact is the training users, word for word."""
    found = audit_artifact(artifact_of(noise, noise.train), noise, FEW)
    areas = by_name(found)
    assert min(areas["nearest"], areas["repeated run"]) > 0.95
    assert min(areas["loss"], areas["loss ratio"], areas["likelihood ratio"]) > 0.8
    for attack in found.attacks:
        assert attack.low <= attack.auc <= attack.high
    assert (found.members, found.others) == (len(noise.train), len(noise.test))
    last = found.read_back[-1]
    assert last.run == 10
    assert last.train == last.of_one == last.places == noise.train.num_tokens
    assert last.held_out == 0
    assert [each.real for each in found.neighbours] == list(range(len(noise.train)))
    assert all(each.run == each.length for each in found.neighbours)
    assert all(each.cosine > each.held_out_cosine for each in found.neighbours)
    assert found.start == "real"


def test_nobody_is_found_in_sequences_of_strangers(noise: PreparedData) -> None:
    generator = np.random.default_rng(1)
    strangers = Sequences.from_lists(
        [generator.integers(noise.vocabulary.size, size=12).astype(np.int32) for _ in range(96)]
    )
    found = audit_artifact(artifact_of(noise, strangers), noise, FEW)
    for attack in found.attacks:
        assert attack.low < 0.65, attack
        assert attack.high > 0.35, attack
    assert found.read_back[-1].train == 0
    assert max(each.run for each in found.neighbours) < 5


def test_equal_seeds_give_equal_audits(noise: PreparedData) -> None:
    artifact = artifact_of(noise, noise.train.take([0, 1, 2]))
    one, two = (audit_artifact(artifact, noise, FEW) for _ in range(2))
    assert one == two


def test_a_split_without_held_out_users_is_refused(noise: PreparedData, tmp_path: Path) -> None:
    from dataclasses import replace

    data = replace(noise, split_kind="leave-last-out")
    with pytest.raises(SettingsError, match="every user is a training user"):
        audit_artifact(artifact_of(data, noise.train), data, FEW)


def test_area_is_the_chance_to_rank_a_pair_right() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.integers(9, size=40), generator.integers(7, size=30)
    pairs = [(m > o) + (m == o) / 2 for m in members for o in others]
    assert area(members, others) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_runs_are_those_of_a_plain_search() -> None:
    generator = np.random.default_rng(0)
    real = Sequences.from_lists(
        [generator.integers(4, size=n).astype(np.int32) for n in (1, 5, 9, 30)]
    )
    rows = [generator.integers(4, size=n).astype(np.int64) for n in (3, 12, 20)]

    def holds(row: Any, piece: Any) -> bool:
        return any(
            row[start : start + len(piece)].tolist() == piece.tolist() for start in range(len(row))
        )

    for sequence, longest in zip(real, longest_runs(real, rows), strict=True):
        pieces = [
            sequence[start:end]
            for start in range(len(sequence))
            for end in range(start + 1, len(sequence) + 1)
        ]
        plain = max(
            (len(piece) for piece in pieces if any(holds(row, piece) for row in rows)), default=0
        )
        assert longest == plain


def test_a_run_does_not_go_from_one_user_to_the_next() -> None:
    train = Sequences.from_lists([[1, 2], [3, 4]])
    none = Sequences.from_lists([[9, 9]])
    assert read_back([np.array([1, 2, 3, 4])], train, none)[0].train == 0


def test_the_command_keeps_what_it_finds(
    noise: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise.save(tmp_path / "data")
    run = tmp_path / "run"
    write_artifact(artifact_of(noise, noise.train.take([0, 1, 2])), run / "artifact")
    (run / "settings.json").write_text('{"origin": null}')
    arguments = ["audit", str(run), "--on", str(tmp_path / "data"), "--students", "1", "-q"]
    assert cli.main([*arguments, "--references", "2", "--candidates", "20"]) == 0
    shown = capsys.readouterr().out
    assert "12 held-out ones" in shown
    assert "Synthetic is not anonymous" in shown
    kept = json.loads((run / "audit.json").read_text())
    assert kept["members"] == 20
    assert len(kept["neighbours"]) == 3
    text = write_report(run, noise).read_text()
    assert "12 held-out ones" in text
    assert "likelihood ratio" in text
    card = (run / "artifact/README.md").read_text()
    assert "they began as rows of real users" in card
