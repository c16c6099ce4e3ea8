"""What `prepare` was asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from farzi.data import splits
from farzi.data.events import Repeats
from farzi.data.formats import Format, ReadAs
from farzi.data.sources import SeenItems, Task
from farzi.data.text import Tokens
from farzi.errors import SettingsError

__all__ = ["MIN_LENGTH", "Engine", "Settings", "Split"]

Engine = Literal["duckdb", "spark"]
Split = Literal["users", "leave-last-out"]

MIN_LENGTH = 2  # a target needs a context


@dataclass(frozen=True)
class Settings:
    """What `prepare` was asked for; its docstring says what each means."""

    task: Task | None
    split: Split
    split_seed: int
    k_core: int
    min_length: int | None
    repeats: Repeats | None
    seen_items: SeenItems | None
    read_as: ReadAs
    tokens: Tokens | None
    vocabulary_size: int | None
    engine: Engine
    tokenizer: Path | None = None

    def __post_init__(self) -> None:
        choices = {
            "task": (self.task, (None, *get_args(Task))),
            "split": (self.split, get_args(Split)),
            "repeats": (self.repeats, (None, *get_args(Repeats))),
            "seen_items": (self.seen_items, (None, *get_args(SeenItems))),
            "format": (self.read_as.format, (None, *get_args(Format))),
            "tokens": (self.tokens, (None, *get_args(Tokens))),
            "engine": (self.engine, get_args(Engine)),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                listed = ", ".join(repr(choice) for choice in allowed if choice is not None)
                raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.")
        if not _is_count(self.k_core, 0):
            raise ValueError(f"`k_core` must be an int >= 0, got {self.k_core}.")
        if self.min_length is not None and not _is_count(self.min_length, MIN_LENGTH):
            raise ValueError(f"`min_length` must be an int >= 2, got {self.min_length}.")
        size = self.vocabulary_size
        if size not in {None, 0} and not _is_count(size, 3):
            raise ValueError(f"`vocabulary_size` must be 0 or an int >= 3, got {size}.")
        splits.check_seed(self.split_seed)
        if self.tokenizer is not None and self.tokens is not None:
            raise SettingsError(
                f"--tokens {self.tokens}: the tokenizer cuts the text; leave it out."
            )
        if self.tokenizer is not None and size:
            raise SettingsError(
                f"--vocabulary-size {size}: the tokenizer has a vocabulary of its own; leave it "
                "out, or train a smaller tokenizer."
            )

    def refuse_those_of_texts(self, label: str) -> None:
        """Refuse what an event log has no use for.

        Raises:
            SettingsError: it names the flag.
        """
        given = {
            "--vocabulary-size": self.vocabulary_size is not None,
            "--tokens": self.tokens is not None,
            "--tokenizer": self.tokenizer is not None,
        }
        _refuse(given, f"is for texts, and {label} is an event log")

    def refuse_those_of_logs(self, label: str) -> None:
        """Refuse what a text has no use for.

        Raises:
            SettingsError: it names the flag.
        """
        given = {
            "--split": self.split != "users",
            "--k-core": self.k_core != 0,
            "--min-length": self.min_length is not None,
            "--repeats": self.repeats is not None,
            "--seen-items": self.seen_items is not None,
            "--engine": self.engine != "duckdb",
        }
        _refuse(given, f"is for event logs, and {label} is a text")


def _refuse(given: dict[str, bool], why: str) -> None:
    for flag, is_given in given.items():
        if is_given:
            raise SettingsError(f"{flag} {why}.")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
