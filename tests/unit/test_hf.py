"""The Hugging Face trainer: the loss is farzi's, and ordinary batches go the usual way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import farzi
from artifact_examples import toy_artifact

transformers = pytest.importorskip("transformers", reason="it comes with the extra `hf`")

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")

from farzi.hf import DistilledTrainer, distilled_loss  # noqa: E402

LABELS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))


def small_model(vocab_size: int = 5) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=8,
        n_embd=8,
        n_layer=1,
        n_head=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def arguments(folder: Path, **more: Any) -> Any:
    fields = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 3,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
    }
    return transformers.TrainingArguments(**fields | more)


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_the_cross_entropy_of_soft_labels(hard: bool) -> None:
    artifact = toy_artifact(label_latent=LABELS, lengths=torch.tensor([4, 1, 2]))
    data = farzi.DistilledDataset(artifact.hardened() if hard else artifact)
    model = small_model()
    batch = data.batch()
    weight = model.get_input_embeddings().weight
    loss, outputs = distilled_loss(model, weight, batch)
    expected = farzi.soft_cross_entropy(outputs.logits, batch["labels"], batch["mask"])
    torch.testing.assert_close(loss, expected)
    if hard:
        logits = model(batch["tokens"], attention_mask=batch["mask"].long()).logits
        torch.testing.assert_close(outputs.logits, logits)


def test_the_loss_of_ids_with_sharp_labels_is_the_models_own() -> None:
    model = small_model()
    ids = torch.tensor([[0, 3, 1, 2]])
    onehot = torch.nn.functional.one_hot(ids, 5).float()
    batch = {
        "tokens": onehot[:, :-1],
        "labels": onehot[:, 1:],
        "mask": torch.ones(1, 3, dtype=torch.bool),
    }
    loss, _ = distilled_loss(model, model.get_input_embeddings().weight, batch)
    torch.testing.assert_close(loss, model(ids, labels=ids).loss)


def test_it_takes_the_steps_of_a_plain_loop(tmp_path: Path) -> None:
    data = farzi.DistilledDataset(toy_artifact(label_latent=LABELS))
    model = small_model()
    trainer = DistilledTrainer(
        model, arguments(tmp_path, optim="sgd", learning_rate=0.1), train_dataset=data
    )
    trainer.train()
    plain = small_model()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        loss, _ = distilled_loss(plain, plain.get_input_embeddings().weight, data.batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(dict(model.named_parameters()), dict(plain.named_parameters()))


def test_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    data = farzi.DistilledDataset(toy_artifact(label_latent=LABELS))
    found = []
    for size, accumulated in ((3, 1), (1, 3)):
        model = small_model()
        chosen = arguments(
            tmp_path,
            optim="sgd",
            learning_rate=0.1,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
        )
        DistilledTrainer(model, chosen, train_dataset=data).train()
        found.append(dict(model.named_parameters()))
    torch.testing.assert_close(found[0], found[1])


def test_ordinary_batches_are_evaluated_as_ever(tmp_path: Path) -> None:
    data = farzi.DistilledDataset(toy_artifact(label_latent=LABELS))
    ids = [0, 3, 1, 2]
    ordinary = [{"input_ids": ids, "labels": ids}]
    model = small_model()
    own = arguments(tmp_path)
    trainer = DistilledTrainer(model, own, train_dataset=data, eval_dataset=ordinary)
    expected = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    found = trainer.evaluate(data)["eval_loss"]
    loss, _ = distilled_loss(model, model.get_input_embeddings().weight, data.batch())
    assert found == pytest.approx(loss.item(), rel=1e-5)
    assert own.remove_unused_columns


def test_a_model_with_too_few_tokens_is_told(tmp_path: Path) -> None:
    data = farzi.DistilledDataset(toy_artifact(label_latent=LABELS))
    trainer = DistilledTrainer(small_model(4), arguments(tmp_path), train_dataset=data)
    with pytest.raises(ValueError, match="build it with vocab_size=5"):
        trainer.train()


def test_a_model_may_know_more_tokens() -> None:
    data = farzi.DistilledDataset(toy_artifact(label_latent=LABELS))
    model = small_model(7)
    loss, outputs = distilled_loss(model, model.get_input_embeddings().weight, data.batch())
    padded = torch.nn.functional.pad(data.batch()["labels"], (0, 2))
    torch.testing.assert_close(loss, farzi.soft_cross_entropy(outputs.logits, padded))
