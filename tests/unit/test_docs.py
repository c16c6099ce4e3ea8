"""The documentation: links lead somewhere, generated parts can be generated."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/*.md")]


@pytest.fixture(scope="module")
def render_docs() -> ModuleType:
    path = ROOT / "scripts" / "render_docs.py"
    spec = importlib.util.spec_from_file_location("render_docs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_a_comparison_becomes_a_table(render_docs: ModuleType) -> None:
    result = {
        "protocol_line": "ml-100k, split by users",
        "rows": [
            {
                "name": "full",
                "sequences": 754,
                "tokens": 80000,
                "bytes": 320000,
                "metrics": {"HR@10": {"mean": 0.1791, "std": 0.004}},
                "num_runs": 3,
            },
            {
                "name": "farzi",
                "sequences": 50,
                "tokens": 2500,
                "bytes": 9000,
                "metrics": {"perplexity": {"mean": 91.234, "std": None}},
                "num_runs": 1,
            },
        ],
        "paired": [
            {
                "a": "farzi",
                "b": "random-soft",
                "metric": "HR@10",
                "difference": 0.1,
                "low": -0.1,
                "high": 1,
            }
        ],
        "ratios": {"farzi": {"HR@10": 0.96, "mean": 0.96}},
    }
    assert render_docs.render_table(result).splitlines() == [
        "|  | sequences | tokens | bytes | HR@10 | perplexity | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full | 754 | 80,000 | 320,000 | 17.9 ± 0.4 |  | 3 |",
        "| farzi | 50 | 2,500 | 9,000 |  | 91.2 | 1 |",
        "",
        "| farzi less | HR@10 |",
        "| --- | ---: |",
        "| random-soft | +10.0 [-10.0, +100.0] |",
        "",
        "| of full | HR@10 | mean |",
        "| --- | ---: | ---: |",
        "| farzi | 0.960 | 0.960 |",
        "",
        "ml-100k, split by users",
    ]
    assert render_docs.render_summary(result).splitlines() == [
        "|  | sequences | kB | HR@10 | perplexity | of full |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| full | 754 | 320 | 17.9 ± 0.4 |  |  |",
        "| farzi | 50 | 9 |  | 91.2 | 0.960 |",
        "",
        "- farzi less random-soft: HR@10 +10.0 [-10.0, +100.0]",
        "",
        "ml-100k, split by users",
    ]


def test_parts_are_filled_and_then_left_alone(render_docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "experiments" / "results").mkdir(parents=True)
    (tmp_path / "experiments" / "results" / "toy.json").write_text(
        json.dumps({"protocol_line": "toy", "rows": [], "ratios": {}})
    )
    document = tmp_path / "README.md"
    document.write_text(
        "before\n<!-- table:toy -->\nold\n<!-- /table:toy -->\n"
        "<!-- table:none -->\n<!-- /table:none -->\nafter\n"
    )
    assert render_docs.fill_document(document, tmp_path, write=True)
    text = document.read_text()
    assert "old" not in text
    assert "toy\n\n<!-- /table:toy -->" in text
    assert "none.json is not there" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert not render_docs.fill_document(document, tmp_path, write=True)


def test_the_tree_starts_at_the_lowest_layer(render_docs: ModuleType) -> None:
    labels = [label for _, label, _ in render_docs.tree_entries(ROOT, files=False)]
    assert labels[:5] == ["errors.py", "seeding.py", "devices.py", "native/", "metagrad/"]
    assert labels[-2:] == ["cli/", "__main__.py"]
