"""The flags of a source: one set, the same for every command that reads one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from farzi.cli._common import reflow

__all__ = ["DEFAULT_READING", "On", "Reading"]

_GROUP = Group("Source", sort_key=1)

On = Annotated[
    str | None,
    Parameter(
        group=_GROUP,
        help="The source, where it is no longer where it was read, or where nothing says.",
    ),
]


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read; a run, an artifact and a model remember it, so that later commands
    need none of it again.

    Args:
        task: what the source is for, where its name does not tell.
        data_root: folder of the known datasets.
        split: of an event log: 80/10/10 by users, or each user's last two events held out.
        user_col: column of the user; a number, from 1, in a file without a header line.
        item_col: column of the item; likewise.
        time_col: column of the time; likewise, or `row` where the rows are in time order.
        tie_col: column that orders events of one time; without it, their place in the source.
        k_core: drop users and items with fewer events, until none is left to drop; 0 is off.
        min_length: drop users with fewer events; the source's own without it, mostly 2.
        repeats: keep them (the default), or only the first event of a user with an item.
        seen_items: whether items that a user already had stay in the ranking; without it, what
            the source says, else keep where more than 5 % of all events repeat an item.
        format: how a file lies; user-lines is one user a line, then the items in time order.
            Without it, as the name and the first lines say.
        delimiter: what stands between two fields of a table, such as , or :: or tab.
        quote: what fields of a table may be wrapped in: double, single, none or a character.
        tokens: how a text is cut: words (Unicode's, in lower case), characters, or at blanks only.
        vocabulary_size: tokens of a text, <unk> and <eos> included: 0 is all, the default 2,000.
        tokenizer: folder of a Hugging Face tokenizer that cuts a text, in place of both.
        engine: what prepares an event log; spark reads Parquet, from hdfs:// and s3a:// too.
    """  # noqa: D205

    task: Annotated[Literal["recommend", "language"] | None, Parameter(env_var="FARZI_TASK")] = None
    data_root: Annotated[Path | None, Parameter(env_var="FARZI_DATA_ROOT")] = None
    split: Annotated[
        Literal["users", "leave-last-out"] | None, Parameter(env_var="FARZI_SPLIT")
    ] = None
    user_col: Annotated[str | None, Parameter(env_var="FARZI_USER_COL")] = None
    item_col: Annotated[str | None, Parameter(env_var="FARZI_ITEM_COL")] = None
    time_col: Annotated[str | None, Parameter(env_var="FARZI_TIME_COL")] = None
    tie_col: Annotated[str | None, Parameter(env_var="FARZI_TIE_COL")] = None
    k_core: Annotated[int | None, Parameter(env_var="FARZI_K_CORE")] = None
    min_length: Annotated[int | None, Parameter(env_var="FARZI_MIN_LENGTH")] = None
    repeats: Annotated[Literal["keep", "first"] | None, Parameter(env_var="FARZI_REPEATS")] = None
    seen_items: Annotated[
        Literal["keep", "leave-out"] | None, Parameter(env_var="FARZI_SEEN_ITEMS")
    ] = None
    format: Annotated[
        Literal["table", "jsonl", "parquet", "user-lines", "text"] | None,
        Parameter(env_var="FARZI_FORMAT"),
    ] = None
    delimiter: Annotated[str | None, Parameter(env_var="FARZI_DELIMITER")] = None
    quote: Annotated[str | None, Parameter(env_var="FARZI_QUOTE")] = None
    tokens: Annotated[
        Literal["words", "characters", "blanks"] | None, Parameter(env_var="FARZI_TOKENS")
    ] = None
    vocabulary_size: Annotated[int | None, Parameter(env_var="FARZI_VOCABULARY_SIZE")] = None
    tokenizer: Annotated[Path | None, Parameter(env_var="FARZI_TOKENIZER")] = None
    engine: Annotated[Literal["duckdb", "spark"] | None, Parameter(env_var="FARZI_ENGINE")] = None

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of `prepare` that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}


Reading.__doc__ = reflow(Reading.__doc__)
DEFAULT_READING = Reading()
