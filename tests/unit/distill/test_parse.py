"""Settings from files, flags and mappings: one tree, every mistake at once, each with its place."""

import json

import pytest

from farzi.cli import main
from farzi.distill import DistillSettings, plan_run
from farzi.distill.objectives.meta_matching import MetaMatching
from farzi.distill.parse import read_file, read_flags, settings_for
from farzi.errors import SettingsError
from farzi.metagrad import SGD, Checkpointed
from toy import SMALL, toy_data, write_log

TOML = """\
latent_dim = 5

[inner]
stepz = 4
window = 900

[inner.optimizer]
name = "sgd"
lr = -1.0

[teachers]
lr = "fast"
"""


def test_every_mistake_is_named_with_line_value_and_close_name(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    flags = read_flags(["lr=3"], {"student.name": ("--student", "sasrek")})
    with pytest.raises(SettingsError) as caught:
        settings_for(toy_data(tmp_path), read_file(path), flags)
    parts = str(caught.value).split("; ")
    assert len(parts) == 6
    for place, name, value in [
        (f"{path}:4:", "inner.steps", "4"),
        (f"{path}:5:", "`inner.steps` = 200", "900"),
        (f"{path}:9:", "inner.optimizer.lr", "-1.0"),
        (f"{path}:12:", "teachers.lr", "'fast'"),
        ("--set lr=3:", "inner.optimizer.lr or teachers.lr", "3"),
        ("--student sasrek:", "did you mean sasrec", "sasrek"),
    ]:
        found = [part for part in parts if part.startswith(place)]
        assert len(found) == 1, place
        assert name in found[0]
        assert value in found[0]


def test_python_files_and_flags_give_the_same_settings(tmp_path):
    data = toy_data(tmp_path)
    (tmp_path / "a.toml").write_text(
        'start = "random"\n[inner]\nsteps = 60\noptimizer = {name = "sgd", momentum = 0.5}\n'
    )
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "start": {"name": "random"},
                "inner": {"steps": 60, "optimizer": {"name": "sgd", "momentum": 0.5}},
            }
        )
    )
    texts = [
        "start=random",
        "inner.steps=60",
        "inner.optimizer=sgd",
        "inner.optimizer.momentum=0.5",
    ]
    ways = [
        settings_for(data, read_file(tmp_path / "a.toml")),
        settings_for(data, read_file(tmp_path / "a.json")),
        settings_for(data, read_flags(texts, {})),
        plan_run(
            data, {"inner.steps": 60, "inner.optimizer": SGD(1.0, momentum=0.5)}, start="random"
        ).settings,
    ]
    ways = [plan_run(data, way).settings for way in ways]  # every size of the student is known
    assert all(way == ways[0] for way in ways)
    assert ways[0].inner.optimizer == SGD(lr=1.0, momentum=0.5)


def test_what_a_run_wrote_can_be_read_as_its_settings(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SMALL.as_dict()))
    assert settings_for(toy_data(tmp_path), read_file(path)) == SMALL


def test_later_layers_go_before_earlier_ones(tmp_path):
    data = toy_data(tmp_path)
    both = settings_for(data, {"outer": {"steps": 3, "patience": 9}}, {"outer.steps": 5})
    assert (both.outer.steps, both.outer.patience) == (5, 9)
    value = settings_for(data, {"inner.optimizer.momentum": 0.5}, {"inner.optimizer": SGD(0.1)})
    assert value.inner.optimizer == SGD(0.1)


def test_presets_hold_for_python_too(tmp_path):
    text = tmp_path / "prose.txt"
    text.write_text("one two three four five six\n" * 40)
    from farzi.data import prepare

    data = prepare(str(text), task="language")
    assert settings_for(data).student.name == "transformer"
    assert settings_for(data).teachers.max_epochs == 12
    log = toy_data(tmp_path)
    assert settings_for(log, {"labels": False}).outer.steps == 200
    assert settings_for(log, {"labels": False, "outer.steps": 7}).outer.steps == 7


def test_one_value_of_several_needs_no_brackets(tmp_path):
    data = toy_data(tmp_path)
    said = {"routine.decays": 0.1, "routine.dropouts": [0.2, 0.3]}
    settings = settings_for(data, {}, said)
    assert (settings.routine.decays, settings.routine.dropouts) == ((0.1,), (0.2, 0.3))
    with pytest.raises(SettingsError, match=r"`routine.decays` must be a valid number, got 'much'"):
        settings_for(data, {}, {"routine.decays": "much"})


def test_values_are_taken_as_they_are(tmp_path):
    plan = plan_run(
        toy_data(tmp_path),
        SMALL,
        objective=MetaMatching(from_teachers=0.5),
        optimizer=SGD(0.3, momentum=0.9),
        adjoint=Checkpointed(slots=2),
        start="random",
    )
    written = plan.settings.as_dict()
    assert written["objective"] == {
        "name": "meta_matching",
        "targets": "data",
        "from_teachers": 0.5,
    }
    assert written["inner"]["adjoint"]["slots"] == 2
    assert written["start"] == {"name": "random"}
    assert DistillSettings().inner.optimizer.hyper["lr"] == 0.02


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--student", "sasrek"], "sasrec"),
        (["--size", "900x8"], "900 synthetic sequences"),
        (["--inner-optimizer", "sgd", "--set", "inner.optimizer.momentum=0"], "cannot be undone"),
        (["--set", "student.num_heads=3"], "num_heads"),
        (["--out", "{file}/run"], "is not a folder"),
        (["--out", "{used}"], "not empty"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(tmp_path, capsys, flags, named):
    log = write_log(tmp_path / "toy.tsv")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine.txt").write_text("mine")
    places = {"file": log, "used": tmp_path / "used"}
    flags = [flag.format(**places) for flag in flags]
    out = [] if "--out" in flags else ["--out", str(tmp_path / "run")]
    common = ["distill", str(log), "--adjoint", "reversible", "-q", *out]
    common += flags if "--size" in flags else ["--size", "6x8", *flags]
    refused = []
    for command in ([*common, "--dry-run"], common):
        assert main(command) in (1, 2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert named in lines[0]
        refused.append(lines[0])
    assert refused[0] == refused[1]
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "used/mine.txt").read_text() == "mine"
