"""The commands that crash campaigns kill, starve and start twice, on a toy log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from crash_campaign import Case
from toy import SMALL, SMALL_EXPERIMENT

EXPERIMENT = (
    """\
source = "{log}"
splits = [0]
seeds = 1
sizes = ["4x6"]
rows = ["random", "farzi"]

"""
    + SMALL_EXPERIMENT
)


def distil(shared: Path, out: str) -> list[str]:
    arguments = ["distill", str(shared / "log.tsv"), "--task", "recommend", "--out", out, "-q"]
    return [*arguments, "--config", str(shared / "small.json"), "--no-report"]


def stage_of_run(folder: Path) -> str:
    run = folder / "run"
    if not (run / "settings.json").exists():
        return "start-up"
    if not (run / "teachers/omega.json").exists():
        return "teachers"
    if not (run / "state.safetensors").exists():
        return "first students"
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    return "outer loop" if json.loads(last)["step"] < SMALL.outer.steps else "artifact"


def cases(shared: Path) -> dict[str, Case]:
    log, run = str(shared / "log.tsv"), shared / "run"

    def resume(folder: Path) -> list[str]:
        begun = (folder / "run").is_dir() and any((folder / "run").iterdir())
        return [*distil(shared, "run"), *(["--resume"] if begun else [])]

    train = ["train", str(run), "--out", "model", "--max-steps", "120", "-q"]
    prepare = ["prepare", log, "--out", "prepared", "-q"]
    compare = ["compare", "run", "--on", log, "--rows", "random", "farzi", "--seeds", "2"]
    compare += ["--grid-lr", "0.01", "--max-steps", "60", "--patience", "2", "-q", "--no-report"]
    compare += ["--json", "out.json"]
    experiments = ["experiments", "run", str(shared / "toy.toml"), "--results", "results"]
    experiments += ["--runs", "runs", "-q"]
    export = ["export", str(run), "--to", "hf", "--out", "exported", "-q"]
    small = ["export", str(run), "--to", "artifact", "--dtype", "int8", "--out", "small", "-q"]
    rows = ["export", str(run), "--to", "topk", "--out", "rows.parquet", "-q"]

    def forced(arguments: list[str], out: str, *files: str) -> Callable[[Path], list[str]]:
        def again(folder: Path) -> list[str]:
            done = all((folder / out / file).exists() for file in files or [""])
            return [*arguments, *(["--force"] if done else [])]

        return again

    def there(out: str) -> Callable[[Path], str]:
        return lambda folder: "written" if (folder / out).exists() else "before it is written"

    def own_run(folder: Path) -> None:
        shutil.copytree(run, folder / "run")

    def stage_of_experiment(folder: Path) -> str:
        cells = len(list((folder / "results").rglob("cells/*.json")))
        return f"{cells} of 6 cells"

    def stage_of_compare(folder: Path) -> str:
        cells = len(list((folder / "run").rglob("*.json")))
        return f"{cells} results"

    return {
        "distill": Case("distill", distil(shared, "run"), resume, stage_of_run),
        "train": Case(
            "train", train, forced(train, "model", "weights.safetensors"), there("model")
        ),
        "prepare": Case("prepare", prepare, forced(prepare, "prepared"), there("prepared")),
        "compare": Case("compare", compare, lambda _: compare, stage_of_compare, own_run),
        "experiments": Case("experiments", experiments, lambda _: experiments, stage_of_experiment),
        "export hf": Case("export hf", export, forced(export, "exported"), there("exported")),
        "export artifact": Case("export artifact", small, forced(small, "small"), there("small")),
        "export topk": Case(
            "export topk", rows, forced(rows, "rows.parquet"), there("rows.parquet")
        ),
    }
