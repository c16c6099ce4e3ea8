import contextlib
import json

import pytest

from farzi.cli import main
from farzi.distill import distill
from farzi.errors import DataError, SettingsError
from farzi.evaluation import evaluate
from farzi.experiments.ahead import Elsewhere, Piece, next_piece
from farzi.experiments.compare import CompareSettings
from farzi.experiments.comparison import Comparison
from farzi.experiments.opened import Opener
from farzi.experiments.rows import ROWS
from farzi.models.weights import load_weights
from toy import SMALL, toy_data, write_log

ONE_SETTING = (
    "--patience 6 --grid-lr 0.1 --grid-dropout 0 --grid-smoothing 0 --grid-decay 0 --full-batch 8"
)


def test_every_row_is_there_and_sized_alike(tmp_path, capsys):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    out = tmp_path / "out.json"
    command = ["compare", str(tmp_path / "run"), "--seeds", "2", "--json", str(out), "-q"]
    assert main([*command, *ONE_SETTING.split(), "--max-steps", "200"]) == 0
    result = json.loads(out.read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert tuple(rows) == tuple(ROWS)
    for name in ("random", "random-soft", "head", "head-soft", "coreset-soft", "farzi"):
        assert rows[name]["sequences"] == 6
        assert rows[name]["tokens"] <= 6 * (8 + (name != "farzi"))
        assert rows[name]["num_runs"] == 2
    full, popular = (rows[name]["metrics"] for name in ("full", "most-popular"))
    # Of twelve items on circles two tell the next; counts alone know little more than chance.
    assert full["MRR"]["mean"] > 2 * popular["MRR"]["mean"]
    finished = {name for name, row in rows.items() if row["finished"]}
    assert {"full", "full-soft", "teachers", "most-popular"} <= finished
    assert set(result["ratios"]) == finished - {"full"}
    pairs = {(pair["b"], pair["metric"]) for pair in result["paired"]}
    assert ("most-popular", "nDCG@10") in pairs or "farzi" not in finished
    again = json.loads(json.dumps(Comparison.from_json(result).to_json()))
    assert again["rows"] == result["rows"]
    assert "of full" in capsys.readouterr().out


def test_finished_runs_are_kept_in_the_run(tmp_path, capsys):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    command = ["compare", str(tmp_path / "run"), "--seeds", "1", "--rows", "random", "--json", "-q"]
    command += ONE_SETTING.split()
    assert main(command) == 0
    first = capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "compared").iterdir()}
    assert main(command) == 0
    assert capsys.readouterr().out == first
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "compared").iterdir()}
    assert now == kept
    assert main([*command, "--fresh"]) == 0
    assert {path.stat().st_mtime_ns for path in kept}.isdisjoint(kept.values())


def test_the_first_split_can_choose_for_all(tmp_path, capsys):
    for split in (3, 5):
        data = toy_data(tmp_path, split_seed=split)
        distill(data, tmp_path / "runs" / f"split-{split}", SMALL)
    out = tmp_path / "out.json"
    command = ["compare", str(tmp_path / "runs" / "split-3"), "--seeds", "1", "--tune-once", "-q"]
    command += ["--artifact", str(tmp_path / "runs" / "split-5"), "--rows", "random", "farzi"]
    command += [*ONE_SETTING.split(), "--grid-lr", "0.1", "0.02", "--json", str(out)]
    assert main(command) == 0
    result = json.loads(out.read_text())
    assert result["split_seeds"] == [3, 5]
    for row in result["rows"]:
        assert row["num_runs"] == 2
        assert [(choice["split_seed"], choice["tries"]) for choice in row["chosen"]] == [(3, 2)]
    kinds = [path.name.split(".")[0] for path in (tmp_path / "runs/split-5/compared").iterdir()]
    assert sorted(kinds) == ["score", "score"]


