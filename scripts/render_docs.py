"""Fill the generated parts of README.md, ARCHITECTURE.md, docs/ and benchmarks/README.md.

    python scripts/render_docs.py            write them
    python scripts/render_docs.py --check    fail where one is out of date

A part stands between `<!-- KIND:NAME -->` and `<!-- /KIND:NAME -->`:

    overview:sources  the table of README.md, a line a source and size, from finished cells: what
                  full data and the distilled rows give, in which seconds and bytes
    summary:NAME  experiments/results/NAME.json, a comparison as `farzi compare --json` prints it:
                  the headline metrics, and differences from the rows worth beating
    table:NAME    the same with every metric and every difference
    engines:NAME  benchmarks/results/NAME.json, as benchmarks/bench_engines.py writes it
    fastest:NAME  the same at the largest number of steps, each engine with its faster loss
    speeds:NAME   benchmarks/results/NAME.json, as benchmarks/bench_outer_loop.py writes it
    prepare:NAME  benchmarks/results/NAME.json, as benchmarks/bench_prepare.py writes it
    ranks:NAME    benchmarks/results/NAME.json, as benchmarks/bench_ranks.py writes it
    ranking:NAME  benchmarks/results/NAME.json, as benchmarks/bench_ranking.py writes it
    newcomer:NAME  benchmarks/results/NAME.json, as benchmarks/first_quarter_hour.py writes it
    tree:folders  the folders and top modules of src/farzi, with the first lines of their docstrings
    tree:files    every module, likewise
    inputs:read   tests/data_cases.py: sources that are read, and what is made of them
    inputs:refused  the same: sources that are refused, and what is said
    example:NAME  examples/NAME.py, as code
    storage:NAME  experiments/results/NAME.json, as experiments/storage.py writes it
    daily:NAME    experiments/results/NAME.json, as experiments/daily.py writes it
    cold:NAME     experiments/results/NAME.json, as experiments/cold.py writes it
    scale:NAME    experiments/results/NAME.json, as experiments/scale.py writes it
    scoring:NAME  experiments/results/NAME.json, as experiments/scoring.py writes it
    limits:NAME   experiments/results/NAME.json, as experiments/limits.py writes it
    steps:NAME    benchmarks/results/NAME.json, as benchmarks/bench_artifact_step.py writes it
    privacy:NAME  experiments/results/NAME.json, as experiments/privacy.py writes it
    results:NAME  a part of docs/results/index.md, from the cells in experiments/results/*/cells

docs/results/NAME.md, the figures beside it and docs/picture.svg are written whole. No number in
the documentation is typed.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from farzi.experiments.collected import Collected, break_even, collect
from farzi.experiments.comparison import Comparison
from farzi.experiments.overview import chosen_rows, index_parts, of_teachers
from farzi.experiments.pages import experiment_page
from farzi.experiments.tables import (
    markdown,
    number,
    ratio_interval,
    seconds,
    times,
    trainings,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from draw_picture import PICTURE, draw  # noqa: E402
from result_plots import plots  # noqa: E402

PART = re.compile(
    r"(<!-- (overview|summary|table|tree|engines|fastest|speeds|inputs|prepare|ranks|ranking"
    r"|newcomer|example|storage|scoring|scale|daily|cold|limits|steps|privacy|results)"
    r":([\w.-]+) -->\n)"
    r"(.*?)(<!-- /\2:\3 -->)",
    re.DOTALL,
)


STOPPED = {"validation": "ended by validation", "cap": "ended by the limit"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fill the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if out of date")
    check = parser.parse_args(arguments).check
    stale = [path for path in documents(ROOT) if fill_document(path, ROOT, write=not check)]
    stale += [path for path in (ROOT / PICTURE,) if draw_document(path, ROOT, write=not check)]
    stale += write_results(ROOT, write=not check)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date: make docs' if check else 'written'}")
    return int(check and bool(stale))


def documents(root: Path) -> list[Path]:
    return [
        *sorted(root.glob("*.md")),
        *sorted(root.glob("docs/**/*.md")),
        *sorted(root.glob("benchmarks/*.md")),
        *sorted(root.glob("experiments/*.md")),
    ]


def fill_document(path: Path, root: Path, *, write: bool) -> bool:
    """Render a document's parts; return whether that changes it."""

    of_results: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "summary": ("experiments", render_summary),
        "table": ("experiments", render_table),
        "storage": ("experiments", render_storage),
        "scoring": ("experiments", render_scoring),
        "privacy": ("experiments", render_privacy),
        "daily": ("experiments", render_daily),
        "cold": ("experiments", render_cold),
        "scale": ("experiments", render_scale),
        "limits": ("experiments", render_limits),
        "steps": ("benchmarks", render_steps),
        "engines": ("benchmarks", render_engines),
        "speeds": ("benchmarks", render_speeds),
        "ranks": ("benchmarks", render_ranks),
        "ranking": ("benchmarks", render_ranking),
        "prepare": ("benchmarks", render_prepare),
        "newcomer": ("benchmarks", render_newcomer),
    }

    def render(part: re.Match[str]) -> str:
        opening, kind, name, _, closing = part.groups()
        if kind in of_results:
            folder, from_result = of_results[kind]
            body = render_result(root, root / folder / "results" / f"{name}.json", from_result)
        else:
            renderers = {
                "overview": render_overview,
                "tree": render_tree,
                "fastest": render_fastest,
                "inputs": render_inputs,
                "example": render_example,
                "results": render_results,
            }
            body = renderers[kind](root, name)
        return f"{opening}\n{body}\n\n{closing}"

    text = path.read_text()
    filled = PART.sub(render, text)
    if write and filled != text:
        path.write_text(filled)
    return filled != text


