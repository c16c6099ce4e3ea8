"""The card of an artifact: README.md, as the hub shows it."""

from __future__ import annotations

import hashlib
import json

from farzi.artifact.contents import Artifact
from farzi.artifact.layout import ITEMS, TOKENIZER

__all__ = ["config_name", "render_card"]

TEMPLATE = """\
---
pretty_name: {title}
tags: [farzi, dataset-distillation]
configs:
  - config_name: {config_name}
    data_files: data/train.parquet
    default: true
---

# {name}, distilled

Synthetic sequences of {what}, made by farzi: a small model trained on them alone is
meant to predict what one trained on the whole source would.

| {header} |
| {rule} |
| {sizes} |

```python
data = farzi.load(FOLDER)  # a torch Dataset of tokens, labels and mask
```

```
farzi inspect FOLDER
farzi train FOLDER --out MODEL
farzi export FOLDER --to topk --out FILE
```

- `farzi.safetensors`, `farzi.json`: latent, decoder, temperature, and the recipe to train by. The
  {tokens}, and soft labels, where there are any,
  softmax(label_latent x decoder / temperature); a student sees nothing else. The factors are
  {dtype}.
- `data/train.parquet`: {drawn}, in original ids, for any other tool. A
  model trained on these alone is much worse than one trained on the {what}.
- `{vocabulary_file}`: token -> original id.

Distilled from the training part of {name}: fingerprint `{fingerprint}`, split
{split_kind}, seed {split_seed}. farzi refuses to score it on any other split.

Synthetic is not anonymous: the sequences are made from those of real users, and pieces of theirs
may be among them{started}. `farzi audit FOLDER` says how well attacks tell who was
among the training users, and how many of their events can be read back.

{protocol}
"""


def config_name(content: bytes) -> str:
    """Return the name of the card's configuration: one for each content of data/train.parquet.

    `datasets` looks rows up in its cache by the names of folder and configuration, and every
    artifact's folder is called the same.
    """
    return "farzi-" + hashlib.sha256(content).hexdigest()[:16]


def render_card(artifact: Artifact, hard_tokens: bytes) -> str:
    """Return the card: what it is, how large, made from what, used how.

    Args:
        artifact: what the card is of.
        hard_tokens: the content of data/train.parquet.
    """
    source = artifact.source
    sizes = {
        "sequences": artifact.num_sequences,
        "length": artifact.length,
        "tokens": artifact.num_tokens,
        "latent rank": artifact.rank,
        "vocabulary": artifact.vocabulary_size,
        "bytes of tensors": artifact.num_bytes,
    }
    return TEMPLATE.format(
        config_name=config_name(hard_tokens),
        title=json.dumps(f"{source['name']}, distilled", ensure_ascii=False),
        name=source["name"],
        header=" | ".join(sizes),
        rule=" | ".join("---" for _ in sizes),
        sizes=" | ".join(f"{size:,}" for size in sizes.values()),
        what="tokens with soft labels"
        if artifact.has_hard_tokens
        else "soft tokens"
        if artifact.label_latent is None
        else "soft tokens and labels",
        tokens="tokens are ids"
        if artifact.has_hard_tokens
        else "soft tokens are softmax(latent x decoder / temperature)",
        dtype=artifact.dtype + (" with a scale a row" if artifact.dtype == "int8" else ""),
        drawn="the tokens"
        if artifact.has_hard_tokens
        else "the likeliest token at each place"
        if artifact.hard_token_seed is None
        else f"tokens drawn once with seed {artifact.hard_token_seed}",
        vocabulary_file=ITEMS if source["task"] == "recommend" else TOKENIZER,
        fingerprint=source["fingerprint"],
        started=_started(artifact.recipe.get("start")),
        split_kind=source["split_kind"],
        split_seed=source["split_seed"],
        protocol="\n".join(
            f"- {name}: {value}" for name, value in sorted(source["protocol"].items())
        ),
    )


def _started(start: object) -> str:
    """What the recipe says of the sequences' beginning, where that matters to users."""
    if start in ("teacher", "real"):
        return ": they began as rows of real users"
    return ": they began as numbers drawn at random" if start == "random" else ""
