"""The size that a source gets where none is asked for, and the window where steps are few."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from farzi.cli import main
from farzi.data import prepare
from farzi.data.sequences import Sequences
from farzi.data.sources import SOURCES
from farzi.distill import DistillSettings, plan_run
from farzi.distill.parse import settings_for
from farzi.distill.presets import default_size
from farzi.distill.starts.base import row_choice
from farzi.distill.starts.rows import choose_rows, most_rows
from farzi.errors import SettingsError
from toy import toy_data, write_log


def made_up(lengths, task="recommend", num_items=30):
    draw = np.random.default_rng(0)
    sequences = [draw.integers(num_items, size=length).tolist() for length in lengths]
    return SimpleNamespace(task=task, train=Sequences.from_lists(sequences))


@pytest.mark.parametrize(
    ("lengths", "size"),
    [
        ([40] * 5000, (50, 40)),  # 2 % of 200,000 are more than is made by itself
        ([100] * 600, (35, 34)),  # 1,200 of 60,000
        ([10] * 2500, (50, 10)),  # as long as histories are
        ([60] * 100, (22, 22)),  # 500 of 6,000: 2 % would be too few to learn from
        ([9] * 40, (10, 9)),  # a quarter of 360
        ([4] * 5, (1, 3)),
    ],
)
def test_the_size_follows_the_source(lengths, size):
    data = made_up(lengths)
    found = default_size(data)
    assert (found["num_sequences"], found["length"]) == size


@pytest.mark.parametrize("task", ["recommend", "language"])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("rows", ["auto", "ends", "pieces", "joined"])
def test_no_source_is_too_small_for_its_own_size(task, labels, rows):
    draw = np.random.default_rng(1)
    for number in range(30):
        longest = int(draw.integers(3, 120))
        data = made_up(draw.integers(2, longest, size=int(draw.integers(1, 60))), task)
        given = {}
        if number % 3 == 1:
            given = {"length": int(draw.integers(3, 60))}
        elif number % 3 == 2:
            given = {"num_sequences": 1}
        size = default_size(data, labels=labels, rows=rows, **given)
        assert size.items() >= given.items()
        how = row_choice(rows, task, labels)
        if most_rows(data.train.lengths, size["length"], how=how) == 0:
            assert size["num_sequences"] == 1  # every history is shorter than a piece
            continue
        drawn = choose_rows(data.train, *size.values(), np.random.default_rng(0), how=how)
        assert drawn.tokens.shape == (size["num_sequences"], size["length"])
        assert len(drawn.lengths) == size["num_sequences"]
        assert int(drawn.lengths.min()) > 0
        if not given:
            assert size["num_sequences"] * size["length"] <= max(3, data.train.num_tokens / 4)


def test_known_sources_keep_their_sizes():
    data = made_up([9] * 40)
    data.name = "stdlib-calls"
    settings = settings_for(data)
    assert f"{settings.num_sequences}x{settings.length}" == SOURCES["stdlib-calls"].size == "50x50"


def test_a_small_log_is_distilled_without_a_size(tmp_path, capsys):
    log = write_log(tmp_path / "toy.tsv")
    command = ["distill", str(log), "--task", "recommend", "--out", str(tmp_path / "run")]
    assert main([*command, "--dry-run", "--json", "--inner-steps", "2"]) == 0
    told = capsys.readouterr()
    settings = json.loads(told.out)["settings"]
    assert (settings["num_sequences"], settings["length"]) == (11, 10)
    assert settings["inner"]["window"] == settings["inner"]["steps"] == 2
    assert "size 11x10: 110 tokens, 25 % of 446 training events" in told.err.splitlines()
    quick = ["--start", "real", "--outer-steps", "0", "--inner-steps", "2", "--no-report"]
    assert main([*command, *quick, "--set", "outer.validation_seeds=1"]) == 0
    told = capsys.readouterr()
    assert told.err.count("size 11x10: 110 tokens, 25 % of 446 training events\n") == 1
    assert "warning: the artifact will take about" in told.err
    command[-1] = str(tmp_path / "other")
    assert main([*command, "--size", "50x50", "--dry-run"]) == 1
    assert "make fewer" in capsys.readouterr().err


def test_an_artifact_larger_than_its_data_is_warned_of(tmp_path):
    data = toy_data(tmp_path)  # 446 events: 1,784 bytes
    size = {"num_sequences": 6, "length": 8, "start": "real"}
    kilobytes = 2 * 9 * (2 * 6 * 8 + data.vocabulary.size) / 1e3
    (line,) = plan_run(data, {**size, "latent_dim": 9}).warnings
    assert f"about {kilobytes:,.0f} kB" in line
    assert "stands for 2 kB" in line
    assert plan_run(data, {**size, "latent_dim": 9, "labels": False}).warnings == ()
    assert plan_run(data, {**size, "latent_dim": 4}).warnings == ()


def test_the_window_is_lowered_where_only_steps_are_asked_for(tmp_path):
    data = toy_data(tmp_path)
    assert settings_for(data, {"inner.steps": 2}).inner.window == 2
    assert settings_for(data, {"inner": {"steps": 60}}).inner.window == 25
    assert DistillSettings().with_values({"inner.steps": 2}).inner.window == 2
    long = DistillSettings().with_values({"inner.window": 40})
    assert long.with_values({"inner.steps": 60}).inner.window == 40
    with pytest.raises(SettingsError, match=r"must be at most `inner\.steps` = 2"):
        settings_for(data, {"inner.steps": 2, "inner.window": 3})
    with pytest.raises(SettingsError, match=r"`inner\.steps` must be > 0, got 0\."):
        settings_for(data, {"inner.steps": 0})


def test_many_rows_of_text_have_one_good_teacher_and_its_rank(tmp_path):
    text = prepare("stdlib-docs")

    def settled(data=text, **asked):
        settings = settings_for(data, asked)
        teachers = settings.teachers
        return (
            teachers.num_runs, teachers.dropout, teachers.smoothing, teachers.schedule,
            settings.latent_dim,
        )  # fmt: skip

    several = (4, 0.2, 0.1, "constant", 24)
    one = (1, 0.0, 0.0, "linear", 33)
    assert settled() == settled(num_sequences=399, length=50) == several
    assert settled(num_sequences=400, length=50) == settled(num_sequences=400) == one
    # What is asked for goes first; without labels or teachers there is nothing to hold.
    asked = {"num_sequences": 400, "teachers": {"num_runs": 2}, "latent_dim": 9}
    assert settled(**asked) == (2, 0.0, 0.0, "linear", 9)
    assert settled(num_sequences=400, student={"width": 16}) == (*one[:-1], 17)
    assert settled(num_sequences=400, labels=False) == several
    assert settled(num_sequences=400, start="random")[:4] == several[:4]
    assert settled(num_sequences=400, teachers={"student": "rnn:cell=lstm"}) == several
    log = prepare(write_log(tmp_path / "log.tsv"), task="recommend")
    assert settled(log, num_sequences=400, length=8)[0] == 4


def test_no_outer_step_where_they_win_nothing_unless_something_of_them_is_asked_for():
    text = prepare("stdlib-docs")
    movies, calls = made_up([9] * 40), made_up([9] * 40)
    movies.name, calls.name = "ml-100k", "stdlib-calls"

    def steps(data, **asked):
        settings = settings_for(data, asked)
        return settings.outer.steps, getattr(settings.start, "tokens", None)

    without, loop = (0, "ids"), (40, "soft")
    assert steps(movies) == steps(movies, num_sequences=10, length=7) == without
    assert steps(text, num_sequences=400) == without
    assert steps(calls) == steps(text) == steps(text, num_sequences=399) == loop
    # Whoever asks for something of the loop gets it.
    assert steps(movies, **{"outer.steps": 3}) == (3, "soft")
    assert steps(movies, **{"outer.lr_labels": 0.01}) == loop
    assert steps(movies, objective="gradient_matching") == loop
    assert steps(movies, **{"objective.targets": "teacher"}) == loop
    assert steps(movies, **{"start.tokens": "soft"}) == loop
    assert steps(movies, **{"teachers.num_runs": 2}) == without
    # Without labels, or teachers to make them, the loop is all there is.
    assert steps(movies, labels=False)[0] == 200
    assert steps(movies, start="random")[0] > 0
    assert steps(text, num_sequences=400, start="real")[0] > 0


def test_what_it_means_that_there_is_no_outer_step_is_said(tmp_path):
    data = toy_data(tmp_path)
    size = {"num_sequences": 6, "length": 8, "start": "real"}
    assert "no outer step" in plan_run(data, {**size, "outer.steps": 0}).loop_line
    assert plan_run(data, {**size, "outer.steps": 1}).loop_line == ""