def test_several_processes_find_what_one_does(tmp_path, capsys):
    for split in (3, 5):
        data = toy_data(tmp_path, split_seed=split)
        distill(data, tmp_path / "runs" / f"split-{split}", SMALL)
        distill(data, tmp_path / "starts" / f"split-{split}", SMALL.with_values({"outer.steps": 0}))
    command = ["compare", str(tmp_path / "runs"), "--seeds", "1", "--tune-once", "--json", "-q"]
    command += ["--rows", "most-popular", "random-soft", "farzi"]
    command += ["--also", f"before={tmp_path / 'starts'}", *ONE_SETTING.split()]
    assert main([*command, "--jobs", "2"]) == 0
    together = capsys.readouterr().out
    kept = list((tmp_path / "runs").glob("*/compared/*.json"))
    names = {json.loads(path.read_text())["identity"]["row"] for path in kept}
    assert names == {"most-popular", "random-soft", "farzi", "before"}
    assert main([*command, "--fresh"]) == 0
    alone, together = (json.loads(text) for text in (capsys.readouterr().out, together))
    assert [row["metrics"] for row in together["rows"]] == [row["metrics"] for row in alone["rows"]]
    assert [row["num_runs"] for row in together["rows"]] == [2, 2, 2, 2]
    assert together["clock"] == alone["clock"]
    assert main([*command, "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "farzi: --jobs must be at least 1, got 0.\n"


def test_processes_begin_with_the_searches_that_students_wait_for():
    search, other = (Piece(0, 0, row, None) for row in ("full", "farzi"))
    first, second = (Piece(0, 0, "full", seed, needs=search) for seed in (0, 1))
    pieces = [first, second, search, Piece(0, 0, "farzi", 0, needs=other), other]
    assert next_piece(pieces, done=set()) is search
    assert next_piece([first, second, other], done={search}) is other
    assert next_piece([first, second], done={search}) is first
    assert next_piece([first], done=set()) is None


def test_what_another_process_cannot_make_fails_here(tmp_path):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    settings = CompareSettings(rows=("random",), seeds=1, max_steps=20)
    piece = Piece(0, 0, "random", None)
    told = []
    for folder, fails in ((tmp_path / "kept", False), (tmp_path / "toy.tsv", True)):
        elsewhere = Elsewhere(Opener((tmp_path / "run",)), jobs=2)
        with pytest.raises(DataError) if fails else contextlib.nullcontext():
            elsewhere.make(
                [piece], settings, [folder], "code", "cpu", lambda done, note: told.append(note)
            )
    assert "split 0, random" in told
    assert {path.name.split(".")[0] for path in (tmp_path / "kept").iterdir()} == {"tune", "try"}


def test_further_runs_are_rows_of_their_own(tmp_path, capsys):
    data = toy_data(tmp_path)
    distill(data, tmp_path / "run", SMALL)
    distill(data, tmp_path / "start", SMALL.with_values({"outer.steps": 0}))
    command = ["compare", str(tmp_path / "run"), "--seeds", "1", *ONE_SETTING.split()]
    command += ["--rows", "full", "farzi", "--json", "-q", "--also"]
    assert main([*command, f"before={tmp_path / 'start'}"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in result["rows"]] == ["full", "before", "farzi"]
    assert set(result["ratios"]) == {"before", "farzi"}
    for wrong in (f"full={tmp_path / 'start'}", str(tmp_path / "start")):
        assert main([*command, wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_artifact_is_refused_on_another_source(tmp_path, capsys):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    other = write_log(tmp_path / "other.tsv", seed=1)
    code = main(["compare", str(other), "--task", "recommend", "--artifact", str(tmp_path / "run")])
    assert code == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_train_and_evaluate_an_artifact(tmp_path, capsys):
    data = toy_data(tmp_path)
    distill(data, tmp_path / "run", SMALL)
    log = str(tmp_path / "toy.tsv")
    common = ["--task", "recommend", "-q"]
    command = ["train", str(tmp_path / "run"), "--on", log, "--out", str(tmp_path / "m"), *common]
    assert main([*command, "--max-steps", "30"]) == 0
    assert main(command) == 2
    assert main(["evaluate", str(tmp_path / "m"), "--on", log, "--json", *common]) == 0
    shown = capsys.readouterr().out
    shown = json.loads(shown[shown.index("{") :])
    student, params, _ = load_weights(tmp_path / "m/weights.safetensors")
    assert shown["metrics"] == pytest.approx(evaluate(student, params, data).metrics)
    assert shown["counts"]["events_scored"] == data.test.num_tokens - len(data.test)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": ("full", "fazri")},
        {"seeds": 0},
        {"batches": (64, 0)},
        {"lrs": ()},
        {"lrs": (0.0,)},
        {"dropouts": (1.0,)},
        {"decays": (-0.1,)},
        {"max_steps": 0},
        {"tune_sweeps": 0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingsError):
        CompareSettings(**wrong)


def test_the_command_names_its_own_flags(tmp_path, capsys):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    command = ["compare", str(tmp_path / "run"), "-q"]
    for wrong, message in (
        (["--grid-lr", "0"], "--grid-lr: 0.0 cannot be tried."),
        (["--full-batch", "0"], "--full-batch must be at least 1, got 0."),
        (["--rows", "fazri"], "--rows: unknown row 'fazri'"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
