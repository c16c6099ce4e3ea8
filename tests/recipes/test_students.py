"""Every kind of student from the log to the table, by the commands; and one of the user's own."""

import json

import pytest

from farzi.cli import main
from toy import write_log

MODULE = """
import torch

class Tagger(torch.nn.Module):
    def __init__(self, num_tokens, width):
        super().__init__()
        self.table = torch.nn.Embedding(num_tokens, 6)
        self.drop = torch.nn.Dropout(0.1)
        self.body = torch.nn.GRU(6, width, batch_first=True)
        self.head = torch.nn.Linear(width, num_tokens)

    def forward(self, tokens):
        return self.head(self.body(self.drop(self.table(tokens)))[0])

def make(num_tokens, context_length):
    return Tagger(num_tokens, 8)

def wider(num_tokens, context_length):
    return Tagger(num_tokens, 9)
"""
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2}
SMALL = {
    "latent_dim": 4,
    "teachers.num_runs": 1,
    "teachers.max_epochs": 3,
    "inner.steps": 8,
    "inner.window": 4,
    "inner.batch_size": 3,
    "outer.num_students": 2,
    "outer.students_per_step": 1,
    "outer.validation_seeds": 1,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "toy.tsv")
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    return tmp_path


def distil(student):
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    command = ["distill", "toy.tsv", "--task", "recommend", "--size", "6x8", "--out", "run", "-q"]
    return main([*command, "--outer-steps", "1", "--student", student, *settings])


def compare(*rows, student=None):
    command = ["compare", "run", "--seeds", "1", "--grid-lr", "0.05", "--grid-dropout", "0", "-q"]
    command += ["--grid-smoothing", "0", "--max-epochs", "2", "--no-report", "--json", "out.json"]
    flags = [] if student is None else ["--student", student]
    return main([*command, "--rows", *rows, *flags])


@pytest.mark.parametrize(
    "student",
    [
        pytest.param("gru4rec:width=8", marks=pytest.mark.slow),
        pytest.param("fmlp:width=8", marks=pytest.mark.slow),
        "rnn:cell=gru,tied=false,width=8",
    ],
)
def test_a_built_in_student_is_distilled_for_and_compared(folder, student):
    assert distil(student) == 0
    recipe = json.loads((folder / "run" / "artifact" / "farzi.json").read_text())["recipe"]
    assert recipe["student"]["name"] == student.partition(":")[0]
    assert recipe["student"]["width"] == 8
    assert compare("full", "random-soft", "farzi") == 0
    rows = {row["name"] for row in json.loads((folder / "out.json").read_text())["rows"]}
    assert rows == {"full", "random-soft", "farzi"}
    assert main(["train", "run", "--out", "model", "--max-steps", "20", "-q"]) == 0
    assert main(["evaluate", "model", "-q"]) == 0


@pytest.mark.parametrize(
    "student", ["my_models.py:make", pytest.param("hf:config.json", marks=pytest.mark.slow)]
)
def test_a_model_of_the_users_own_goes_all_the_way(folder, student, capsys):
    if student.startswith("hf:"):
        pytest.importorskip("transformers")
    assert distil(student) == 0
    text = (folder / "run" / "artifact" / "farzi.json").read_text()
    assert "my_models" not in text
    assert "config.json" not in text

    def refused(*command):
        capsys.readouterr()
        assert main([*command, "-q"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    train = ["train", "run", "--out", "model", "--max-steps", "20"]
    assert "--student" in refused(*train)
    assert main([*train, "--student", student, "-q"]) == 0
    assert "model/weights.safetensors: the student was" in refused("evaluate", "model")
    capsys.readouterr()
    assert main(["evaluate", "model", "--student", student, "--json", "-q"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["metrics"]["nDCG@10"] <= 1
    assert compare("full") == 2
    assert "--student" in capsys.readouterr().err
    assert compare("full", student=student) == 0
    if not student.startswith("hf:"):
        assert compare("full", student="my_models.py:wider") == 2
        assert "is not the student that was distilled for" in capsys.readouterr().err
