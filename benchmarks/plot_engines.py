"""Draw time a step and peak memory against the number of steps; needs matplotlib.

python benchmarks/plot_engines.py        reads benchmarks/results/engines.json, writes SVGs
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
QUANTITIES = {
    "time": ("ms_per_step", 1.0, "milliseconds a step"),
    "memory": ("peak_bytes", 1e6, "peak memory above start, MB"),
}


def fastest(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of each engine, its faster way of writing the loss at every number of steps."""
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        key = row["engine"], row["steps"]
        known = best.get(key)
        if row["installed"] and (known is None or row["ms_per_step"] < known["ms_per_step"]):
            best[key] = row
    engines: dict[str, list[dict[str, Any]]] = {}
    for engine, steps in sorted(best, key=lambda key: key[1]):
        engines.setdefault(engine, []).append(best[engine, steps])
    return engines


def main() -> None:
    """Write one figure a quantity."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "farzi", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    engines = fastest(json.loads((RESULTS / "engines.json").read_text())["rows"])
    for quantity, (key, unit, label) in QUANTITIES.items():
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for engine, rows in engines.items():
            style = "o-" if engine.startswith("farzi") else "s--"
            values = [row[key] / unit for row in rows]
            axes.plot([row["steps"] for row in rows], values, style, label=engine)
        axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel=label)
        ticks = sorted({row["steps"] for rows in engines.values() for row in rows})
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(RESULTS / f"engines_{quantity}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
