"""Today's log from yesterday's run: tokens by original id, new ones made up, users kept apart."""

import shutil

import numpy as np
import pytest
import torch

from farzi.artifact import read_artifact
from farzi.cli import main
from farzi.data import prepare
from farzi.data.sequences import Sequences
from farzi.distill import distill, plan_run
from farzi.distill.starts.artifact import ArtifactStart, decoder_for
from farzi.errors import ArtifactError, DataError, SettingsError
from toy import SMALL, write_log

SMALL_FLAGS = {
    "num_sequences": 6,
    "length": 8,
    "latent_dim": 4,
    "student.width": 8,
    "teachers.num_runs": 1,
    "teachers.max_epochs": 3,
    "outer.steps": 1,
    "outer.num_students": 1,
    "inner.steps": 8,
    "inner.window": 4,
}


def logs(tmp_path, split="leave-last-out"):
    """Yesterday's log, and today's: more events of the same users, with an item that is new."""
    first = write_log(tmp_path / "yesterday.tsv")
    lines = first.read_text().splitlines()
    more = [f"u{user}\tnew\t{90 + user % 2}" for user in range(30)]
    more += [f"u{user}\ti{user % 12}\t95" for user in range(60)]
    (tmp_path / "today.tsv").write_text("\n".join([*lines, *more]) + "\n")
    return [prepare(str(tmp_path / f"{day}.tsv"), split=split) for day in ("yesterday", "today")]


def test_tokens_are_matched_and_new_ones_stand_among_their_neighbours(tmp_path):
    yesterday, today = logs(tmp_path)
    run = distill(yesterday, tmp_path / "run", SMALL)
    before = read_artifact(run.artifact)
    plan = plan_run(today, {"outer.steps": 0}, start=ArtifactStart(str(tmp_path / "run")))
    assert (plan.settings.num_sequences, plan.settings.length) == (6, 8)
    assert plan.student.width == 8
    start = plan.settings.start(plan.inputs)
    assert torch.equal(start.latent, before.latent)
    old = dict(zip(before.vocabulary, before.decoder.T, strict=True))
    for token, original in enumerate(today.vocabulary.ids):
        if original in old:
            assert torch.equal(start.decoder[:, token], old[original])
    new = start.decoder[:, list(today.vocabulary.ids).index("new")]
    mean = before.decoder.mean(1)
    assert float(new.norm()) > 0
    # A mean of old columns lies no farther out than the farthest of them.
    farthest = max(float((column - mean).norm()) for column in old.values())
    assert float((new - mean).norm()) <= farthest * (1 + 1e-6)


def test_a_new_token_is_the_mean_of_those_around_it():
    decoder = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]])
    log = Sequences.from_lists([[0, 3, 1], [3, 1], [2, 2, 2, 2]])
    columns = decoder_for(decoder, np.array([0, 1, 2, -1]), log)
    assert torch.equal(columns[:, :3], decoder)
    torch.testing.assert_close(columns[:, 3], (decoder[:, 0] + 2 * decoder[:, 1]) / 3)


def test_a_new_token_beside_none_that_is_known_is_of_its_popularity():
    decoder = torch.tensor([[1.0, 2.0, 4.0]])
    log = Sequences.from_lists([[0, 0, 0, 0], [1, 2], [1, 2], [3], [3]])
    columns = decoder_for(decoder, np.array([0, 1, 2, -1]), log)
    assert float(columns[0, 3]) == 3.0  # of tokens 1 and 2, which are there twice as well


def test_the_run_begins_where_yesterday_ended_and_resumes(tmp_path, capsys):
    logs(tmp_path)
    common = ["--split", "leave-last-out", "--task", "recommend", "-q", "--no-report"]
    small = [part for name, value in SMALL_FLAGS.items() for part in ("--set", f"{name}={value}")]
    command = ["distill", str(tmp_path / "yesterday.tsv"), "--out", str(tmp_path / "run"), *common]
    assert main([*command, *small]) == 0
    today = ["distill", str(tmp_path / "today.tsv"), "--out", str(tmp_path / "next"), *common]
    today += ["--start", "artifact", "--from", str(tmp_path / "run"), "--outer-steps", "2"]
    today += ["--set", "outer.num_students=2", "--set", "inner.steps=8", "--set", "inner.window=4"]
    assert main(today) == 0
    assert main([*today, "--resume"]) == 0
    assert not (tmp_path / "next/teachers").exists()
    assert read_artifact(tmp_path / "next").recipe["start"] == "artifact"


def test_users_who_may_have_changed_sides_are_refused_or_told(tmp_path):
    yesterday, _ = logs(tmp_path, split="users")
    distill(yesterday, tmp_path / "run", SMALL)
    today = prepare(str(tmp_path / "yesterday.tsv"), split="users", split_seed=1)
    with pytest.raises(ArtifactError, match="today's test users may be among them"):
        plan_run(today, None, start=ArtifactStart(str(tmp_path / "run")))
    told = plan_run(today, None, start=ArtifactStart(str(tmp_path / "run"), other_users=True))
    assert "better than they should" in told.warnings[0]
    assert plan_run(yesterday, None, start=ArtifactStart(str(tmp_path / "run"))).warnings == ()


def test_what_does_not_fit_is_named(tmp_path):
    yesterday, today = logs(tmp_path)
    with pytest.raises(SettingsError, match="--from RUN"):
        plan_run(today, None, start="artifact")
    with pytest.raises(ArtifactError, match="no such folder"):
        plan_run(today, None, start=ArtifactStart(str(tmp_path / "nowhere")))
    distill(yesterday, tmp_path / "run", SMALL)
    with pytest.raises(SettingsError, match="`num_sequences` must be 6"):
        plan_run(today, {"num_sequences": 5}, start=ArtifactStart(str(tmp_path / "run")))


def test_a_run_whose_start_has_changed_does_not_go_on(tmp_path):
    yesterday, today = logs(tmp_path)
    distill(yesterday, tmp_path / "run", SMALL)
    settings = {"outer.steps": 2, "inner.steps": 8, "inner.window": 4, "outer.num_students": 1}
    start = ArtifactStart(str(tmp_path / "run"))
    distill(today, tmp_path / "next", settings, start=start)
    shutil.rmtree(tmp_path / "run")
    distill(yesterday, tmp_path / "run", SMALL.with_values({"seed": 1}))
    with pytest.raises(DataError, match=r"state\.safetensors: `start`"):
        distill(today, tmp_path / "next", settings, start=start, resume=True)
