"""`farzi.load_model`: what `farzi train` writes, as an ordinary module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import farzi
from farzi import cli
from farzi.data.vocabulary import Vocabulary
from farzi.errors import ArtifactError, DataError
from farzi.models import SASRec, Transformer
from farzi.trained import save_model
from toy import write_log

ITEMS = Vocabulary((10, 20, 30, 40, 50))
WORDS = Vocabulary(("<unk>", "<eos>", "the", "of", "n"))


def saved(folder: Path, vocabulary: Vocabulary = ITEMS, kind: Any = SASRec, **sizes: Any) -> Any:
    student = kind(num_tokens=5, context_length=3, width=4, **sizes)
    params = student.init(torch.Generator().manual_seed(0))
    task = "recommend" if vocabulary is ITEMS else "language"
    save_model(folder, student, params, vocabulary, {"name": "toy", "task": task})
    return student, params


def test_scores_are_those_of_the_student(tmp_path: Path) -> None:
    student, params = saved(tmp_path)
    model = farzi.load_model(tmp_path)
    histories = [[10, 20], [50], [10, 20, 30, 40, 50]]
    for history, row in zip(histories, model.scores(histories), strict=True):
        tokens = torch.tensor(ITEMS.encode(history)[-3:].tolist())
        hidden = student.hidden(params, params["embedding"][tokens][None])
        torch.testing.assert_close(row, hidden[0, -1] @ params["embedding"].T)
    tokens = torch.tensor([[0, 1]])
    torch.testing.assert_close(model(tokens)[0, -1], model.scores([[10, 20]])[0])
    soft = torch.nn.functional.one_hot(tokens, 5).float()
    torch.testing.assert_close(model(soft), model(tokens))
    assert model.scores([]).shape == (0, 5)


def test_what_the_command_writes_is_loaded(tmp_path: Path) -> None:
    log = write_log(tmp_path / "toy.tsv")
    arguments = ["train", str(log), "--out", str(tmp_path / "model"), "--max-steps", "10", "-q"]
    assert cli.main(arguments) == 0
    model = farzi.load_model(tmp_path / "model")
    assert model.scores([["i0", "i1"], ["i3"]]).shape == (2, 12)
    assert set(model.recommend([["i0", "i1"]], k=12)[0]) == {f"i{item}" for item in range(12)}


def test_recommend(tmp_path: Path) -> None:
    saved(tmp_path)
    model = farzi.load_model(tmp_path / "weights.safetensors")
    order = model.scores([[10, 20]])[0].argsort(descending=True).tolist()
    best = [ITEMS.ids[token] for token in order]
    assert model.recommend([[10, 20]], k=3) == [best[:3]]
    unseen = [item for item in best if item not in (10, 20)]
    assert model.recommend([[10, 20]], k=5, leave_out_seen=True) == [unseen]
    with pytest.raises(ValueError, match="`k` must be an int >= 1"):
        model.recommend([[10]], k=0)


def test_a_history_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    model = farzi.load_model(tmp_path)
    with pytest.raises(DataError, match="11 is not among the 5 known ids"):
        model.scores([[10, 11]])
    torch.testing.assert_close(model.scores([[10, 11]], skip_unknown=True), model.scores([[10]]))
    with pytest.raises(DataError, match="history 1 is empty"):
        model.scores([[10], [11]], skip_unknown=True)
    with pytest.raises(DataError, match="history 0 is a text"):
        model.scores(["10"])


def test_a_text_is_read_from_the_start_of_a_sentence(tmp_path: Path) -> None:
    saved(tmp_path, WORDS, Transformer)
    model = farzi.load_model(tmp_path)
    # Processors differ in how they round a product for one position and for all of them.
    for history, tokens in ((["the", "bank"], [1, 2, 0]), ([], [1])):
        with torch.no_grad():
            expected = model(torch.tensor([tokens]))[0, -1]
        torch.testing.assert_close(model.scores([history])[0], expected)


def test_it_trains_on_as_any_module(tmp_path: Path) -> None:
    saved(tmp_path, dropout=0.5)
    model = farzi.load_model(tmp_path)
    assert not model.training
    tokens = torch.tensor([[0, 1, 2]])
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    torch.manual_seed(0)
    first = model(tokens)
    assert not torch.equal(model(tokens), first)
    torch.manual_seed(0)
    assert torch.equal(model(tokens), first)
    first.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    other = farzi.load_model(tmp_path)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(dict(other.named_parameters()), dict(model.named_parameters()))
    assert "weights.embedding" in model.state_dict()


@pytest.mark.parametrize("damage", ["missing", "another", "pipe", "broken"])
def test_a_vocabulary_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    import os

    saved(tmp_path)
    file = tmp_path / "vocabulary.parquet"
    file.unlink()
    if damage == "another":
        six = SASRec(num_tokens=6, context_length=3, width=4)
        params = six.init(torch.Generator().manual_seed(0))
        save_model(tmp_path / "b", six, params, Vocabulary(tuple(range(6))), {"name": "toy"})
        (tmp_path / "b" / "vocabulary.parquet").rename(file)
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "broken":
        file.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"vocabulary\.parquet: not"):
        farzi.load_model(tmp_path)
