"""The distilled dataset on disk: write, read, refuse.

An artifact is a folder in the layout of a Hugging Face dataset repository:

    farzi.safetensors    latent, label_latent (S, L, K), decoder (K, V), lengths (S,), learned.NAME
    farzi.json           format version, temperature, recipe, source, scores
    items.parquet        original id of every token, in token order (recommend)
    tokenizer.json       the same for words, as the `tokenizers` library reads it (language);
    tokenizer_config.json  its special tokens, as `transformers` reads them
    data/train.parquet   hard tokens in original ids, for any other tool
    README.md            the card
    MANIFEST.sha256      SHA-256 of every file above, as `sha256sum --check` reads it

It holds no clock, host, path or wall time: the same artifact written twice with the same versions
is the same bytes. Nothing in it is code, and reading an untrusted one is safe: `read_artifact`
opens only these names, follows no link, bounds every size before it allocates, and checks hashes,
types, shapes and finiteness before anything is used. docs/artifact.md is the page on the format.
"""

from __future__ import annotations

from farzi.artifact.contents import Artifact, check_split
from farzi.artifact.layout import FORMAT_VERSION
from farzi.artifact.reading import locate_artifact, read_artifact
from farzi.artifact.recipe import (
    recipe_decay,
    recipe_dropout,
    recipe_number,
    recipe_rate,
    recipe_student,
)
from farzi.artifact.storage import smallest_dtype
from farzi.artifact.writing import check_writable, hard_tokens, write_artifact

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "check_split",
    "check_writable",
    "hard_tokens",
    "locate_artifact",
    "read_artifact",
    "recipe_decay",
    "recipe_dropout",
    "recipe_number",
    "recipe_rate",
    "recipe_student",
    "smallest_dtype",
    "write_artifact",
]
