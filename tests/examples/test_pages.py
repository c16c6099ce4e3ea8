"""docs/use.md and docs/data.md: every command and every block on them runs as typed."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import farzi
from farzi.cli import main
from made_tokenizers import byte_level
from toy import TINY_BY_NAME

DOCS = Path(__file__).resolve().parents[2] / "docs"
ITEMS = [1193, 661, 914, *range(1, 22)]


def fenced(page: str) -> tuple[list[str], list[str]]:
    """The commands and the Python blocks of a page, examples' code aside."""
    text = (DOCS / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- example:(\w+) -->.*?<!-- /example:\1 -->", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(code for language, code in blocks if language != "python").splitlines()
    return (
        [line.partition("  #")[0] for line in lines if line.startswith("farzi ")],
        [code for language, code in blocks if language == "python"],
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in, with a small `ml-100k` of our own making in the data root."""
    root = tmp_path / "datasets"
    root.mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for user in range(60):
        first = int(generator.integers(len(ITEMS)))
        rows += [
            f"{user}\t{ITEMS[(first + step) % len(ITEMS)]}\t5\t{step}"
            for step in range(int(generator.integers(8, 14)))
        ]
    (root / "ml-100k.u.data").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("FARZI_DATA_ROOT", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))  # data.md says ~/datasets
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny_sets() -> list[str]:
    return [part for name, x in TINY_BY_NAME.items() for part in ("--set", f"{name}={x}")]


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    code = main(list(arguments))
    told = capsys.readouterr()
    assert code == 0, (arguments, told.err)
    return told.out


def test_use(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands, blocks = fenced("use.md")
    run("distill", "ml-100k", "--out", "runs/ml-100k", "-q", *tiny_sets(), capsys=capsys)
    run("train", "runs/ml-100k", "--out", "models/small", "--max-steps", "10", capsys=capsys)
    called = []
    for command in commands:
        name, *arguments = shlex.split(command)[1:]
        called.append(name)
        if name in ("push", "pull"):
            continue  # tests/unit/test_hub.py pushes and pulls
        quick: list[str] = []
        if name == "sweep":  # small, few, and in this process
            pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
            for flag in ("--trials", "--processes"):
                if flag in arguments:
                    del arguments[arguments.index(flag) : arguments.index(flag) + 2]
            small = tiny_sets() if "distillation" in arguments else ["--set", "max_steps=4"]
            quick = ["--trials", "2", *small]
        run(name, *arguments, *quick, capsys=capsys)
    assert {"export", "push", "pull", "sweep"} <= set(called)
    for written in ("ml-100k.parquet", "drawn.csv", "recbole/distilled", "topk.parquet", "small"):
        assert (place / written).exists()
    names: dict[str, object] = {}
    assert len(blocks) == 2
    for block in blocks:
        if "tokens" not in names:
            names["tokens"] = farzi.load("runs/ml-100k").hard().tokens
        exec(compile(block, "docs/use.md", "exec"), names)
    assert (place / "elsewhere").is_dir()


def test_data(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands, blocks = fenced("data.md")
    table = [(f"v{n // 9}", f"p{(n + n // 9) % 7}", n) for n in range(180)]
    clicks = "visitor,page,at\n" + "".join(f"{u},{i},{t}\n" for u, i, t in table)
    (place / "clicks.csv.gz").write_bytes(gzip.compress(clicks.encode()))
    (place / "ratings.dat").write_text("".join(f"{u}::{i}::5::{t}\n" for u, i, t in table))
    plays = (f"{u},{i},{t // 3},{t}\n" for u, i, t in table)
    (place / "plays.csv").write_text("user,item,day,play_number\n" + "".join(plays))
    users, items, _ = zip(*table, strict=True)
    pq.write_table(pa.table({"user": users, "item": items}), place / "baskets.parquet")
    views = [{"user": {"id": u}, "page": {"id": i}, "timestamp": t} for u, i, t in table]
    (place / "views.jsonl").write_text("".join(f"{json.dumps(view)}\n" for view in views))
    lines = (" ".join([str(u), *(str((u + n) % 7) for n in range(6))]) for u in range(20))
    (place / "sequences.txt").write_text("\n".join(lines) + "\n")
    (place / "notes.txt").write_text("".join(f"note {n % 7} of many notes.\n" for n in range(60)))
    byte_level(place / "my-tokenizer")
    assert len(commands) == 8
    for command in commands:
        out = run(*shlex.split(command)[1:], capsys=capsys)
        assert out
        assert (place / command.split()[-1] / "prepared.json").is_file()
    shutil.rmtree("my-tokenizer")  # the page trains its own
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), {})
    assert "users 80/10/10" in capsys.readouterr().out
    pieces = farzi.prepare("notes.txt", tokenizer="my-tokenizer")
    assert pieces.protocol_line().partition("tokens: ")[2].startswith("tokenizer my-tokenizer (sha")
    assert pieces.vocabulary.ids[0] == "<eos>"
