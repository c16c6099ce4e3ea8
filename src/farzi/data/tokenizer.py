"""A tokenizer of Hugging Face's from a folder: what it cuts a text into, and what it is known by.

Its vocabulary is read as JSON; the library `tokenizers` is imported only where a text is cut, so
that prepared data and artifacts load without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from farzi.data.columns import shorten
from farzi.data.content import open_binary, parse_json, stem_of
from farzi.errors import DataError, SettingsError

__all__ = [
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "Tokenizer",
    "load_tokenizer",
    "read_tokenizer",
    "special_tokens",
    "tokenizer_config",
]

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

MAX_BYTES = 1 << 30

_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# What ends a text, where no file of the folder says so; the first that the vocabulary has.
_ENDS = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "[EOS]", "[SEP]")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer as its folder has it.

    Args:
        name: the folder's name, for people to read; nothing opens it.
        content: the bytes of `tokenizer.json`.
        special: special tokens by what `transformers` calls them, such as `eos_token`.

    Raises:
        ValueError: the content is not that of a tokenizer that can be used; the reason.
    """

    name: str = field(compare=False)
    content: bytes = field(repr=False)
    special: Mapping[str, str]

    def __post_init__(self) -> None:
        if self._parsed["model"].get("dropout"):
            raise ValueError("`model.dropout` cuts the same text otherwise each time; remove it")
        for role, token in self.special.items():
            if role not in _ROLES or token not in self._ids:
                raise ValueError(f"`{shorten(role, 40)}` is not among its tokens")

    @property
    def sha256(self) -> str:
        """`sha256:...` of `tokenizer.json`, by which the tokenizer is known."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token, in the order of its id."""
        return tuple(self._ids)

    @property
    def eos(self) -> str:
        """The token that ends every sentence.

        Raises:
            ValueError: there is none.
        """
        named = [self.special[role] for role in ("eos_token", "sep_token") if role in self.special]
        for token in (*named, *_ENDS):
            if token in self._ids:
                return token
        raise ValueError(
            f"it has no token that ends a sentence; name one as `eos_token` in {TOKENIZER_CONFIG}"
        )

    @property
    def unknown(self) -> str | None:
        """The token of what it does not know; None where it has none, see `knows_bytes`."""
        model = self._parsed["model"]
        token, place = model.get("unk_token"), model.get("unk_id")
        if type(place) is int and 0 <= place < len(self.tokens):
            token = self.tokens[place]
        return token if isinstance(token, str) and token in self._ids else None

    @property
    def knows_bytes(self) -> bool:
        """Whether it has a token for every byte, so that there is nothing that it does not know."""
        spelled = {f"<0x{byte:02X}>" for byte in range(256)}
        if self._parsed["model"].get("byte_fallback") and spelled <= self._ids.keys():
            return True
        # As GPT-2 spells bytes: visible ones of Latin-1 as they are, the others from U+0100 on.
        visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = range(0x100, 0x100 + 256 - len(visible))
        return set(map(chr, (*visible, *others))) <= self._ids.keys()

    def cut(self, line: str) -> list[str]:
        """The tokens of a line, without those that the tokenizer puts around a text.

        Raises:
            SettingsError: the library `tokenizers` is not installed.
            DataError: the tokenizer cannot cut the line: it has no token for a word.
            ValueError: the library cannot read the file, or reads other ids from it.
        """
        library = self._library
        try:
            encoding = library.encode(line, add_special_tokens=False)
        except BaseException as error:
            raise DataError(
                f"the tokenizer {self.name} cannot cut {shorten(line, 60)!r} ({_reason(error)})."
            ) from None
        return [self.tokens[token] for token in encoding.ids]

    @cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise SettingsError(
                "--tokenizer needs the library `tokenizers`: pip install 'farzi[hf]'."
            ) from None
        try:
            loaded = tokenizers.Tokenizer.from_str(self.content.decode("utf-8"))
        except BaseException as error:
            raise ValueError(_reason(error)) from None
        loaded.no_truncation()  # of each sentence, without a word
        loaded.no_padding()
        if loaded.get_vocab() != self._ids:
            raise ValueError("its added tokens have other ids than the library gives them")
        return loaded

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        value = parse_json(self.content)
        if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
            raise ValueError("it has no `model`")
        return value

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The id of every token, rising."""
        ids: dict[str, int] = {}
        for token, number in _entries(self._parsed):
            if type(token) is not str or type(number) is not int:
                raise ValueError("its vocabulary must give each token an id")
            if ids.setdefault(token, number) != number:
                raise ValueError(f"the token {shorten(repr(token), 40)} has two ids")
        if not ids or sorted(ids.values()) != list(range(len(ids))):
            raise ValueError("the ids of its tokens must count from 0 without a gap, each once")
        return dict(sorted(ids.items(), key=lambda entry: entry[1]))


def _entries(value: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Tokens and ids: of the model, a mapping or pairs of token and score, and added ones."""
    vocabulary = value["model"].get("vocab")
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):
        for place, pair in enumerate(vocabulary):
            yield (pair[0] if isinstance(pair, list) and pair else None), place
    else:
        raise ValueError("it has no `model.vocab`")
    several = value.get("added_tokens") or []
    if not isinstance(several, list) or not all(isinstance(added, dict) for added in several):
        raise ValueError("`added_tokens` must be a list of objects")
    for added in several:
        yield added.get("content"), added.get("id")