def draw_document(path: Path, root: Path, *, write: bool) -> bool:
    """Draw the picture of README.md; return whether that changes it."""
    picture = draw(root)
    changed = not path.is_file() or path.read_text() != picture
    if write and changed:
        path.write_text(picture)
    return changed


# --------------------------------------------------------------------------------------- results


def render_overview(root: Path, name: str) -> str:
    """Return a line for each source and size, of the row that validation chooses."""
    head = ["", "sequences", "of full", "students", "teachers", "s on full data", "s distilled"]
    head += ["pays after", "bytes"]
    lines = [table_line(head), table_line(["---", *("---:" for _ in head[1:])])]
    for experiment, group, comparison, few in chosen_rows(collected(root)):
        full = comparison.row("full")
        pays = {each.row: each.earliest for each in break_even(group)}
        cells = [
            f"[{group.source} {group.title}](docs/results/{experiment}.md)",
            f"{full.sequences:,} → {few.sequences:,}",
            f"{number(comparison.ratio(few.name))} {ratio_interval(comparison, few.name)}".strip(),
            str(few.num_runs),
            number(of_teachers(group, few)),
            *(seconds(row.seconds) for row in (full, few)),
            trainings(pays[few.name]),
            times(few.bytes / (4 * group.events)),
        ]
        lines.append(table_line(cells))
    return "\n".join(lines)


def render_result(root: Path, path: Path, render: Callable[[Mapping[str, Any]], str]) -> str:
    """Return what a file of results comes to, or that it is not there."""
    if not path.exists():
        return f"*Not run yet: {path.relative_to(root)} is not there.*"
    return render(json.loads(path.read_text()))


def render_summary(result: Mapping[str, Any]) -> str:
    """Return a comparison's headline: sizes, scores, ratio to full data, the harder differences."""
    return markdown(Comparison.from_json(result), summary=True)


def render_table(result: Mapping[str, Any]) -> str:
    """Return one comparison: every metric of every row, every difference, every ratio."""
    return markdown(Comparison.from_json(result))


def render_example(root: Path, name: str) -> str:
    """Return an example as a block of code."""
    code = (root / "examples" / f"{name}.py").read_text()
    return f"```python\n{code.rstrip()}\n```"


