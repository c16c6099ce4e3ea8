"""What an experiment is: a TOML file with a source, splits, seeds, sizes, students and rows."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farzi.errors import SettingsError
from farzi.experiments.cells import CompareSettings
from farzi.experiments.rows import ROWS

__all__ = ["Experiment", "SearchSettings", "find_experiments", "read_experiment"]


@dataclass(frozen=True)
class SearchSettings:
    """A search whose ranking on each row is held against that on full data.

    Args:
        configurations: how many are drawn; the same for every row.
        lrs: bounds of the step size, drawn evenly on a logarithmic scale.
        decays: weight decays to draw from.
        dropouts: dropout rates to draw from.
        smoothings: shares of label smoothing to draw from.
        widths: widths of the student to draw from.
        num_layers: numbers of blocks to draw from.
        conv_sizes: sizes of the short convolution to draw from.
        seed: of the draw.
    """

    configurations: int = 30
    lrs: tuple[float, float] = (0.002, 0.05)
    decays: tuple[float, ...] = (0.0, 0.05)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    smoothings: tuple[float, ...] = (0.0, 0.1)
    widths: tuple[int, ...] = (16, 32, 64)
    num_layers: tuple[int, ...] = (1, 2)
    conv_sizes: tuple[int, ...] = (0, 4)
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Args:
        name: of its file, and of the folder of its results.
        source: what is distilled, as `farzi distill` takes it.
        about: a line for readers.
        splits: split seeds.
        seeds: fresh students a row and split.
        sizes: sizes of the artifacts, such as `25x20`.
        students: names of students; empty: what suits the source.
        rows: rows of the comparison: of `ROWS`, or of `variants`.
        read: arguments of `prepare`.
        distill: settings of the distillation, nested.
        variants: further distilled rows, by name: settings of the distillation that they change.
            One that changes `student` is distilled for that one, and scored by the experiment's.
        compare: how rows are tuned.
        tuned_on: the split that rows are tuned on, for all splits; None: on each split for itself.
        search: a search to rank on every row, in place of a comparison.
        overview: whether its rows stand in the overview of all results; not so for many small
            changes of one thing, which have a page of their own.
        paper: by size, the ratio to full data that the paper reports: of HR@10, or of a text's
            accuracy.
    """

    name: str
    source: str
    about: str = ""
    splits: tuple[int, ...] = (0,)
    seeds: int = 3
    sizes: tuple[str, ...] = ("50x50",)
    students: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("full", "random", "head", "farzi")
    read: Mapping[str, Any] = field(default_factory=dict)
    distill: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    compare: CompareSettings = field(default_factory=CompareSettings)
    tuned_on: int | None = None
    search: SearchSettings | None = None
    overview: bool = True
    paper: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("splits", "sizes", "rows"):
            if not getattr(self, name):
                raise SettingsError(f"{self.name}: `{name}` is empty.")
        for row in self.rows:
            if row not in ROWS and row not in self.variants:
                known = [*ROWS, *self.variants]
                raise SettingsError(f"{self.name}: unknown row {row!r}{_closest(row, known)}")
        if clash := sorted(set(self.variants) & set(ROWS)):
            raise SettingsError(f"{self.name}: variant {clash[0]!r} is the name of a row already.")
        if self.tuned_on is not None and self.tuned_on not in self.splits:
            splits = ", ".join(map(str, self.splits))
            raise SettingsError(
                f"{self.name}: `tuned_on` must be one of the splits {splits}, "
                f"got {self.tuned_on!r}."
            )
        if self.search is not None and "full" not in self.rows:
            raise SettingsError(f"{self.name}: a search needs the row `full` to be held against.")

    @property
    def distilled(self) -> dict[str, Mapping[str, Any]]:
        """The distilled rows by name, with the settings that each changes."""
        own: dict[str, Mapping[str, Any]] = {"farzi": {}} if "farzi" in self.rows else {}
        return own | {name: values for name, values in self.variants.items() if name in self.rows}


def read_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file.

    Raises:
        SettingsError: the file cannot be read, or a name or value in it is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}.") from None
    if "source" not in values:
        raise SettingsError(f"{path}: is no experiment: it names no `source`.")
    given = {**values, "name": path.stem}
    _check_names(path, given, _fields(Experiment))
    for name, kind in (("compare", CompareSettings), ("search", SearchSettings)):
        if name in given:
            _check_names(path, given[name], _fields(kind), f"{name}.")
            values_of = _typed(path, given[name], kind, f"{name}.")
            try:
                given[name] = kind(**values_of)
            except SettingsError as error:
                raise SettingsError(f"{path}: [{name}] {error}") from None
    compare = given.get("compare", CompareSettings())
    given = _typed(path, given, Experiment)
    given["compare"] = dataclasses.replace(compare, seeds=given.get("seeds", 3))
    return Experiment(**given)


def find_experiments(folder: Path) -> list[Experiment]:
    """The experiments in a folder; files of other settings are passed over."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            found.append(read_experiment(path))
        except SettingsError as error:
            if "is no experiment" not in str(error):
                raise
    return found


def _fields(kind: type) -> dict[str, Any]:
    return {item.name: item for item in dataclasses.fields(kind)}


def _check_names(
    path: Path, values: Mapping[str, Any], known: Iterable[str], prefix: str = ""
) -> None:
    names = list(known)
    for name in values:
        if name not in names:
            raise SettingsError(f"{path}: unknown name {prefix + name!r}{_closest(name, names)}")


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3) or sorted(known)
    return f": did you mean {' or '.join(close)}?"


def _typed(path: Path, values: Mapping[str, Any], kind: type, prefix: str = "") -> dict[str, Any]:
    """Values of the types of the fields' defaults: lists as tuples, whole numbers as floats."""
    typed: dict[str, Any] = {}
    for name, value in values.items():
        default = _fields(kind)[name].default
        if isinstance(default, tuple):
            if not isinstance(value, list):
                raise SettingsError(f"{path}: `{prefix}{name}` must be a list, got {value!r}.")
            number = float if default and isinstance(default[0], float) else None
            value = tuple(number(item) if number else item for item in value)
        elif isinstance(default, int | float | str) and not isinstance(default, bool):
            wanted = (int, float) if isinstance(default, float) else type(default)
            if isinstance(value, bool) or not isinstance(value, wanted):
                what = type(default).__name__
                raise SettingsError(f"{path}: `{prefix}{name}` must be {what}, got {value!r}.")
        elif isinstance(default, bool) and not isinstance(value, bool):
            raise SettingsError(f"{path}: `{prefix}{name}` must be true or false, got {value!r}.")
        typed[name] = value
    return typed
