"""Broken and malicious models, prepared folders and runs: one line that names file and field."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console

from farzi.data import prepare
from farzi.data.prepared import PreparedData
from farzi.distill import distill
from farzi.distill.sealed import load_sealed, save_sealed
from farzi.errors import FarziError
from farzi.models import build_student
from farzi.provenance import source_record
from farzi.report import write_report
from farzi.report.live import render, view_run
from farzi.trained import load_model, save_model
from hostile_campaign import bounded
from toy import SMALL, toy_data

SETTINGS = replace(
    SMALL,
    outer=replace(SMALL.outer, steps=1, num_students=1, students_per_step=1),
    routine=replace(SMALL.routine, max_steps=10, tries=2),
)
DEEP: Any = 1
for _ in range(900):
    DEEP = [DEEP]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedData]:
    """A model, a prepared folder and a run of one source."""
    place = tmp_path_factory.mktemp("folders")
    data = toy_data(place)
    data.save(place / "prepared")
    sizes = {"num_tokens": data.vocabulary.size, "context_length": 6, "width": 8}
    student = build_student({"name": "sasrec", **sizes})
    params = student.init(torch.Generator().manual_seed(0))
    save_model(place / "model", student, params, data.vocabulary, source_record(data))
    distill(data, place / "run", SETTINGS)
    return place, data


@pytest.fixture
def place(folders: tuple[Path, PreparedData], tmp_path: Path) -> Path:
    shutil.copytree(folders[0], tmp_path / "here")
    return tmp_path / "here"


def refusal(read: Callable[[], object]) -> str:
    with bounded(), pytest.raises(FarziError) as raised:
        read()
    line = str(raised.value)
    assert line.isprintable(), line
    assert len(line) < 600
    return line


READS: dict[str, Callable[[Path, PreparedData], object]] = {
    "model": lambda place, data: load_model(place / "model"),
    "prepared": lambda place, data: prepare(place / "prepared"),
    "run": lambda place, data: distill(data, place / "run", SETTINGS, resume=True),
}
FILES = [
    "model/weights.safetensors",
    "model/vocabulary.parquet",
    "prepared/vocabulary.json",
    "prepared/train.tokens.npy",
    "prepared/train.offsets.npy",
    "run/state.safetensors",
    "run/metrics.jsonl",
    "run/teachers/run-00.safetensors",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "giant"])
def test_what_is_no_file_of_its_folder_is_named(
    folders: tuple[Path, PreparedData], place: Path, name: str, what: str, tmp_path: Path
) -> None:
    """A link leads out of the folder though its content fits, and a pipe never ends."""
    path = place / name
    if what == "giant":
        if path.suffix == ".npy":
            pytest.skip("what follows an array is not read")
        os.truncate(path, 1 << 40)
    else:
        path.rename(tmp_path / "elsewhere")
        if what == "link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(path) if what == "pipe" else path.mkdir()
    line = refusal(lambda: READS[name.split("/")[0]](place, folders[1]))
    assert str(path) in line or str(path).removesuffix(".tokens.npy") in line
    said = {"link": "a link", "pipe": "a pipe or a device", "folder": "a folder", "giant": ""}
    assert said[what] in line


def test_a_weights_file_that_a_user_names_may_be_a_link(place: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "vocabulary.parquet"):
        (tmp_path / name).symlink_to(place / "model" / name)
    assert load_model(tmp_path / "weights.safetensors").student.width == 8


# ------------------------------------------------------------------------------------- models


def change_model(place: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    path = place / "model" / "weights.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["farzi"])
    tensors = safetensors.torch.load_file(path)
    change(record, tensors)
    safetensors.torch.save_file(tensors, path, {"farzi": json.dumps(record)})


def as_type(kind: torch.dtype) -> Callable[[Any, Any], None]:
    return lambda r, t: t.update({name: value.to(kind) for name, value in t.items()})


WRONG_MODELS: list[tuple[Callable[[Any, Any], None], str]] = [
    (lambda r, t: r["student"].update(width=10**7), "do not fit its settings"),
    (lambda r, t: r["student"].update(num_tokens=10**12), "do not fit its settings"),
    (lambda r, t: r["student"].update(width=10**30), "absurd"),
    (lambda r, t: r["student"].update(num_layers=10**9), "`num_layers` is 1,000,000,000"),
    (lambda r, t: r["student"].update(num_layers=[1]), "`num_layers` must be an int"),
    (lambda r, t: r["student"].update(context_length=-6), "`context_length` must be an int >= 1"),
    (lambda r, t: r["student"].update(context_length=DEEP), "`context_length` must be an int"),
    (lambda r, t: r["student"].update(name={"a": 1}), "unknown student"),
    (lambda r, t: r.update(student=DEEP), "weights.safetensors"),
    (lambda r, t: r["student"].update(name="x" * 9000), "weights.safetensors"),
    (lambda r, t: r["student"].update({"a\x1b[2Jb": 1}), "has no setting"),
    (lambda r, t: r.update(provenance=[1]), "not a weights file"),
    (lambda r, t: r["provenance"].update(protocol=7), "`provenance.protocol` is no object"),
    (as_type(torch.int64), "is torch.int64, no float"),
    (as_type(torch.float8_e4m3fn), "is torch.float8_e4m3fn, no float"),
    (lambda r, t: t.update(embedding=t["embedding"].double()), "of several types"),
]


@pytest.mark.parametrize(("change", "words"), WRONG_MODELS)
def test_a_model_that_cannot_be_is_refused(
    place: Path, change: Callable[[Any, Any], None], words: str
) -> None:
    change_model(place, change)
    line = refusal(lambda: load_model(place / "model"))
    assert words in line
    assert "weights.safetensors" in line


# ----------------------------------------------------------------------------------- prepared


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("events", "../.."),
        ("repeats", None),
        ("k_core", 1.5),
        ("min_length", True),
        ("repeated_events", []),
        ("more", {"a": 1}),
    ],
)
def test_a_protocol_that_says_nothing_is_refused(place: Path, name: str, value: Any) -> None:
    file = place / "prepared" / "prepared.json"
    record = json.loads(file.read_text())
    record["protocol"][name] = value
    file.write_text(json.dumps(record))
    assert f"prepared.json: `protocol.{name}` is" in refusal(lambda: prepare(place / "prepared"))


def test_what_a_file_says_is_quoted_shortly(place: Path) -> None:
    file = place / "prepared" / "test.tokens.npy"
    text = b"1" * 9000
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    assert "test.tokens.npy: cannot be read" in refusal(lambda: prepare(place / "prepared"))
    record = place / "prepared" / "prepared.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "\ud800": 1}))
    assert "unknown: \\ud800" in refusal(lambda: prepare(place / "prepared"))
    value = json.loads(record.read_text())
    del value["protocol"]["k_core"], value["\ud800"]
    record.write_text(json.dumps(value))
    assert "`protocol.k_core` is missing" in refusal(lambda: prepare(place / "prepared"))


def test_a_name_is_printed_without_what_a_terminal_obeys(place: Path) -> None:
    file = place / "prepared" / "prepared.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": "a\x1b[2Jb\n\ud800"}))
    assert "a\\x1b[2Jb\\n\\ud800" in prepare(place / "prepared").protocol_line()


def test_offsets_of_an_absurd_number_take_no_memory(place: Path) -> None:
    file = place / "prepared" / "train.offsets.npy"
    whole = np.load(file)
    np.lib.format.open_memmap(file, "w+", np.int64, (1 << 30,))[-1] = whole[-1]
    mapped = np.lib.format.open_memmap(file, "r+")
    mapped[5] = 7  # falls back to 0 at once
    mapped.flush()
    with bounded(most_allocated=1 << 29):
        line = refusal_within(place)
    assert "`offsets` must rise" in line


def refusal_within(place: Path) -> str:
    with pytest.raises(FarziError) as raised:
        prepare(place / "prepared")
    return str(raised.value)


# --------------------------------------------------------------------------------------- runs


def change_state(place: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    path = place / "run" / "state.safetensors"
    tensors, record = load_sealed(path)
    change(record, tensors)
    save_sealed(path, tensors, record)


WRONG_STATES: list[tuple[Callable[[Any, Any], Any], str]] = [
    (lambda r, t: r.update(step=-1), "`step` must be an int >= 0"),
    (lambda r, t: r.update(step=1.0), "`step` must be an int >= 0"),
    (lambda r, t: r.update(stopped=[1]), "`stopped` must be"),
    (lambda r, t: r.update(best_loss=None), "cannot be read"),
    (lambda r, t: r.update(members=[3]), "cannot be read"),
    (lambda r, t: r["members"][0].update(age="x"), "`members.0.age` must be"),
    (lambda r, t: r.update(temperature="hot"), "cannot be read"),
    (lambda r, t: r["routine"].pop("weight_decay"), "cannot be read"),
    (lambda r, t: r["routine"]["tries"][0].update(loss=DEEP), "`loss` must be a number"),
    (lambda r, t: r["routine"].update(lr=True), "`lr` must be a number"),
    (lambda r, t: r["routine"].update(extra=1), "has no field 'extra'"),
    (lambda r, t: r.update(routine=7), "cannot be read"),
    (lambda r, t: r.pop("routine"), "the field 'routine' is missing"),
    (lambda r, t: t.update({"first/decoder": torch.ones(1)}), "`first/decoder` must be"),
    (lambda r, t: t.update({"best/decoder": t["best/decoder"].double()}), "`best/decoder` must be"),
    (lambda r, t: t.update({"0/params/embedding": torch.ones(2, 2)}), "`0/params/embedding`"),
    (lambda r, t: t.pop("second/latent"), "`second/latent` must be"),
    (lambda r, t: t.update(other=torch.ones(1)), "`other` is no tensor of a state"),
]


@pytest.mark.parametrize(("change", "words"), WRONG_STATES)
def test_a_state_whose_hash_fits_is_held_against_its_run(
    folders: tuple[Path, PreparedData], place: Path, change: Callable[[Any, Any], Any], words: str
) -> None:
    change_state(place, change)
    line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
    assert "state.safetensors" in line
    assert words in line


def test_what_seals_a_file_may_be_anything(folders: tuple[Path, PreparedData], place: Path) -> None:
    path = place / "run" / "state.safetensors"
    tensors = safetensors.torch.load_file(path)
    half = {"x": torch.ones(2, dtype=torch.bfloat16)}
    for sealed in ("[]", "1", '{"record": 1, "sha256": 1}', "[" * 60_000, '{"record": "1"}'):
        for held in (tensors, half):
            safetensors.torch.save_file(held, path, {"sealed": sealed})
            line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
            assert str(path) in line


@pytest.mark.parametrize(
    ("name", "value"), [("length", [0] * 1000), ("a\x1b[2Jb", 1), ("x" * 5000, 1), ("length", DEEP)]
)
def test_settings_are_quoted_shortly(
    folders: tuple[Path, PreparedData], place: Path, name: str, value: Any
) -> None:
    file = place / "run" / "settings.json"
    record = json.loads(file.read_text())
    record["settings"][name] = value
    file.write_text(json.dumps(record))
    line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
    assert line.startswith("--resume: ")


def test_a_record_nested_too_deep_is_no_record(
    folders: tuple[Path, PreparedData], place: Path
) -> None:
    file = place / "run" / "metrics.jsonl"
    file.write_text("[" * 60_000 + "\n" + file.read_text())
    line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
    assert "metrics.jsonl:1: is no record" in line
    assert view_run(place / "run").step == 1
    (place / "run" / "settings.json").write_text("[" * 60_000)
    assert "settings.json: cannot be read" in refusal(lambda: view_run(place / "run"))


@pytest.mark.parametrize(
    "record",
    [
        {"step": 1, "ages": [], "gradient_norm": {"latent": {"a": 1}}},
        {"step": 1, "ages": [], "gradient_norm": 7},
        {"step": 1, "ages": [], "agreement": {"latent": "x"}, "wall_s": "x"},
        {"step": 1, "fresh_loss": "x", "outer_loss": [1]},
    ],
)
def test_a_view_shows_the_numbers_of_a_run_and_nothing_else(
    place: Path, record: dict[str, Any]
) -> None:
    file = place / "run" / "metrics.jsonl"
    file.write_text('{"step": 0, "fresh_loss": 2.5}\n' + json.dumps(record) + "\n")
    text = io.StringIO()
    Console(file=text, width=100).print(render(view_run(place / "run")))
    assert "2.5000" in text.getvalue()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", {"a": 1}),
        ("activation", [0] * 1000),
        ("num_layers", [1]),
        ("num_layers", 2),
        ("width", 10**9),
    ],
)
def test_teachers_that_cannot_be_are_refused_by_file_and_field(
    folders: tuple[Path, PreparedData], place: Path, name: str, value: Any
) -> None:
    file = place / "run" / "teachers" / "omega.json"
    record = json.loads(file.read_text())
    record["student"][name] = value
    file.write_text(json.dumps(record))
    (place / "run" / "state.safetensors").unlink()
    line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
    assert "omega.json: `student`" in line


@pytest.mark.parametrize("change", ["renamed", "another shape", "one more", "one less"])
def test_teachers_whose_weights_are_not_their_students_are_refused_by_file_and_name(
    folders: tuple[Path, PreparedData], place: Path, change: str
) -> None:
    file = place / "run" / "teachers" / "run-00.safetensors"
    tensors, record = load_sealed(file)
    name = "1/blocks.0.feed_forward.up.bias"
    value = tensors.pop(name)
    changed = {
        "renamed": {f"{name}x": value},
        "another shape": {name: value[:1]},
        "one more": {name: value, f"{name}x": value},
        "one less": {},
    }
    save_sealed(file, tensors | changed[change], record)
    (place / "run" / "state.safetensors").unlink()
    line = refusal(lambda: distill(folders[1], place / "run", SETTINGS, resume=True))
    assert f"run-00.safetensors: `{name}" in line
    assert "is not what its student has" in line


@pytest.mark.parametrize("name", ["settings", "versions"])
def test_a_record_of_another_kind_is_no_page(
    folders: tuple[Path, PreparedData], place: Path, name: str
) -> None:
    file = place / "run" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: "x"}))
    line = refusal(lambda: write_report(place / "run", folders[1], out=place / "page.html"))
    assert f"settings.json: `{name}` is no object" in line
    file.write_text("7")
    assert "holds no settings" in refusal(lambda: view_run(place / "run"))