def render_storage(result: Mapping[str, Any]) -> str:
    """Return bytes, error and loss of every way to store an artifact."""
    lines = [
        "| source | tokens | factors | kB | tokens changed | labels changed | loss |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        changed = [
            f"{row[f'{kind}_changed']:.1e} ({row[f'{kind}_changed_most']:.1e})"
            for kind in ("tokens", "labels")
        ]
        lines.append(
            f"| {row['source']} | {row['tokens']} | {row['dtype']} | {row['bytes'] / 1000:,.0f} | "
            f"{' | '.join(changed)} | {row['loss']:.4f} ± {row['loss_spread']:.4f} |"
        )
    return "\n".join([*lines, "", result["protocol"]])


def render_scoring(result: Mapping[str, Any]) -> str:
    """Return the scores of one student by the old rule and by the present one, side by side."""
    lines = [table_line(["source", "", "last context alone", "every target"])]
    lines.append(table_line(["---", "---", "---:", "---:"]))
    for row in result["rows"]:
        for metric, before in row["before"].items():
            values = [before, row["after"][metric]]
            form = "{:,}" if metric == "targets" else "{:.4f}"
            label = "test targets scored" if metric == "targets" else metric
            lines.append(table_line([row["source"], label, *(form.format(v) for v in values)]))
        if "seen_items_after" in row:
            kinds = [row["seen_items_before"], row["seen_items_after"]]
            said = [", ".join(sorted(set(kind))) for kind in kinds]
            splits = f"seen items, {len(kinds[0])} split seeds"
            lines.append(table_line([row["source"], splits, *said]))
    return "\n".join(lines)


def render_privacy(result: Mapping[str, Any]) -> str:
    """Return what each start costs in loss and what an audit finds in it."""
    attacks = [attack["name"] for attack in result["rows"][0]["audit"]["attacks"]]
    back = [f"{row['run']} in a row" for row in result["rows"][0]["audit"]["read_back"]]
    head = ["start", "loss", *(f"AUC: {attack}" for attack in attacks), *back]
    lines = [table_line(head), table_line(["---", *["---:"] * (len(head) - 1)])]
    for row in result["rows"]:
        audit = row["audit"]
        cells = [row["start"], f"{row['loss']:.3f}"]
        cells += [f"{a['auc']:.2f} ({a['low']:.2f}-{a['high']:.2f})" for a in audit["attacks"]]
        cells += [f"{each['train'] / each['places']:.0%}" for each in audit["read_back"]]
        lines.append(table_line(cells))
    return "\n".join([*lines, "", result["protocol"]])


def render_daily(result: Mapping[str, Any]) -> str:
    """Return what today's distillation costs and gives, from nothing and from yesterday's."""
    metrics = list(result["rows"][0]["scores"])
    costs = ["outer steps", "s of teachers", "s in all"]
    lines = [table_line(["", *costs, "loss before", "loss after", *metrics])]
    lines.append(table_line(["---", *["---:"] * (len(costs) + 2 + len(metrics))]))
    for row in result["rows"]:
        seconds = row["teachers_seconds"] + row["seconds"]
        cells = [row["said"], str(row["outer_steps"]), f"{row['teachers_seconds']:,.0f}"]
        cells += [f"{seconds:,.0f}", f"{row['start_loss']:.3f}", f"{row['best_loss']:.3f}"]
        for metric, (mean, std) in row["scores"].items():
            scale, form = (1, ".3f") if metric == "loss" else (100, ".1f")
            spread = f" ± {scale * std:{form}}" if row["runs"] > 1 else ""
            cells.append(f"{scale * mean:{form}}{spread}")
        lines.append(table_line(cells))
    before, now = result["events"]
    said = (
        f"{result['source']}: {before:,} training events yesterday, {now:,} today, "
        f"{result['users'][1] - result['users'][0]:,} new users and {result['new_items']:,} new "
        f"items. Fresh students a row: {result['rows'][0]['runs']}; losses before and "
        "after the outer loop are on validation. Seconds: processor time on one thread."
    )
    return "\n".join([*lines, "", said, "", result["protocol"]])


