"""Draw time a step and peak memory against the number of steps; needs matplotlib.

python benchmarks/plot_engines.py        reads benchmarks/results/engines.json, writes SVGs
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
QUANTITIES = {
    "time": ("ms_per_step", 1.0, "milliseconds a step", "linear"),
    "memory": ("peak_bytes", 1e6, "peak memory above start, MB", "log"),
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
    for quantity, (key, unit, label, scale) in QUANTITIES.items():
        figure, axes = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
        for family in (True, False):  # ours in warm colours, peers in cold ones
            names = [name for name in engines if name.startswith("farzi") == family]
            colours = mpl.colormaps["autumn" if family else "winter"]
            for place, name in enumerate(names):
                rows, share = engines[name], place / max(1, len(names) - 1)
                axes.plot(
                    [row["steps"] for row in rows],
                    [row[key] / unit for row in rows],
                    "-" if family else "--",
                    marker="osD^vP"[place],
                    color=colours(0.85 * share),
                    label=name,
                )
        axes.set(xscale="log", yscale=scale, xlabel="inner steps", ylabel=label)
        if scale == "linear":
            axes.set_ylim(bottom=0)
        else:
            axes.yaxis.set_major_formatter("{x:,.0f}")
        ticks = sorted({row["steps"] for rows in engines.values() for row in rows})
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        figure.legend(fontsize="small", loc="outside right center")
        figure.savefig(RESULTS / f"engines_{quantity}.svg", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