def _reason(error: BaseException) -> str:
    """What the library says: it raises nothing narrower than Exception, and panics of Rust's.

    Raises:
        BaseException: the error itself, where it is not the library's, such as an interrupt.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return shorten(str(error), 200)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, as `save_pretrained` of transformers writes it, ready to cut.

    Raises:
        DataError: a file is missing or damaged, or no tokenizer that can be used; it is named.
        SettingsError: the library `tokenizers` is not installed.
    """
    folder = folder.expanduser()
    tokenizer = load_tokenizer(folder, shorten(stem_of(folder), 60))
    try:
        tokenizer.cut("")
    except ValueError as error:
        raise DataError(f"{folder / TOKENIZER}: cannot be used: {error}.") from None
    return tokenizer


def load_tokenizer(folder: Path, name: str) -> Tokenizer:
    """The same without the library `tokenizers`, so that it is known but cuts nothing yet.

    Args:
        folder: holds `tokenizer.json`, and `tokenizer_config.json` where special tokens are named.
        name: what it is called.

    Raises:
        DataError: as `read_tokenizer`.
    """
    file = folder / TOKENIZER
    if not folder.is_dir():
        what = "is a file; name its folder" if folder.is_file() else "there is no such folder"
        raise DataError(f"{folder}: {what}.")
    if not file.is_file():
        raise DataError(
            f"{folder}: holds no {TOKENIZER}; a tokenizer in other files is converted by "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers."
        )
    content = _read(file)
    special: dict[str, str] = {}
    for place in (folder / "special_tokens_map.json", folder / TOKENIZER_CONFIG):
        if place.is_file():
            try:
                special |= special_tokens(parse_json(_read(place)))
            except ValueError as error:
                raise DataError(f"{place}: cannot be read ({error}).") from None
    try:
        known = set(Tokenizer(name, content, {}).tokens)
        # transformers adds what is missing; none but the end is of use here.
        kept = {role: token for role, token in special.items() if token in known}
        if special.get("eos_token", "") not in {*known, ""}:
            raise ValueError(f"`eos_token` {shorten(repr(special['eos_token']), 40)} is no token")
        tokenizer = Tokenizer(name, content, kept)
        assert tokenizer.eos  # or the reason why there is none
    except ValueError as error:
        raise DataError(f"{file}: cannot be used: {error}.") from None
    return tokenizer


def special_tokens(config: Any) -> dict[str, str]:
    """The special tokens that the content of `tokenizer_config.json` names.

    Raises:
        ValueError: it is no object.
    """
    if not isinstance(config, dict):
        raise ValueError("not an object")
    found = {}
    for role in _ROLES:
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[role] = token
    return found


def tokenizer_config(special: Mapping[str, str]) -> dict[str, Any]:
    """The content of `tokenizer_config.json`, by which `AutoTokenizer` loads a folder.

    Nothing of the user's own file is taken but the names of special tokens: others may name paths
    and code.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _read(file: Path) -> bytes:
    with open_binary(file) as stream:
        small = file.stat().st_size <= MAX_BYTES  # before it is read; it may be packed
        content = stream.read(MAX_BYTES + 1) if small else b""
    if not small or len(content) > MAX_BYTES:
        raise DataError(f"{file}: more than {MAX_BYTES:,} bytes.")
    return content