def render_cold(result: Mapping[str, Any]) -> str:
    """Return nDCG@10 by bins of the target's training events and of the user's history."""
    asked = {"items": "training events of the target", "users": "events before the target"}
    parts = []
    for group in result["groups"]:
        for kind, said in asked.items():
            bins = group["kinds"][kind]
            ranges = [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in bins["ranges"]]
            lines = [table_line([f"{group['source']} {group['size']}: {said}", *ranges])]
            lines.append(table_line(["---", *["---:"] * len(ranges)]))
            lines.append(table_line(["test users", *(f"{n:,}" for n in bins["test_users"])]))
            for row, values in bins["rows"].items():
                cells = [f"{value:.3f}" for value in values["nDCG@10"]]
                lines.append(table_line([f"{row} ({group['runs'][row]})", *cells]))
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def render_scale(result: Mapping[str, Any]) -> str:
    """Return what every stage took, by source, and what came out; nothing where it was not run."""
    rows = dict(sorted(result["rows"].items(), key=lambda row: row[1]["events"]))
    lines = [table_line(["", *rows]), table_line(["---", *["---:"] * len(rows)])]
    lines += [
        table_line([count, *(f"{row[count]:,}" for row in rows.values())])
        for count in ("events", "users", "items")
    ]

    def line(name: str, stage: str, say: Callable[[Mapping[str, Any]], str]) -> str:
        there = [row["stages"].get(stage) for row in rows.values()]
        return table_line([name, *("" if took is None else say(took) for took in there)])

    def took(stage: Mapping[str, Any]) -> str:
        size = f"{stage['peak_bytes'] / 2**20:,.0f} MiB"
        return f"{stage['cpu_s']:,.0f} s, {stage['wall_s']:,.0f} s, {size}"

    def end(stage: Mapping[str, Any]) -> str:
        return f"{stage['said']['steps']:,}, {STOPPED[stage['said']['stopped']]}"

    most = max(rows.values(), key=lambda row: len(row["stages"]))  # a made-up log is made first
    stages = dict.fromkeys([*most["stages"], *(s for row in rows.values() for s in row["stages"])])
    lines += [line(stage, stage, took) for stage in stages]
    for name, stage in (("fifty rows", "score fifty rows"), ("the log", "score the log")):
        for metric in ("nDCG@10", "loss"):

            def score(stage: Mapping[str, Any], metric: str = metric) -> str:
                return f"{stage['said']['metrics'][metric]:.3f}"

            lines.append(line(f"{metric}, {name}", stage, score))
    for name, stage in (("fifty rows", "train on fifty rows"), ("the log", "train on the log")):
        lines.append(line(f"best step, {name}", stage, end))
    epochs = [f"{row['epochs']:,}" for row in rows.values()]
    lines.append(table_line(["epochs of a teacher at most", *epochs]))
    return "\n".join(lines)


def render_limits(result: Mapping[str, Any]) -> str:
    """Return what came out at the edges, a line a source; under the table what was refused."""
    head = ["source", "events", "users", "items", "nDCG@10, all data", "ten rows", "most popular"]
    head += [
        "loss, all data",
        "ten rows",
        "s to distil",
        "s to train, all data",
        "ten rows",
        "peak MiB",
    ]
    lines = [table_line(head), table_line(["---", *["---:"] * (len(head) - 1)])]
    refused = []
    for row in result["rows"].values():
        if "refused" in row:
            refused.append(f"- {row['what']}: `{row['refused']}`")
            continue
        ranked, loss, seconds = row.get("nDCG@10", {}), row.get("loss", {}), row["seconds"]
        values = [f"{ranked[key]:.3f}" if ranked else "" for key in ("full", "few", "most popular")]
        values += [f"{loss[key]:.3f}" if loss else "" for key in ("full", "few")]
        stages = ("distil", "train on all", "train on ten rows")
        values += [f"{seconds[stage]:.1f}" if stage in seconds else "" for stage in stages]
        counts = [f"{row[count]:,}" for count in ("events", "users", "items")]
        lines.append(table_line([row["what"], *counts, *values, f"{row['peak_mib']:,}"]))
    return "\n".join([*lines, "", "Refused:", "", *refused] if refused else lines)


