"""`farzi audit`: what a distilled dataset gives away of its users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from farzi.cli._common import DEFAULT_OUTPUT, Device, Output, Seed
from farzi.cli._source import DEFAULT_READING, On, Reading

if TYPE_CHECKING:
    from rich.console import Group

    from farzi.privacy import Audit

__all__ = ["audit"]


def audit(
    run: Path,
    /,
    *,
    on: On = None,
    student: str | None = None,
    students: int = 3,
    references: int = 8,
    candidates: int = 1000,
    reading: Reading = DEFAULT_READING,
    seed: Seed = 0,
    device: Device = "auto",
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Attack a distilled dataset, and say what it gives away of its users.

    Synthetic is not anonymous. Five attacks guess who was among the training users, against users
    who were held out: an AUC of 0.5 is chance, 1 finds everybody. Then the nearest real sequence of
    every synthetic one, and how many events of real users can be read back. The result is kept in
    the run's folder, and `farzi report` shows it.

    Args:
        run: a run or an artifact.
        student: what was distilled for, where it is a model of your own: my_models.py:make or
            hf:config.json; an artifact names no code.
        students: models trained on the artifact.
        references: models trained on real users, each on half of those guessed at.
        candidates: most training users, and most held-out ones, that are guessed at.

    Example:
        farzi audit runs/ml-100k
        farzi audit runs/ml-100k --candidates 300 --json
    """
    from farzi.privacy import audit as attack

    with output.progress("audit", unit="models") as bar:
        found = attack(
            run,
            on=on,
            student=student,
            students=students,
            references=references,
            candidates=candidates,
            seed=seed,
            device=device,
            progress=bar,
            **reading.asked,
        )
    output.result(found.to_json(), text=_text(found))


def _text(found: Audit) -> Group:
    from rich.console import Group
    from rich.table import Table

    attacks = Table("attack", "AUC", "95 % interval", "found at 1 % false alarms")
    for attack in found.attacks:
        attacks.add_row(
            attack.name,
            f"{attack.auc:.3f}",
            f"{attack.low:.3f} to {attack.high:.3f}",
            f"{attack.found:.1%}",
        )
    back = Table("events in a row", "of a training user", "of one alone", "of a held-out user")
    for row in found.read_back:
        counts = (row.train, row.of_one, row.held_out)
        back.add_row(str(row.run), *(f"{count / row.places:.1%}" for count in counts))
    nearest = max(found.neighbours, key=lambda each: each.run)
    return Group(
        f"{found.members:,} training users against {found.others:,} held-out ones; "
        f"the sequences began as: {found.start}",
        attacks,
        f"places of the synthetic sequences ({found.read_back[0].places:,}) that repeat so many "
        "events of a user in order:",
        back,
        f"the longest piece of a nearest real sequence: {nearest.run:,} events in a row, in "
        f"sequence {nearest.sequence} of {nearest.length:,} places.",
        "Synthetic is not anonymous: share the dataset as you would share its source.",
    )
