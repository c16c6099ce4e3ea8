"""Draw docs/picture.svg, the picture at the top of README.md, from an experiment's cells.

    python scripts/draw_picture.py

Many real sequences, a few synthetic ones whose every place mixes items, and what a small model
trained on either is worth. `scripts/render_docs.py` draws it too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from farzi.experiments.collected import collect

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path("docs") / "picture.svg"
RESULT = Path("experiments") / "results" / "magazine-25x20"

HUES = ("#b5532b", "#d79b5f", "#6d8f4e", "#3d7f86", "#54698f", "#8b6a9b", "#b9a88f", "#9c4a5a")
STYLE = """
text { font: 15px ui-sans-serif, system-ui, -apple-system, "Segoe UI", sans-serif; fill: #4f4a43; }
.big { font-size: 17px; font-weight: 600; fill: #1d1b18; }
.arrow { fill: none; stroke: #8a8377; stroke-width: 1.6; }
.track { fill: #e9e4da; } .bar { fill: #8a8377; } .own { fill: #a23b14; }
@media (prefers-color-scheme: dark) {
  text { fill: #b9b2a6; } .big { fill: #f0ece3; } .arrow { stroke: #8f887c; }
  .track { fill: #37332c; } .bar { fill: #8f887c; } .own { fill: #f19a70; }
}
"""


def draw(root: Path) -> str:
    """Return the picture; the same results give the same bytes."""
    found = collect(root / RESULT)
    comparison = None if found is None else found.groups[0].comparison
    if comparison is None:
        raise SystemExit(f"{RESULT}: holds no comparison to draw.")
    rows = {row.name: row for row in comparison.rows}
    ratios = {name: comparison.ratio(name) or 0.0 for name in ("farzi", "random")} | {"full": 1.0}
    full, few = rows["full"], rows["farzi"]
    length = round(few.tokens / few.sequences)
    parts = [
        *real_sequences(0, 22),
        arrow(282, 374, "distil, once"),
        *synthetic_sequences(392, 62),
        arrow(592, 684, "train, often"),
        *bars(704, 58, ratios),
        words(0, 258, f"{full.sequences:,.0f} real sequences", f"{full.tokens:,.0f} events"),
        words(
            392,
            258,
            f"{few.sequences:,.0f} synthetic ones",
            f"of {length} places, each a mix of items",
        ),
        words(704, 258, "a small model", "trained on each: ranking, of full data"),
    ]
    description = (
        f"{full.sequences:,.0f} real sequences are distilled into {few.sequences:,.0f} synthetic "
        f"ones; a small model trained on those ranks at {ratios['farzi']:.1%} of one trained on "
        "everything."
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 300" role="img" '
        f'aria-label="{description}">\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def real_sequences(x: int, y: int, rows: int = 22, cells: int = 26) -> list[str]:
    """Many rows of different lengths, one colour a place."""
    draws = np.random.RandomState(3)
    parts = []
    for row in range(rows):
        length = int(cells * min(1.0, 0.35 + draws.exponential(0.35)))
        for cell in range(length):
            hue = HUES[min(len(HUES) - 1, int(draws.exponential(2.2)))]
            parts.append(
                f'<rect x="{x + cell * 10}" y="{y + row * 9.5:.1f}" width="8.5" height="7" rx="1" '
                f'fill="{hue}"/>'
            )
    return parts


def synthetic_sequences(x: int, y: int, rows: int = 5, cells: int = 10) -> list[str]:
    """A few rows whose places are mixtures: stripes as high as their shares."""
    draws = np.random.RandomState(5)
    parts = []
    for row in range(rows):
        for cell in range(cells):
            shares = draws.dirichlet([0.55] * 4)
            hues = draws.choice(len(HUES), 4, replace=False)
            top = float(y + row * 28)
            for hue, share in zip(hues, shares, strict=True):
                height = 22 * float(share)
                parts.append(
                    f'<rect x="{x + cell * 18.5:.1f}" y="{top:.2f}" width="16" '
                    f'height="{height:.2f}" fill="{HUES[hue]}"/>'
                )
                top += height
    return parts


def bars(x: int, y: int, ratios: dict[str, float]) -> list[str]:
    """What a model trained on each is worth, as a share of full data."""
    shown = [
        ("full", "everything", "bar"),
        ("farzi", "the synthetic ones", "own"),
        ("random", "as many real ones", "bar"),
    ]
    parts = []
    for place, (name, words_of, kind) in enumerate(shown):
        top = y + place * 52
        width = 190 * ratios[name] / max(ratios.values())
        parts += [
            f'<text x="{x}" y="{top + 12}">{words_of}</text>',
            f'<rect class="track" x="{x}" y="{top + 20}" width="190" height="9" rx="2"/>',
            f'<rect class="{kind}" x="{x}" y="{top + 20}" width="{width:.1f}" height="9" rx="2"/>',
            f'<text class="big" x="{x + 202}" y="{top + 31}">{100 * ratios[name]:.0f} %</text>',
        ]
    return parts


def arrow(start: int, end: int, label: str) -> str:
    middle = (start + end) / 2
    return (
        f'<path class="arrow" d="M{start},128 L{end},128 '
        f'M{end - 9},122 L{end},128 L{end - 9},134"/>'
        f'<text x="{middle}" y="114" text-anchor="middle">{label}</text>'
    )


def words(x: int, y: int, first: str, second: str) -> str:
    return (
        f'<text class="big" x="{x}" y="{y}">{first}</text>'
        f'<text x="{x}" y="{y + 24}">{second}</text>'
    )


def main() -> None:
    (ROOT / PICTURE).write_text(draw(ROOT))
    print(PICTURE)


if __name__ == "__main__":
    main()