def render_steps(result: Mapping[str, Any]) -> str:
    """Return what a step costs on every form of distilled sequences."""
    lines = [table_line(["", "form", "ms a step", "against plain tokens"])]
    lines.append(table_line(["---", "---", "---:", "---:"]))
    for row in result["rows"]:
        cells = [row["size"], row["form"], f"{row['ms']:.2f}", f"{row['ratio']:.2f}"]
        lines.append(table_line(cells))
    versions = versions_of(result)
    note = (
        f"batches of {result['batch_size']}, rank {result['rank']}; {result['hardware']}, one "
        f"thread, load {result['load']:.0f}; {versions}."
    )
    return "\n".join([*lines, "", note])


@functools.cache  # every part of the pages is made from the same cells
def collected(root: Path) -> list[Collected]:
    """Every experiment that has run, by name."""
    folders = sorted((root / "experiments" / "results").glob("*/plan.json"))
    return [found for path in folders if (found := collect(path.parent)) is not None]


def render_results(root: Path, name: str) -> str:
    return index_parts(collected(root))[name]


def write_results(root: Path, *, write: bool) -> list[Path]:
    """Write the page of every experiment and the figures; return those that were out of date."""
    all_found = collected(root)
    files = {f"{found.name}.md": experiment_page(found) for found in all_found}
    files |= plots(all_found)
    stale = []
    for name, text in files.items():
        path = root / "docs" / "results" / name
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if write:
                path.write_text(text)
    return stale


def render_engines(result: Mapping[str, Any]) -> str:
    """Return time, memory and agreement of every engine, peers against the fastest of them.

    A result of `--rounds 0` has memory and agreement alone.
    """
    measured = "ms_per_step" if result["timed_calls"] else "gradient_error"
    rows = [row for row in result["rows"] if row[measured] is not None]
    head = [
        "steps",
        "engine",
        "loss",
        "ms a step",
        "against fastest peer",
        "peak MB",
        "gradient error",
    ]
    lines = [table_line(head), table_line(["---:", "---", "---", *("---:" for _ in head[3:])])]
    for row in rows:
        peers = [
            peer["ms_per_step"]
            for peer in rows
            if peer["steps"] == row["steps"] and not peer["engine"].startswith("farzi")
        ]
        ms, error = row["ms_per_step"], row["gradient_error"]
        ratio_to_peer = f"{min(peers) / ms:.2f}x" if peers and ms else ""
        lines.append(
            table_line(
                [
                    str(row["steps"]),
                    row["engine"],
                    row["head"],
                    f"{ms:.1f}" if ms else "",
                    ratio_to_peer,
                    f"{row['peak_bytes'] / 1e6:.0f}",
                    "" if error is None else f"{error:.1e}",
                ]
            )
        )
    versions = versions_of(result)
    counts = sorted({len(row["ms_per_step_all"]) for row in rows})
    calls = " to ".join(str(count) for count in dict.fromkeys((*counts[:1], *counts[-1:])))
    ready = {(row["engine"], row["steps"]) for row in rows}  # with the other loss, if not with both
    late = [
        f"{r['engine']} at {r['steps']} steps"
        for r in result["rows"]
        if not r.get("in_time", 1) and (r["engine"], r["steps"]) not in ready
    ]
    how = f"median of {calls} calls in turns" if result["timed_calls"] else "not timed"
    threads = f"{result['threads']} threads"
    note = f"{result['date']}, {result['hardware']}, {threads}; {how}; {versions}."
    if late:
        note += f" Not ready within the benchmark's minutes: {', '.join(late)}."
    return "\n".join([*lines, "", note])


