"""What the outer loop adds, with labels and in the published format: a table and a figure.

    farzi distill ml-100k --size 50x50 --split-seed 0 1 2 --out runs/ml-100k
    farzi distill ml-100k --size 50x50 --split-seed 0 1 2 --outer-steps 0 --out runs/ml-100k-start
    farzi compare ml-100k --artifact runs/ml-100k --also start=runs/ml-100k-start \\
        --json experiments/results/ml-100k.json
    farzi distill ml-100k --size 50x50 --split-seed 0 1 2 --set labels=false --out runs/published
    farzi distill ml-100k --size 50x50 --split-seed 0 1 2 --set labels=false --outer-steps 0 \\
        --out runs/published-start
    farzi compare ml-100k --artifact runs/published --also start=runs/published-start \\
        --rows full farzi --json experiments/results/ml-100k-published.json
    python experiments/outer_loop.py runs/ml-100k runs/published

Writes experiments/results/ml-100k-outer-loop.json and .svg; the figure needs matplotlib.
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
FORMATS = {"with labels": "ml-100k", "tokens alone": "ml-100k-published"}
NAMES = {"start": "start", "farzi": "distilled"}


def curve(run):
    """Fresh students' validation loss, and how well students agree, at every look."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [
        {
            "outer_step": record["step"],
            "fresh_loss": record["fresh_loss"],
            "agreement": record.get("agreement", {}),
        }
        for record in records
        if "fresh_loss" in record
    ]


def draw(curves):
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "farzi", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(8, 3.5), layout="constrained")
    for axis, (name, splits) in zip(axes, curves.items(), strict=True):
        for split, looks in splits.items():
            steps = [look["outer_step"] for look in looks]
            axis.plot(steps, [look["fresh_loss"] for look in looks], "o-", ms=3, label=split)
        axis.set(title=name, xlabel="outer steps", ylabel="fresh students' validation loss")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(RESULTS / "ml-100k-outer-loop.svg", metadata={"Date": None})


def main(*runs):
    rows, ratios, curves, paired, protocol_line = [], {}, {}, [], ""
    for (title, name), run in zip(FORMATS.items(), map(Path, runs), strict=True):
        result = json.loads((RESULTS / f"{name}.json").read_text())
        kept = {row["name"]: row for row in result["rows"]}
        if not rows:
            rows.append(kept["full"])
            protocol_line = result["protocol_line"]
        for old, new in NAMES.items():
            rows.append({**kept[old], "name": f"{title}: {new}"})
            ratios[f"{title}: {new}"] = result["ratios"][old]
        paired += [
            {**pair, "a": f"{title}: distilled", "b": f"{title}: start"}
            for pair in result["paired"]
            if pair["b"] == "start"
        ]
        curves[title] = {folder.name: curve(folder) for folder in sorted(run.glob("split-*"))}
    result = {
        "protocol_line": protocol_line,
        "rows": rows,
        "paired": paired,
        "ratios": ratios,
        "curves": curves,
    }
    (RESULTS / "ml-100k-outer-loop.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(curves)


if __name__ == "__main__":
    main(*sys.argv[1:])
