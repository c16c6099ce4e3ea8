"""Every example runs, and trains a model that learns what the distilled data say."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import farzi
from artifact_examples import SOURCE
from examples_circle import NUM_ITEMS, write_circle

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ["<unk>", "<eos>", *"abcdefghij"]


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", ["own_gru4rec", "own_sasrec"])
def test_a_model_of_ones_own_learns(name: str, hard: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = farzi.load(write_circle(tmp_path, hard=hard))
    model = load_example(name).train(data, steps=60)
    for item in (100, 105, 111):
        best = model(data.encode([item - 2 if item > 101 else item, item])[None])[0, -1].argmax()
        assert data.decode([int(best)]) == [100 + (item - 99) % NUM_ITEMS]


@pytest.fixture
def run_as_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run an example as a user does, and return what it prints."""

    def run(name: str, *arguments: str) -> str:
        import runpy

        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", ["own_gru4rec", "own_sasrec"])
def test_it_runs_as_a_script(name: str, run_as_script: Any, tmp_path: Path) -> None:
    printed = run_as_script(name, str(write_circle(tmp_path)), "80")
    assert "[100, 101, 102, 103, 104] -> [105, " in printed


@pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")  # there is no GPU to pin for
def test_a_hugging_face_model(run_as_script: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="it comes with the extra `hf`")
    source = {**SOURCE, "task": "language", "protocol": {"tokens": "words"}}
    run = write_circle(tmp_path / "run", source=source, vocabulary=WORDS)
    out = tmp_path / "model"
    printed = run_as_script("hugging_face_trainer", str(run), str(out), "80")
    assert printed.strip().splitlines()[-1].startswith("<eos> a b c d")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(out))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(out))
    best = model(**tokenizer("D E", return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(best) == "f"
