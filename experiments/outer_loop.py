"""What the outer loop adds: full data, the start alone, and the distilled sequences, in one table.

    farzi distill ml-100k --config experiments/ml-100k.toml --split-seed 0 1 2 --out runs/ml-100k
    farzi distill ml-100k --config experiments/ml-100k.toml --split-seed 0 1 2 \
        --outer-steps 0 --out runs/ml-100k-start
    farzi compare ml-100k --artifact runs/ml-100k --json experiments/results/ml-100k.json
    farzi compare ml-100k --artifact runs/ml-100k-start --rows farzi --json start.json
    python experiments/outer_loop.py experiments/results/ml-100k.json start.json runs/ml-100k \
        experiments/results/ml-100k-outer-loop.json
"""

import json
import statistics
import sys
from pathlib import Path

HEADLINE = ("HR@10", "HR@100", "nDCG@10", "nDCG@100")


def row(result, name, new_name):
    found = next(row for row in result["rows"] if row["name"] == name)
    return {**found, "name": new_name}


def ratio_to(full, other):
    ratios = {
        name: other["metrics"][name]["mean"] / full["metrics"][name]["mean"] for name in HEADLINE
    }
    return {**ratios, "mean": statistics.fmean(ratios.values())}


def curves(runs):
    """Fresh students' validation loss at every look, by split."""
    looks = {}
    for folder in sorted(runs.glob("split-*")):
        records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        looks[folder.name] = [
            {"outer_step": record["step"], "fresh_loss": record["fresh_loss"]}
            | {"agreement": record.get("agreement", {})}
            for record in records
            if "fresh_loss" in record
        ]
    return looks


def main(whole, start, runs, out):
    whole, start = (json.loads(Path(path).read_text()) for path in (whole, start))
    full = row(whole, "full", "full")
    before = row(start, "farzi", "start alone (0 outer steps)")
    after = row(whole, "farzi", "after the outer loop")
    result = {
        "protocol_line": whole["protocol_line"],
        "rows": [full, before, after],
        "paired": [],
        "ratios": {each["name"]: ratio_to(full, each) for each in (before, after)},
        "curves": curves(Path(runs)),
    }
    Path(out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
