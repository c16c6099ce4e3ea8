"""Thousands of mutated models, prepared folders, runs and texts: refused or read right."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console

import farzi
from farzi.data import prepare
from farzi.data.prepared import PreparedData
from farzi.distill import distill
from farzi.models import build_student
from farzi.provenance import remembered_by, source_record
from farzi.report import write_report
from farzi.report.live import render, view_run
from farzi.trained import load_model, save_model
from hostile_campaign import MOST_GROWTH_MB, Campaign, run_campaign
from hostile_folders import mutate_folder, mutate_text
from made_tokenizers import byte_level, write_lines
from toy import SMALL, toy_data

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

SETTINGS = replace(
    SMALL,
    inner=replace(SMALL.inner, steps=4, window=2),
    outer=replace(SMALL.outer, steps=2, num_students=1, students_per_step=1, validate_every=2),
    routine=replace(SMALL.routine, max_steps=10, tries=2),
)
FILES = ("weights.safetensors", "vocabulary.parquet")


@dataclass(frozen=True)
class Kind:
    """Folders of one kind: what mutations start from, and how a case is read."""

    what: str
    bases: list[Path]
    read: Callable[[Path, int], Callable[[], None]]
    mutate: Callable[[Path, int, Path], str] = mutate_folder
    also: tuple[Path, ...] = ()  # where files may be opened besides

    def run(self, seeds: range, folder: Path) -> Campaign:
        return run_campaign(
            self.what, seeds, folder, self.bases, self.mutate, self.read, also=self.also
        )


# ------------------------------------------------------------------------------------ weights


def models(folder: Path) -> Kind:
    data = {"log": toy_data(folder), "text": prepare(write_lines(folder / "a.txt"))}
    bases = []
    for name, on in (
        ("sasrec", "log"),
        ("gru4rec", "log"),
        ("fmlp", "log"),
        ("rnn", "text"),
        ("transformer", "text"),
    ):
        sizes = {"num_tokens": data[on].vocabulary.size, "context_length": 6, "width": 8}
        student = build_student({"name": name, **sizes})
        params = student.init(torch.Generator().manual_seed(1))
        provenance = source_record(data[on])
        bases.append(folder / name)
        save_model(bases[-1], student, params, data[on].vocabulary, provenance)

    def read(target: Path, seed: int) -> Callable[[], None]:
        model = load_model(target)
        on = data["log" if seed % len(bases) < 3 else "text"]
        if seed % 3 == 0:
            scores = farzi.evaluate(target, on=on, device="cpu")
            assert scores.protocol_line.isprintable()

        def check() -> None:
            assert not any((target / name).is_symlink() for name in FILES)
            stored = safetensors.torch.load_file(target / FILES[0])
            torch.testing.assert_close(model.params, stored, rtol=0, atol=0)
            assert len(set(model.vocabulary.ids)) == model.student.num_tokens
            tokens = torch.zeros(1, min(3, model.student.context_length), dtype=torch.int64)
            assert model(tokens).shape == (*tokens.shape, model.student.num_tokens)

        return check

    return Kind("models", bases, read)


# ----------------------------------------------------------------------------------- prepared


def prepared(folder: Path) -> Kind:
    text = write_lines(folder / "a.txt")
    sources: list[PreparedData] = [
        toy_data(folder),
        toy_data(folder, split="leave-last-out"),
        prepare(text),
        prepare(text, tokenizer=byte_level(folder / "tokenizer")),
    ]
    bases = [folder / f"prepared-{number}" for number in range(len(sources))]
    for data, base in zip(sources, bases, strict=True):
        data.save(base)

    def read(target: Path, seed: int) -> Callable[[], None]:
        data = prepare(target)

        def check() -> None:
            assert not any(path.is_symlink() for path in target.iterdir())
            for name, part in data.parts.items():
                np.testing.assert_array_equal(part.tokens, np.load(target / f"{name}.tokens.npy"))
                assert sum(map(len, part)) == part.num_tokens
                assert part.num_tokens == 0 or int(part.tokens.max()) < data.vocabulary.size
            assert data.protocol_line(8).isprintable()
            data.save(target.with_name("again"))
            assert PreparedData.load(target.with_name("again")).train == data.train
            shutil.rmtree(target.with_name("again"))

        return check

    return Kind("prepared folders", bases, read)


# --------------------------------------------------------------------------------------- runs


def runs(folder: Path) -> Kind:
    data = toy_data(folder)
    distill(data, folder / "finished", SETTINGS)
    steps: list[Any] = []
    distill(
        data,
        folder / "stopped",
        SETTINGS,
        on_record=steps.append,
        should_stop=lambda: sum("ages" in record for record in steps) >= 1,
    )
    bases = [folder / "finished", folder / "stopped"]

    def read(target: Path, seed: int) -> Callable[[], None]:
        what = (seed // len(bases)) % 4
        if what < 2:
            outcome = distill(data, target, SETTINGS, resume=True)
            assert outcome.artifact is not None

            def check() -> None:
                artifact = farzi.load(target)
                assert artifact.batch()["labels"].isfinite().all()

            return check
        if what == 2:
            Console(file=io.StringIO(), width=100).print(render(view_run(target)))
            return lambda: None
        remembered_by(target)
        page = write_report(target, data, out=target / "page.html")
        return lambda: page.read_text(encoding="utf-8").index("</html>") and None

    return Kind("run folders", bases, read)


# -------------------------------------------------------------------------------------- texts


def texts(folder: Path) -> Kind:
    import gzip

    one = folder / "one" / "a.txt"
    one.parent.mkdir()
    write_lines(one)
    packed = folder / "packed" / "a.txt.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(one.read_bytes()))
    three, many = folder / "three", folder / "many"
    three.mkdir()
    many.mkdir()
    lines = one.read_text().splitlines(keepends=True)
    for number, part in enumerate(("train", "valid", "test")):
        (three / f"{part}.txt").write_text("".join(lines[20 * number : 20 * number + 20]))
    for number in range(12):
        (many / f"d{number}.txt").write_text("".join(lines[5 * number : 5 * number + 5]))
    tokenizer = byte_level(folder / "tokenizer")

    def read(target: Path, seed: int) -> Callable[[], None]:
        files = sorted(target.iterdir())
        source = files[0] if len(files) == 1 else target
        cut = {"tokenizer": tokenizer} if seed % 5 == 0 else {}
        data = prepare(source, task="language", **cut)

        def check() -> None:
            tokens = np.concatenate([part.tokens for part in data.parts.values()])
            assert 0 <= tokens.min() <= tokens.max() < data.vocabulary.size
            assert data.protocol_line(8).isprintable()
            ends = {data.vocabulary.ids[int(row[-1])] for row in data.train}
            assert len(ends) == 1
            again = target.with_name("again")
            data.save(again)
            assert PreparedData.load(again).vocabulary == data.vocabulary
            shutil.rmtree(again)

        return check

    return Kind("texts", [one.parent, packed.parent, three, many], read, mutate_text, (tokenizer,))


KINDS = [models, prepared, runs, texts]


@pytest.fixture(scope="module", params=KINDS, ids=lambda make: make.__name__)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    made: Kind = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return made


def test_some(kind: Kind, tmp_path: Path) -> None:
    found = kind.run(range(50), tmp_path)
    assert found.refused > 10
    assert found.read > 2
    assert len(found.reasons) > 5


@pytest.mark.slow
def test_thousands(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2_000 if kind.what in ("run folders", "texts") else 3_000
    found = kind.run(range(1000, 1000 + count), tmp_path)
    with capsys.disabled():
        print(f"\n{found}")
    assert found.refused + found.read == count
    assert found.growth_mb < MOST_GROWTH_MB


def test_equal_seeds_give_equal_faults(kind: Kind, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "secret"
    outside.parent.mkdir()
    outside.write_text("{}")
    said = []
    for seed in (3, 3, 4):
        shutil.copytree(kind.bases[0], tmp_path / "case")
        said.append(kind.mutate(tmp_path / "case", seed, outside))
        shutil.rmtree(tmp_path / "case")
    assert said[0] == said[1]
    assert said[0] != said[2]
