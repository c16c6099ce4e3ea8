"""A source made ready for a model: sequences, splits, vocabulary, and how they came about."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from farzi.data.columns import shorten
from farzi.data.files import check_regular, read_json, replacing_folder, restore_folder
from farzi.data.identity import SplitIdentity, tokens_of
from farzi.data.repeats import KEEP_ABOVE
from farzi.data.sequences import Sequences
from farzi.data.sources import RECORD, Origin, SeenItems, Task
from farzi.data.splits import SplitKind
from farzi.data.tokenizer import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    Tokenizer,
    load_tokenizer,
    tokenizer_config,
)
from farzi.data.vocabulary import EOS, Vocabulary
from farzi.data.windows import default_stride
from farzi.errors import DataError

__all__ = ["PARTS", "PreparedData", "check_record", "check_writable"]

FORMAT = 1
PARTS = ("train", "validation", "test")
_VOCABULARY = "vocabulary.json"

_SPLIT_LINES = {
    "users": "users 80/10/10 {seeds}",
    "leave-last-out": "leave-last-out, all users",
    "official": "official split",
    "lines": "lines 80/10/10 {seeds}",
    "documents": "documents 80/10/10 {seeds}",
}
_DECIDED_BY = {"source": "as the source says", "asked": "as asked"}


@dataclass(frozen=True)
class PreparedData:
    """Sequences of token ids, split, with the vocabulary and the protocol they follow.

    For `recommend` a sequence is a user's items in time order; in `validation` and `test` its
    last token is the target and everything before it the context. For `language` a sequence is
    a sentence that ends with `<eos>`, or with what a tokenizer has for it.

    Args:
        task: `recommend` or `language`.
        name: the source's name, or the file's without its suffixes.
        train: what models may learn from.
        validation: what choices may be made on.
        test: what is scored once.
        vocabulary: token to original id; the whole catalogue, or the words.
        seen_items: whether items in the context stay in the ranking.
        fingerprint: `sha256:...` of the source's content, unpacked.
        split_kind: how the three parts were told apart.
        split_seed: seed of that; 0 where nothing is drawn.
        train_users_hash: `sha256:...` of the sorted ids of the training users or texts.
        protocol: the settings and counts that a result must be read with.
        notes: what a person should know of the data, in a sentence each; ids may be named.
        warnings: what looks wrong with them, likewise.
        origin: where they were read; it is not saved, and does not count in a comparison.
        tokenizer: what cut the text, where it was one of the user's.
    """

    task: Task
    name: str
    train: Sequences
    validation: Sequences
    test: Sequences
    vocabulary: Vocabulary
    seen_items: SeenItems
    fingerprint: str
    split_kind: SplitKind
    split_seed: int
    train_users_hash: str
    protocol: dict[str, str | int | float | bool | None]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    origin: Origin | None = field(default=None, compare=False)
    tokenizer: Tokenizer | None = None

    @property
    def identity(self) -> SplitIdentity:
        """Which split of which source this is."""
        return SplitIdentity(
            self.fingerprint,
            self.split_kind,
            self.split_seed,
            self.train_users_hash,
            tokens_of(self.protocol),
        )

    @property
    def parts(self) -> dict[str, Sequences]:
        """The three parts by name."""
        return {part: getattr(self, part) for part in PARTS}

    def protocol_line(
        self,
        context_length: int | None = None,
        split_seeds: Sequence[int] | None = None,
        stride: int | None = None,
    ) -> str:
        """How a result on these data came about, in one line to print beside it.

        Args:
            context_length: the model's, where there is a model.
            split_seeds: of all the splits that a result is over; None for this one alone.
            stride: tokens that each further window over a long sequence adds; `default_stride`
                when None.
        """
        seeds = [self.split_seed] if split_seeds is None else split_seeds
        named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        parts = [self.name, _SPLIT_LINES[self.split_kind].format(seeds=named)]
        context = [] if context_length is None else self._context_rules(context_length, stride)
        if self.task == "language":
            line = " | ".join([*parts, *context, *self._text_rules()])
        else:
            line = " | ".join([*parts, "last item is the target", *context, *self._log_rules()])
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)

    def _context_rules(self, context_length: int, stride: int | None) -> list[str]:
        scored = (
            "every token" if self.task == "language" else "loss of every event but a user's first"
        )
        if stride is None:
            stride = default_stride(context_length)
        return [f"context {context_length}", f"{scored}, once, windows at stride {stride}"]

    def _log_rules(self) -> list[str]:
        core = self.protocol["k_core"]
        return [
            self._seen_items_rule(),
            f"full ranking over {self.vocabulary.size:,} items",
            self._tie_rule(),
            self._repeats_rule(),
            f"k-core {core or 'off'}",
            f"min length {self.protocol['min_length']}",
        ]

    def _seen_items_rule(self) -> str:
        rule = "seen items kept" if self.seen_items == "keep" else "seen items left out"
        by = self.protocol.get("seen_items_by")
        if by == "rule":
            events = int(self.protocol["events"] or 0) - int(self.protocol["exact_duplicates"] or 0)
            share = int(self.protocol["repeated_events"] or 0) / max(events, 1)
            return f"{rule} ({share:.2%} of events repeat one; kept above {KEEP_ABOVE:.0%})"
        return f"{rule} ({_DECIDED_BY[str(by)]})" if by in _DECIDED_BY else rule

    def _tie_rule(self) -> str:
        tie = self.protocol.get("tie_col")
        return "ties in time keep source order" if tie is None else f"ties in time by {tie!r}"

    def _repeats_rule(self) -> str:
        if self.protocol["repeats"] != "keep":
            return "repeats: first kept"
        duplicates = self.protocol.get("exact_duplicates")
        return f"repeats kept, exact duplicates: {duplicates:,}" if duplicates else "repeats kept"

    def _text_rules(self) -> list[str]:
        cut = self.protocol["vocabulary_size"]
        words = "cut on the training text, the rest <unk>" if cut else "uncut"
        tokens = str(self.protocol["tokens"])
        if self.tokenizer is not None:
            name = shorten(self.tokenizer.name, 60)
            tokens = f"tokenizer {name} (sha256 {self.tokenizer.sha256[7:19]})"
        return [
            f"vocabulary {self.vocabulary.size:,} {words}",
            f"every sentence ends with {shorten(str(self.protocol.get('eos', EOS)), 60)}",
            f"tokens: {tokens}",
        ]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder of `.npy` and JSON files, complete or not at all.

        Args:
            path: the folder; it must not exist.
            overwrite: replace it if it is a folder that `save` wrote.

        Raises:
            DataError: the folder exists, and `overwrite` is False or it holds something else.
        """
        folder = Path(path)
        check_writable(folder, overwrite=overwrite)
        with replacing_folder(folder, ours=_is_ours) as draft:
            for part, sequences in self.parts.items():
                sequences.save(draft / part)
            self.vocabulary.save(draft / _VOCABULARY)
            if self.tokenizer is not None:
                (draft / TOKENIZER).write_bytes(self.tokenizer.content)
                config = json.dumps(tokenizer_config(self.tokenizer.special), indent=2)
                (draft / TOKENIZER_CONFIG).write_text(config + "\n", encoding="utf-8")
            record = json.dumps(self._record(), indent=2, sort_keys=True)
            (draft / RECORD).write_text(record + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PreparedData:
        """Map a folder that `save` wrote; needs numpy only.

        Raises:
            DataError: the folder is missing, broken or of another format.
        """
        folder = Path(path)
        restore_folder(folder)
        record = _read_record(folder / RECORD)
        vocabulary = Vocabulary.load(folder / _VOCABULARY)
        for part in PARTS:
            record[part] = Sequences.load(folder / part)
            _check_tokens(f"{folder / part}", record[part], vocabulary.size)
        tokenizer = _load_tokenizer(folder, record["protocol"], vocabulary)
        return cls(vocabulary=vocabulary, tokenizer=tokenizer, **record)

    def _record(self) -> dict[str, Any]:
        fields = (*_FIELD_TYPES, *_SENTENCES)
        return {"format": FORMAT, **{name: getattr(self, name) for name in fields}}


_FIELD_TYPES: dict[str, type] = {
    "task": str,
    "name": str,
    "seen_items": str,
    "fingerprint": str,
    "split_kind": str,
    "split_seed": int,
    "train_users_hash": str,
    "protocol": dict,
}
_SENTENCES = ("notes", "warnings")  # absent in folders of before they were written
_CHOICES = {"task": Task, "seen_items": SeenItems, "split_kind": SplitKind}


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = read_json(file)
    except FileNotFoundError:
        raise DataError(f"{file.parent}: not a folder that `farzi prepare` wrote.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise DataError(f"{file}: not of format {FORMAT}; prepare the source again.")
    return check_record(file, record)


def check_record(file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The fields of `PreparedData` that a record holds.

    Args:
        file: what an error calls it.
        record: the fields as JSON has them, and no others.

    Raises:
        DataError: a field is missing, unknown or wrong.
    """
    sentences = {name: record.pop(name, []) for name in _SENTENCES}
    if record.keys() != _FIELD_TYPES.keys():
        wrong = sorted(record.keys() ^ _FIELD_TYPES.keys())
        raise DataError(f"{file}: fields are missing or unknown: {shorten(', '.join(wrong))}.")
    for name, kind in _FIELD_TYPES.items():
        allowed = get_args(_CHOICES[name]) if name in _CHOICES else None
        if type(record[name]) is not kind or (allowed and record[name] not in allowed):
            raise DataError(f"{file}: the value of {name!r} is wrong.")
    for name, lines in sentences.items():
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise DataError(f"{file}: the value of {name!r} is wrong.")
        record[name] = tuple(lines)
    _check_protocol(file, record["task"], record["protocol"])
    return record


_PROTOCOL: dict[str, dict[str, tuple[type, ...]]] = {
    "recommend": {"k_core": (int, type(None)), "min_length": (int,), "repeats": (str,)},
    "language": {"vocabulary_size": (int, type(None)), "tokens": (str,)},
}
_COUNTS = ("events", "exact_duplicates", "repeated_events")


def _check_protocol(file: Path, task: str, protocol: dict[str, Any]) -> None:
    """Check what `protocol_line` and later readings of the source take from a protocol.

    Raises:
        DataError: a value is missing or wrong.
    """
    kinds = _PROTOCOL[task]
    if task == "recommend":
        rule = protocol.get("seen_items_by") == "rule"
        kinds = kinds | {name: (int,) for name in _COUNTS if rule or name in protocol}
    for name, expected in kinds.items():
        if name not in protocol or type(protocol[name]) not in expected:
            raise DataError(f"{file}: `protocol.{shorten(name, 60)}` is missing or wrong.")
    for name, value in protocol.items():
        if type(value) not in (str, int, float, bool, type(None)):
            raise DataError(f"{file}: `protocol.{shorten(name, 60)}` is no single value.")


def _check_tokens(file: str, sequences: Sequences, size: int) -> None:
    tokens = sequences.tokens
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < size:
        raise DataError(f"{file}: a token is outside the vocabulary of {size:,}.")


def _load_tokenizer(
    folder: Path, protocol: dict[str, Any], vocabulary: Vocabulary
) -> Tokenizer | None:
    if protocol.get("tokens") != "tokenizer":
        return None
    for file in (folder / TOKENIZER, folder / TOKENIZER_CONFIG):
        try:
            if os.path.lexists(file):
                check_regular(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error}).") from None
    tokenizer = load_tokenizer(folder, str(protocol.get("tokenizer")))
    same = tokenizer.sha256 == protocol.get("tokenizer_sha256")
    if not same or tokenizer.tokens != vocabulary.ids:
        raise DataError(f"{folder / TOKENIZER}: not the tokenizer that the text was prepared with.")
    return tokenizer


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that `PreparedData.save` may not write.

    Raises:
        DataError: it exists, and `overwrite` is False or it holds something else.
    """
    restore_folder(folder)
    if not folder.exists():
        return
    if not overwrite:
        raise DataError(f"{folder}: exists already; --force replaces it.")
    if not (folder / RECORD).is_file():
        raise DataError(f"{folder}: not a folder that `farzi prepare` wrote, so it is left alone.")


_OURS = re.compile(
    rf"\.?((?:{'|'.join(PARTS)})\.(?:tokens|offsets)\.npy|{_VOCABULARY}|{RECORD}|{TOKENIZER}|{TOKENIZER_CONFIG})(\.[0-9a-f]{{8}})?"
)


def _is_ours(file: Path) -> bool:
    """Whether a file may stand in a folder that `save` writes, finished or not."""
    return file.is_file() and _OURS.fullmatch(file.name) is not None
