"""`farzi.load`: soft tokens, labels and mask for any PyTorch loop, and what other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import farzi
from artifact_examples import toy_artifact
from farzi.errors import DataError

LABELS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))


def dataset(**changes: Any) -> farzi.DistilledDataset:
    return farzi.DistilledDataset(toy_artifact(**changes))


def test_it_is_loaded_and_saved(tmp_path: Path) -> None:
    data = dataset(label_latent=LABELS)
    farzi.save(data, tmp_path / "run" / "artifact")
    found = farzi.load(tmp_path / "run")
    torch.testing.assert_close(found.batch(), data.batch())
    assert repr(found) == repr(data)


def test_an_item_has_tokens_labels_and_mask() -> None:
    data = dataset(label_latent=LABELS, lengths=torch.tensor([4, 1, 2]))
    item = data[1]
    soft = (data.artifact.latent[1] @ data.artifact.decoder / 0.5).softmax(-1)
    targets = (LABELS[1] @ data.artifact.decoder / 0.5).softmax(-1)
    torch.testing.assert_close(item["tokens"], soft)
    torch.testing.assert_close(item["labels"], targets)
    assert item["mask"].tolist() == [True, False, False, False]
    torch.testing.assert_close(data[-2], item)
    with pytest.raises(IndexError, match="below 3"):
        data[3]


def test_tokens_are_labels_where_there_are_no_others() -> None:
    data = dataset(lengths=torch.tensor([4, 1, 2]))
    soft = data.synthetic.tokens()
    batch = data.batch()
    torch.testing.assert_close(batch["tokens"], soft[:, :-1])
    torch.testing.assert_close(batch["labels"], soft[:, 1:])
    assert batch["mask"].sum(1).tolist() == [3, 0, 1]


@pytest.mark.parametrize("hard", [False, True])
def test_a_data_loader_gives_batches(hard: bool) -> None:
    artifact = toy_artifact(label_latent=LABELS)
    data = farzi.DistilledDataset(artifact.hardened() if hard else artifact)
    batches = list(DataLoader(data, batch_size=2))
    assert [len(batch["tokens"]) for batch in batches] == [2, 1]
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    torch.testing.assert_close(whole, data.batch())
    assert whole["tokens"].dtype == (torch.int64 if hard else torch.float32)


def test_original_ids_both_ways() -> None:
    data = dataset()
    tokens = data.encode(["é", "B0001"])
    assert tokens.tolist() == [2, 0]
    assert data.decode(tokens) == ["é", "B0001"]
    with pytest.raises(DataError, match="'other' is not among"):
        data.encode(["other"])


def test_hard_tokens() -> None:
    data = dataset(lengths=torch.tensor([4, 1, 2]))
    likeliest = data.hard()
    assert torch.equal(likeliest.tokens, data.synthetic.tokens().argmax(-1))
    assert [len(row) for row in likeliest.originals()] == [4, 1, 2]
    assert likeliest.originals()[1] == data.decode(likeliest.tokens[1, :1])
    drawn = data.hard(samples=400, seed=3)
    assert drawn.tokens.shape == (1200, 4)
    assert drawn.sequence.bincount().tolist() == [400] * 3
    assert torch.equal(drawn.tokens, data.hard(samples=400, seed=3).tokens)
    assert not torch.equal(drawn.tokens, data.hard(samples=400, seed=4).tokens)
    shares = torch.nn.functional.one_hot(drawn.tokens[:400], 5).float().mean(0)
    torch.testing.assert_close(shares, data.synthetic.tokens()[0], atol=0.1, rtol=0)
    assert 0 < likeliest.coverage <= drawn.coverage == 1
    with pytest.raises(ValueError, match="`samples` must be an int >= 1, got 0"):
        data.hard(samples=0)


def test_top_k() -> None:
    data = dataset(label_latent=LABELS, lengths=torch.tensor([4, 1, 2]))
    labels = data.batch()["labels"]
    found = data.top_k(2)
    assert torch.equal(labels.gather(-1, found.ids), found.probabilities)
    assert torch.equal(found.ids[..., 0], labels.argmax(-1))
    expected = found.probabilities.sum(-1)[found.mask].mean()
    assert found.kept == pytest.approx(float(expected))
    assert data.top_k(99, of="tokens").kept == pytest.approx(1)
    assert data.top_k(1, of="tokens").ids[..., 0].equal(data.hard().tokens)


def test_a_notebook_shows_it_and_obeys_nothing_in_it() -> None:
    vocabulary = ["<script>alert(1)</script>", "\x1b[2J", "é", "d", "e"]
    for artifact in (
        toy_artifact(vocabulary=vocabulary),
        toy_artifact(vocabulary=vocabulary, label_latent=LABELS).hardened(),
    ):
        shown = farzi.DistilledDataset(artifact)._repr_html_()
        assert "<table>" in shown
        assert "&lt;script&gt;" in shown
        assert "<script>" not in shown
        assert "\x1b" not in shown


def test_the_loss_is_that_of_farzi() -> None:
    from farzi.models import SASRec, sequence_loss

    for artifact in (
        toy_artifact(),
        toy_artifact(label_latent=LABELS, lengths=torch.tensor([4, 1, 2])),
        toy_artifact(label_latent=LABELS).hardened(),
    ):
        data = farzi.DistilledDataset(artifact)
        student = SASRec(num_tokens=5, context_length=4, width=4)
        params = student.init(torch.Generator().manual_seed(0))
        batch = data.batch()
        table = params["embedding"]
        embedded = batch["tokens"] @ table if batch["tokens"].dim() == 3 else table[batch["tokens"]]
        logits = student.hidden(params, embedded) @ table.T
        few = artifact.synthetic
        own = sequence_loss(student, params, few.tokens(), labels=few.labels(), mask=few.mask())
        loss = farzi.soft_cross_entropy(logits, batch["labels"], batch["mask"])
        torch.testing.assert_close(loss, own)


def test_it_moves_to_a_device() -> None:
    moved = dataset(label_latent=LABELS, lengths=torch.tensor([4, 1, 2])).to("meta")
    assert {part.device.type for part in moved.batch().values()} == {"meta"}
