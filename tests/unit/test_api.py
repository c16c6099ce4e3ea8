"""`import farzi`: a function for each step, typed results, nothing printed."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import farzi
from farzi.data.arguments import HowRead
from farzi.errors import ArtifactError, SettingsError
from toy import write_log

FUNCTIONS = ["prepare", "distill", "train", "evaluate", "compare", "load"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "log.tsv")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented(name: str) -> None:
    function = getattr(farzi, name)
    function = getattr(function, "__wrapped__", function)
    page = inspect.getdoc(function)
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in page, argument
    assert "Raises:" in page


def test_every_name_is_there() -> None:
    for name in farzi.__all__:
        assert getattr(farzi, name) is not None
    assert set(farzi.__all__) <= set(dir(farzi))
    with pytest.raises(AttributeError, match="trian"):
        farzi.trian  # noqa: B018


def test_the_arguments_of_prepare_are_those_that_every_step_takes() -> None:
    taken = set(inspect.signature(farzi.prepare).parameters) - {"source", "progress"}
    assert taken == set(HowRead.__annotations__)


@pytest.mark.slow
def test_mypy_sees_the_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import farzi\n"
        "reveal_type(farzi.train('log.csv').loss)\n"
        "reveal_type(farzi.evaluate('model')['HR@10'])\n"
        "farzi.train('log.csv', user_column='who')\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(program)]
    command += ["--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert len(re.findall('Revealed type is ".*float"', said)) == 2, said
    assert 'Unexpected keyword argument "user_column"' in said


def test_results_can_be_read(log: Path, tmp_path: Path) -> None:
    trained = farzi.train(log, tmp_path / "model", width=8, max_steps=20)
    assert repr(trained).startswith("Training(loss=")
    assert str(tmp_path / "model" / "weights.safetensors") in repr(trained)
    scores = farzi.evaluate(trained)
    lines = repr(scores).splitlines()
    assert lines[0] == f"test: {trained.protocol_line}"
    assert any(line.startswith("  HR@10 ") for line in lines)
    assert scores["HR@10"] == scores.metrics["HR@10"]


def test_a_model_is_scored_the_same_wherever_it_comes_from(log: Path, tmp_path: Path) -> None:
    trained = farzi.train(log, tmp_path / "model", width=8, max_steps=20, split_seed=1)
    expected = farzi.evaluate(trained).metrics
    assert farzi.evaluate(tmp_path / "model").metrics == expected
    loaded = farzi.load_model(tmp_path / "model")
    assert farzi.evaluate(loaded, on=log).metrics == expected
    data = farzi.prepare(log, split_seed=1)
    assert farzi.evaluate(loaded, on=data).metrics == expected
    with pytest.raises(SettingsError, match="name it with `on`"):
        farzi.evaluate(loaded)
    with pytest.raises(ArtifactError, match="trained on other users"):
        farzi.evaluate(loaded, on=farzi.prepare(log, split_seed=2))


def test_nothing_is_trained_over(log: Path, tmp_path: Path) -> None:
    farzi.train(log, tmp_path / "model", width=8, max_steps=10)
    with pytest.raises(SettingsError, match="`overwrite` replaces them"):
        farzi.train(log, tmp_path / "model", width=8, max_steps=10)
    farzi.train(log, tmp_path / "model", width=8, max_steps=10, overwrite=True)


def test_it_logs_and_prints_nothing(
    log: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = []
    with caplog.at_level(logging.INFO, "farzi"):
        trained = farzi.train(log, width=8, max_steps=10, progress=lambda *told: steps.append(told))
    assert trained.weights is None
    assert trained.protocol_line in caplog.messages
    assert steps[-1][:2] == (10, 10)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("max_steps", 0), ("batch_size", -1)])
def test_a_wrong_number_names_its_argument(log: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be an int >= 1, got {value}"):
        farzi.train(log, **{name: value})


def test_a_linear_schedule_goes_on_to_its_end(log: Path) -> None:
    """A patience of one look would have stopped a constant rate that goes up and down."""
    rough = {"width": 8, "lr": 0.3, "max_steps": 200, "patience": 1}
    constant = farzi.train(log, **rough)
    falling = farzi.train(log, **rough, schedule="linear")
    assert constant.stopped == "validation"
    assert constant.curve[-1][0] < 200
    assert falling.stopped == "schedule"
    assert falling.curve[-1][0] == 200
    assert falling.loss < constant.loss
    with pytest.raises(ValueError, match="`schedule` must be constant or linear, got 'cosine'"):
        farzi.train(log, schedule="cosine")


def distilled_small(log: Path, out: Path, **more: Any) -> Any:
    """Four drawn rows of a small student."""
    small = {"student": {"name": "sasrec", "width": 8}, "inner.batch_size": 4}
    sizes = {"size": "4x8", "start": "random", "inner_steps": 5, "window": 5}
    return farzi.distill(log, out, small, **sizes, **more)


def test_rows_with_labels_can_be_shifted_and_nothing_else(log: Path, tmp_path: Path) -> None:
    run = distilled_small(log, tmp_path / "run", outer_steps=0, min_length=3)
    short = {"max_steps": 20, "patience": 20, "lr": 0.05}
    losses = [farzi.train(run.folder, shift=shift, **short).loss for shift in (0, 3, 3)]
    assert losses[0] != losses[1] == losses[2]
    alone = {"labels": False, "student": {"name": "sasrec", "width": 8}}
    tokens = farzi.distill(
        log, tmp_path / "tokens", alone, size="4x8", start="random", outer_steps=0
    )
    with pytest.raises(SettingsError, match="`shift` 3: the artifact has no labels to move"):
        farzi.train(tokens.folder, shift=3)
    with pytest.raises(SettingsError, match="`shift` 3: real sequences are read in windows"):
        farzi.train(log, shift=3)
    with pytest.raises(ValueError, match="`shift` must be an int >= 0, got -1"):
        farzi.train(run.folder, shift=-1)


def test_a_source_becomes_a_run_and_a_model(log: Path, tmp_path: Path) -> None:
    told = []
    run = distilled_small(
        log,
        tmp_path / "run",
        outer_steps=1,
        min_length=3,
        progress=lambda done, total, note: told.append(note),
    )
    assert run.artifact == tmp_path / "run/artifact"
    assert any(note.startswith("outer steps") for note in told)
    distilled = farzi.load(run.folder)
    assert len(distilled) == 4
    trained = farzi.train(run.folder, max_steps=10)
    assert "min length 3" in trained.protocol_line
    again = farzi.train(distilled, on=log, max_steps=10)
    assert again.loss == trained.loss
    assert farzi.evaluate(again).metrics == farzi.evaluate(trained).metrics
    quick = {"lrs": [0.02], "dropouts": [0.0], "smoothings": [0.0], "decays": [0.0], "seeds": 1}
    compared = farzi.compare(run.folder, rows=["full", "farzi"], full_batch=[16], **quick)
    assert [row.name for row in compared.rows] == ["full", "farzi"]
    lines = repr(compared).splitlines()
    assert lines[2].startswith("| full | 48 |")
    assert lines[-1] == trained.protocol_line


@pytest.mark.parametrize(("optimizer", "lr"), [("adam", 0.02), ("adamw", 0.02), ("sgd", 0.01)])
def test_a_rate_of_another_optimiser_is_not_adams(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, optimizer: str, lr: float
) -> None:
    run = distilled_small(log, tmp_path / "run", outer_steps=0, optimizer=optimizer)
    recipe = farzi.load(run.folder).artifact.recipe
    assert (recipe["optimizer"], recipe["lr"]) == (optimizer, 1.0 if optimizer == "sgd" else lr)
    with caplog.at_level("INFO", logger="farzi"):
        trained = farzi.train(run.folder, max_steps=20)
    said = [line for line in caplog.messages if "trained by AdamW" in line]
    assert said == (
        ["trained by AdamW at lr 0.01: the artifact's recipe has a rate for sgd; `lr` sets another"]
        if optimizer == "sgd"
        else []
    )
    assert trained.loss == farzi.train(run.folder, max_steps=20, lr=lr).loss
    assert trained.loss != farzi.train(run.folder, max_steps=20, lr=2 * lr).loss
    with pytest.raises(ValueError, match="`lr` must be > 0"):
        farzi.train(run.folder, lr=0.0)


def test_the_package_that_is_called_is_still_a_package() -> None:
    from farzi import distill
    from farzi.distill.settings import DistillSettings

    assert callable(distill)
    assert distill.DistillSettings is DistillSettings
    assert "size" in inspect.signature(distill).parameters


def test_what_is_prepared_is_not_read_again(log: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`min_length` is of no use"):
        farzi.distill(farzi.prepare(log), tmp_path / "run", min_length=3)


def test_a_model_of_ones_own_is_trained_and_scored(log: Path, tmp_path: Path) -> None:
    import torch

    from farzi.models import from_module

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(12, 4)
            self.body = torch.nn.LSTM(4, 6, batch_first=True)
            self.head = torch.nn.Linear(6, 12)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.table(tokens))[0])

    student = from_module(Tagger, context_length=8)
    out = tmp_path / "model"
    trained = farzi.train(log, task="recommend", student=student, out=out, max_steps=10)
    assert trained.model.student is student
    expected = farzi.evaluate(trained).metrics
    with pytest.raises(SettingsError, match="--student"):
        farzi.evaluate(out)
    assert farzi.evaluate(out, student=student).metrics == expected
    for wrong, message in (
        ({"width": 8}, "`width` must not be given"),
        ({"student": from_module(Tagger, 8), "dropout": 0.1}, "`dropout` must not be given"),
    ):
        with pytest.raises(SettingsError, match=message):
            farzi.train(log, task="recommend", **{"student": student, **wrong})
