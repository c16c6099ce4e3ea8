"""A Hugging Face `Trainer` for distilled datasets: any causal language model.

    data = farzi.load("runs/ptb")
    trainer = DistilledTrainer(model=model, args=arguments, train_dataset=data)
    trainer.train()

The model is given the soft tokens as `inputs_embeds`, each the mean of its embeddings, and its
logits meet the soft labels, so its vocabulary must begin with the dataset's: build it with
`vocab_size=data.vocabulary_size`. This module needs the extra `hf`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

try:
    import transformers
except ImportError as error:  # pragma: no cover - where the extra is missing
    raise ImportError("farzi.hf needs the extra `hf`: pip install 'farzi[hf]'") from error

__all__ = ["DistilledTrainer", "distilled_loss"]


class DistilledTrainer(transformers.Trainer):  # type: ignore[misc]
    """`transformers.Trainer` whose training data, or evaluation data, may be a `DistilledDataset`.

    Batches with `tokens`, `labels` and `mask`, as a `DistilledDataset` gives them, are trained on
    by `distilled_loss`. Every other batch goes the usual way: a held-out set of ordinary token ids
    is evaluated as ever.

    Args:
        model: a model that takes `inputs_embeds`, returns `logits` and has `get_input_embeddings`.
        args: training arguments; columns that the model's `forward` lacks are kept.
        data_collator: for the batches that are not distilled; the trainer's own when None.
        further: as for `transformers.Trainer`.

    Example:
        >>> import farzi
        >>> from farzi.hf import DistilledTrainer
        >>> data = farzi.load("runs/ptb")  # doctest: +SKIP
        >>> trainer = DistilledTrainer(model, arguments, train_dataset=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: transformers.TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        **further: Any,
    ) -> None:
        args = copy.copy(args) if args is not None else transformers.TrainingArguments()
        args.remove_unused_columns = False
        super().__init__(model=model, args=args, data_collator=data_collator, **further)
        usual: Callable[[list[Any]], Any] = self.data_collator  # type: ignore[has-type]

        def collate(features: Sequence[Any]) -> Any:
            return (
                default_collate(list(features))
                if _is_distilled(features[0])
                else usual(list(features))
            )

        self.data_collator = collate
        # The mean over a batch's places is the loss; the trainer divides by accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, distilled or not, and the model's output where asked for."""
        if not _is_distilled(inputs):
            return super().compute_loss(model, inputs, return_outputs)
        table = self.accelerator.unwrap_model(model).get_input_embeddings()
        loss, outputs = distilled_loss(model, table.weight, inputs)
        return (loss, outputs) if return_outputs else loss


def distilled_loss(
    model: torch.nn.Module, embedding: Tensor, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Any]:
    """Return the cross-entropy of a causal language model on a distilled batch, and its output.

    Args:
        model: takes `inputs_embeds` and `attention_mask`, returns `logits` (B, L, V' >= V).
        embedding: its table (V', W); tokens from V on, if there are any, are never a label.
        batch: `tokens`, `labels` and `mask` as a `DistilledDataset` gives them.

    Raises:
        ValueError: the model's vocabulary is smaller than the dataset's.
    """
    tokens, labels, mask = batch["tokens"], batch["labels"], batch["mask"]
    size = labels.shape[-1]
    if embedding.shape[0] < size:
        raise ValueError(
            f"`model` must know {size:,} tokens, as the dataset does, and knows "
            f"{embedding.shape[0]:,}: build it with vocab_size={size}."
        )
    if tokens.is_floating_point():
        embedded = tokens.to(embedding.dtype) @ embedding[:size]
    else:
        embedded = torch.nn.functional.embedding(tokens, embedding)
    outputs = model(inputs_embeds=embedded, attention_mask=mask.long())
    log_probabilities = outputs.logits.float().log_softmax(-1)[..., :size]
    return -(labels * log_probabilities).sum(-1)[mask].mean(), outputs


def _is_distilled(item: Any) -> bool:
    return isinstance(item, Mapping) and {"tokens", "labels", "mask"} <= set(item)