def render_fastest(root: Path, name: str) -> str:
    """Return one row an engine at the largest number of steps."""
    result = json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text())
    steps = max(row["steps"] for row in result["rows"])
    best: dict[str, Mapping[str, Any]] = {}
    for row in result["rows"]:
        if row["ms_per_step"] is not None and row["steps"] == steps:
            known = best.setdefault(row["engine"], row)
            if row["ms_per_step"] < known["ms_per_step"]:
                best[row["engine"]] = row
    lines = [
        table_line([f"{steps} steps", "ms a step", "peak MB"]),
        table_line(["---", "---:", "---:"]),
    ]
    lines += [
        table_line([engine, f"{row['ms_per_step']:.1f}", f"{row['peak_bytes'] / 1e6:,.0f}"])
        for engine, row in best.items()
    ]
    return "\n".join([*lines, "", f"{result['hardware']}, {result['threads']} threads."])


def render_speeds(result: Mapping[str, Any]) -> str:
    """Return outer steps a second of every way, against the first."""
    lines = [table_line(["", "outer steps a second", "against the first", "outer loss"])]
    lines.append(table_line(["---", "---:", "---:", "---:"]))
    first = result["rows"][0]["outer_steps_per_s"]
    for row in result["rows"]:
        speed = row["outer_steps_per_s"]
        cells = [row["way"], f"{speed:.3f}", f"{speed / first:.2f}x", f"{row['outer_loss']:.5f}"]
        lines.append(table_line(cells))
    versions = versions_of(result)
    note = f"{result['source']}; {result['hardware']}, {result['threads']} threads; {versions}."
    return "\n".join([*lines, "", note])


def render_ranks(result: Mapping[str, Any]) -> str:
    """Return students a second of one process and of several, and the efficiency of the several."""
    lines = [table_line(["processes", "students a second", "all passes", "efficiency"])]
    lines.append(table_line(["---:", "---:", "---:", "---:"]))
    for row in result["rows"]:
        passes = ", ".join(f"{value:.2f}" for value in row["all"])
        speed = f"{row['students_per_s']:.2f}"
        lines.append(table_line([str(row["ranks"]), speed, passes, f"{row['efficiency']:.2f}"]))
    versions = versions_of(result)
    note = f"{result['date']}, {result['source']}; {result['hardware']}, one thread a process, "
    return "\n".join([*lines, "", f"{note}load {result['load']:.0f}; {versions}."])


def render_prepare(result: Mapping[str, Any]) -> str:
    """Return time and memory of preparing logs, a line a size."""
    head = ["events", "users", "items", "MB of Parquet", "s", "s of all threads", "peak GiB"]
    lines = [table_line(head), table_line(["---:"] * len(head))]
    for row in result["rows"]:
        counts = [f"{row[count]:,}" for count in ("events", "users", "items")]
        times = [f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}"]
        size, peak = f"{row['file_bytes'] / 1e6:,.0f}", f"{row['peak_bytes'] / 2**30:.2f}"
        lines.append(table_line([*counts, size, *times, peak]))
    versions = versions_of(result)
    note = f"{result['date']}, {result['hardware']}, load {result['load']:.0f}; {versions}."
    return "\n".join([*lines, "", note])


def render_ranking(result: Mapping[str, Any]) -> str:
    """Return time and memory of scoring a test part by full ranking, a line a number of users."""
    head = ["users", "items", "events scored", "s", "s of the processor", "ms a user", "peak GiB"]
    lines = [table_line(head), table_line(["---:"] * len(head))]
    for row in result["rows"]:
        counts = [f"{row[count]:,}" for count in ("users", "items", "events_scored")]
        times = [f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}"]
        times.append(f"{1000 * row['cpu_s'] / row['users']:.2f}")
        lines.append(table_line([*counts, *times, f"{row['peak_bytes'] / 2**30:.2f}"]))
    versions = versions_of(result)
    note = f"{result['date']}, {result['hardware']}, {result['threads']} threads, "
    return "\n".join([*lines, "", f"{note}load {result['load']:.0f}; {versions}."])


