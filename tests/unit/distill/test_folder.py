"""A run folder that was damaged, or left half written: one line that names file and field."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from farzi.distill import distill, sealed
from farzi.distill.folder import _younger
from farzi.errors import DataError, FarziError, SettingsError
from toy import SMALL, toy_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped after three outer steps: its files, and its data."""
    folder = tmp_path_factory.mktemp("run")
    data = toy_data(folder)
    taken = []
    distill(
        data,
        folder / "run",
        SMALL,
        report=lambda stage, done, total, note: taken.append(stage == "outer steps"),
        should_stop=lambda: sum(taken) >= 3,
    )
    held = {p.relative_to(folder / "run"): p.read_bytes() for p in (folder / "run").rglob("*.*")}
    return data, {name: content for name, content in held.items() if name.suffix != ".lock"}


def copy_of(run, tmp_path):
    for name, content in run[1].items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    return tmp_path / "run"


def without(*names):
    def change(text):
        values = json.loads(text)
        inner = values
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]
        return json.dumps(values)

    return change


DAMAGES = [
    ("metrics.jsonl", None, "metrics.jsonl: cannot be read"),
    ("metrics.jsonl", lambda text: "", "`fresh_loss` of outer step 0"),
    ("metrics.jsonl", lambda text: text[:-20], "metrics.jsonl:5: is no record"),
    ("metrics.jsonl", lambda text: text.splitlines()[0], "outer steps 1 to 3"),
    ("metrics.jsonl", lambda text: '{"stop": 0}\n' + text, "metrics.jsonl:1: `step`"),
    ("settings.json", lambda text: text[:50], "settings.json: cannot be read"),
    ("settings.json", lambda text: "[]", "settings.json: holds no settings"),
    ("settings.json", without("settings", "inner", "steps"), "`settings.inner.steps` is missing"),
    ("settings.json", without("kernels"), "`kernels` is missing"),
    ("teachers/omega.json", lambda text: "{", "omega.json: cannot be read"),
    ("teachers/omega.json", without("losses"), "omega.json: `losses`"),
    ("teachers/omega.json", without("best"), "omega.json: `best`"),
    ("teachers/omega.json", lambda text: text.replace("]]", ", 9.0]]"), "run-00.safetensors"),
    ("teachers/run-00.safetensors", None, "run-00.safetensors: cannot be read"),
    ("state.safetensors", lambda text: text[:90], "state.safetensors: cannot be read"),
]


@pytest.mark.parametrize(("name", "change", "said"), DAMAGES)
def test_damage_is_named(run, tmp_path, name, change, said):
    folder = copy_of(run, tmp_path)
    path = folder / name
    if change is None:
        path.unlink()
    else:
        encoding = "latin-1" if path.suffix == ".safetensors" else "utf-8"
        path.write_text(change(path.read_text(encoding)), encoding)
    before = {p: p.read_bytes() for p in folder.rglob("*.*") if p.suffix != ".lock"}
    with pytest.raises(FarziError) as caught:
        distill(run[0], folder, SMALL, resume=True)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    after = {p: p.read_bytes() for p in folder.rglob("*.*") if p.suffix != ".lock"}
    assert after == before  # nothing is lost


def test_a_run_of_an_earlier_version_goes_on(run, tmp_path):
    """Its record lacks the settings that came later; they were then what their defaults are now."""
    folder = copy_of(run, tmp_path)
    record = folder / "settings.json"
    settings = json.loads(record.read_text())
    for name in _younger():
        settings = json.loads(without(*name.split("."))(json.dumps(settings)))
    record.write_text(json.dumps(settings))
    dropping = replace(SMALL, inner=replace(SMALL.inner, dropout=0.1))
    with pytest.raises(SettingsError, match=r"inner.dropout was 0.0 .* and is 0.1 now"):
        distill(run[0], folder, dropping, resume=True)
    assert distill(run[0], folder, SMALL, resume=True).outer_steps == 6


@pytest.mark.parametrize("name", ["state.safetensors", "teachers/run-00.safetensors"])
@pytest.mark.parametrize("place", [0.02, 0.3, 0.7, 0.999])
def test_a_flipped_bit_is_refused(run, tmp_path, name, place):
    folder = copy_of(run, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=Path(name).name):
        distill(run[0], folder, SMALL, resume=True)


def test_a_missing_field_of_the_state_is_named(run, tmp_path):
    folder = copy_of(run, tmp_path)
    tensors, record = sealed.load_sealed(folder / "state.safetensors")
    del record["best_loss"]
    sealed.save_sealed(folder / "state.safetensors", tensors, record)
    with pytest.raises(DataError, match="the field 'best_loss' is missing"):
        distill(run[0], folder, SMALL, resume=True)


def test_other_kernels_do_not_go_on(run, tmp_path, monkeypatch):
    folder = copy_of(run, tmp_path)
    was = json.loads((folder / "settings.json").read_text())["kernels"]
    now = {"compiled": None, "plain torch": object()}[was]
    monkeypatch.setattr("farzi.distill.run.kernels_for", lambda *tensors: now)
    with pytest.raises(SettingsError, match=f"kernels was '{was}'"):
        distill(run[0], folder, SMALL, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_before_its_settings_were_in_place_begins(run, tmp_path, resume):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.lock").touch()
    (folder / ".settings.json").write_text("{")
    none = SMALL.with_values({"outer.steps": 0, "start": "random"})
    assert distill(run[0], folder, none, resume=resume).artifact is not None


def test_drafts_of_killed_runs_are_removed(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for draft in (".metrics.jsonl", ".state.safetensors", "teachers/.run-01.safetensors"):
        (folder / draft).write_text("half")
    distill(run[0], folder, SMALL, resume=True)
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("name", ["state.safetensors", "metrics.jsonl", "omega.json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(run, tmp_path, monkeypatch, name):
    rename = Path.rename

    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DataError, match=rf"{name}: cannot be written .*No space left"):
        distill(run[0], tmp_path / "run", SMALL)
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()]
    assert distill(run[0], tmp_path / "run", SMALL, resume=True).artifact is not None


def test_finished_teacher_runs_are_kept(run, tmp_path):
    two = SMALL.with_values({"teachers.num_runs": 2, "outer.steps": 0})
    notes = []
    distill(
        run[0],
        tmp_path / "run",
        two,
        report=lambda stage, done, total, note: notes.append(note),
        should_stop=lambda: any("run 2 of 2" in note for note in notes),
    )
    first = tmp_path / "run/teachers/run-00.safetensors"
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "run/teachers/omega.json").exists()
    distill(run[0], tmp_path / "run", two, resume=True)
    assert first.stat().st_mtime_ns == written
    distill(run[0], tmp_path / "whole", two)
    for name in ("run-00.safetensors", "run-01.safetensors"):
        whole = sealed.load_sealed(tmp_path / "whole/teachers" / name)
        parts = sealed.load_sealed(tmp_path / "run/teachers" / name)
        assert whole[1] == parts[1]
        assert sealed.digest_of(whole[0]) == sealed.digest_of(parts[0])
    assert any("epoch" in note and "validation loss" in note for note in notes)
