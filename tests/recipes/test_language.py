"""A small text, from the file to the table."""

import json

import numpy as np

from farzi.cli import main

WORDS = ["the", "cat", "dog", "sees", "a", "bird", "and", "runs"]


def write_text(path, num_lines=80):
    generator = np.random.default_rng(0)
    lines = []
    for _ in range(num_lines):
        start = int(generator.integers(8))
        lines.append(" ".join(WORDS[(start + i) % 8] for i in range(int(generator.integers(4, 9)))))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_distils_and_compares_a_text(tmp_path):
    text = write_text(tmp_path / "toy.txt")
    settings = {
        "latent_dim": 4,
        "student.width": 8,
        "teachers.num_runs": 1,
        "teachers.max_epochs": 4,
        "inner.steps": 8,
        "inner.window": 4,
        "inner.batch_size": 3,
        "outer.num_students": 2,
        "outer.validate_every": 2,
        "outer.validation_seeds": 1,
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "run"
    common = ["--task", "language", "-q"]
    command = ["distill", text, "--size", "5x10", "--out", str(out), "--outer-steps", "2", *common]
    assert main([*command, *flags]) == 0
    table = tmp_path / "out.json"
    command = ["compare", text, "--artifact", str(out), "--seeds", "1", "--json", str(table)]
    command += ["--grid-lr", "0.05", "--grid-dropout", "0", "--max-epochs", "300", *common]
    assert main(command) == 0
    result = json.loads(table.read_text())
    rows = {row["name"]: row["metrics"] for row in result["rows"]}
    assert "most-popular" not in rows
    assert rows["full"]["perplexity"]["mean"] < 4
    assert rows["full"]["accuracy"]["mean"] > 0.6
    # As good as knowing which word follows which, a word in eight; two outer steps from a start.
    assert rows["farzi"]["perplexity"]["mean"] < len(WORDS) + 2
    ratios = result["ratios"]["farzi"]
    expected = rows["full"]["perplexity"]["mean"] / rows["farzi"]["perplexity"]["mean"]
    assert abs(ratios["perplexity"] - expected) < 1e-9
