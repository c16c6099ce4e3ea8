"""Which split of which source: the one value that says whether two things belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SplitIdentity", "tokens_of"]


def tokens_of(protocol: Mapping[str, Any]) -> str:
    """How a protocol says that a text is cut: a rule's name, or a tokenizer's hash and its end.

    Example:
        >>> from farzi.data.identity import tokens_of
        >>> tokens_of({"tokens": "words"}), tokens_of({"k_core": 0})
        ('words', '')
    """
    if "tokenizer_sha256" in protocol:
        return f"tokenizer {protocol['tokenizer_sha256']} with {protocol.get('eos')}"
    return str(protocol.get("tokens") or "")


@dataclass(frozen=True)
class SplitIdentity:
    """A split of a source, told from every other.

    On any split but its own, a model or a distilled dataset would be scored on users that it
    learned from.

    Args:
        fingerprint: `sha256:...` of the source's content.
        split_kind: how the three parts were told apart.
        split_seed: seed of that; 0 where nothing is drawn.
        train_users_hash: `sha256:...` of the sorted ids of the training users or texts.
        tokens: how a text is cut, see `tokens_of`; empty: a log, or not known, which fits all.

    Example:
        >>> from farzi.data.identity import SplitIdentity
        >>> one = SplitIdentity("sha256:ab", "users", 0, "sha256:cd")
        >>> one.difference(SplitIdentity("sha256:ab", "users", 1, "sha256:ef"))
        'split_seed'
    """

    fingerprint: str
    split_kind: str
    split_seed: int
    train_users_hash: str
    tokens: str = ""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> SplitIdentity:
        """The identity that a record of a source holds, as an artifact or a model carries one."""
        names = ("fingerprint", "split_kind", "split_seed", "train_users_hash")
        values = {name: record[name] for name in names}
        return cls(**values, tokens=tokens_of(record.get("protocol") or {}))

    def difference(self, other: SplitIdentity) -> str | None:
        """The first field in which two differ; None where they are one."""
        for field in dataclasses.fields(self):
            own, others = getattr(self, field.name), getattr(other, field.name)
            if own != others and (field.name != "tokens" or (own and others)):
                return field.name
        return None