def render_newcomer(result: Mapping[str, Any]) -> str:
    """Return what a newcomer's first commands take, a line each."""
    head = ["what", "typed", "min by the clock", "min of the processor"]
    lines = [table_line(head), table_line(["---", "---", "---:", "---:"])]
    rows = [*result["rows"], {"step": "**together**"}]
    for key in ("wall_s", "cpu_s"):
        rows[-1][key] = sum(row[key] for row in result["rows"])
    for row in rows:
        typed = f"`{row['command']}`" if "command" in row else ""
        minutes = [f"{row[key] / 60:.1f}" for key in ("wall_s", "cpu_s")]
        lines.append(table_line([row["step"], typed, *minutes]))
    note = (
        f"{result['date']}, {result['cores']} cores, shared with other work: "
        f"{result['load']:.0f} runnable processes when it began, {result['load_after']:.0f} at the "
        f"end. `make demo` waits for downloads too. The log has {result['events']:,} events."
    )
    return "\n".join([*lines, "", note])


def versions_of(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in result["versions"].items())


def table_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# ---------------------------------------------------------------------------------------- inputs


def render_inputs(root: Path, name: str) -> str:
    """Return the table of the sources that the tests read, or of those that they see refused."""
    sys.path.insert(0, str(root / "tests"))
    try:
        import data_cases
    finally:
        sys.path.remove(str(root / "tests"))
    if name == "read":
        lines = [table_line(["source", "as", "made of it", "said of it"]), table_line(["---"] * 4)]
        for case in data_cases.READ:
            said = "<br>".join(cell(line) for line in case.said)
            lines.append(table_line([*source_cells(case), cell(describe(case.made)), said]))
        return "\n".join(lines)
    lines = [table_line(["source", "as", "refused with"]), table_line(["---"] * 3)]
    for case in data_cases.REFUSED:
        message = case.message.format(source=case.name, folder=".")
        lines.append(table_line([*source_cells(case), cell(message)]))
    return "\n".join(lines)


def source_cells(case: Any) -> list[str]:
    """Return what a source is, and its name with the flags it is read with."""
    flags = f" {case.flags}" if case.flags else ""
    return [f"{case.group}: {case.what}", f"`{printable(case.name + flags)}`"]


COUNTS = {
    "users": "{} users",
    "items": "{} items",
    "events": "{} events",
    "words": "{} words",
    "train_sentences": "{} training sentences",
    "test_sentences": "{} test sentences",
    "train_tokens": "{} training tokens",
}


def describe(made: Mapping[str, Any]) -> str:
    """Return counts in words, and settings by their names."""
    named = (
        COUNTS[name].format(value) if name in COUNTS else f"`{name}` {printable(str(value))}"
        for name, value in made.items()
    )
    return ", ".join(named)


def cell(text: str) -> str:
    """Return text that stands in a table as it is."""
    return printable(text).replace("<", "&lt;").replace("|", "\\|")


def printable(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t").replace("\x1b", "\\x1b")


# ------------------------------------------------------------------------------------------ tree


def render_tree(root: Path, name: str) -> str:
    lines = [
        f"{indent}{label:{28 - len(indent)}}{clause}".rstrip()
        for indent, label, clause in tree_entries(root, files=name == "files")
    ]
    return "\n".join(["```", "src/farzi/", *lines, "```"])


def tree_entries(root: Path, *, files: bool) -> Iterator[tuple[str, str, str]]:
    """Yield indentation, name and clause of each entry, the lowest layer first."""
    package = root / "src" / "farzi"
    layers = import_layers(root)
    for layer in reversed(layers):
        folder = package / layer
        if (folder / "__init__.py").exists():
            yield "  ", f"{layer}/", first_line(folder / "__init__.py")
            if files:
                yield from folder_entries(folder, "    ")
        elif (package / f"{layer}.py").exists():
            yield "  ", f"{layer}.py", first_line(package / f"{layer}.py")


def folder_entries(folder: Path, indent: str) -> Iterator[tuple[str, str, str]]:
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").exists():
            yield indent, f"{path.name}/", first_line(path / "__init__.py")
            yield from folder_entries(path, indent + "  ")
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield indent, path.name, first_line(path)


def import_layers(root: Path) -> list[str]:
    """Return the layers of the import contract, the highest first."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (house,) = (contract for contract in contracts if contract["type"] == "layers")
    return [layer.strip("()") for layer in house["layers"]]


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    sys.exit(main())
