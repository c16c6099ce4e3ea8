"""Real data that every Python has: the calls and the documentation of its standard library.

Both are read with `ast` from the files of the running interpreter; no module is imported and
nothing is shipped. `test` packages are left out. Another Python version gives other data, and
the fingerprint tells.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from farzi.errors import DataError

__all__ = ["MIN_ITEM_COUNT", "hash_records", "read_calls", "read_documents"]

MIN_ITEM_COUNT = 3  # names called less often are no items

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_DOCUMENTED = (ast.Module, *_NAMED)


def read_calls() -> list[tuple[str, str]]:
    """The names that each class of the standard library calls, in the order of the source.

    A class (`module:Outer.Class`, without the classes inside it) is a user and a called name
    (`append` for `self.rows.append(...)`) an item. A class that a module defines twice is one
    user. Names called fewer than three times in all are left out.

    Returns:
        (user, item) pairs in the order of the source.
    """
    return list(_calls())


@cache
def _calls() -> tuple[tuple[str, str], ...]:
    calls = [
        (f"{module}:{place}", name)
        for module, tree in _modules()
        for place, definition in _classes(tree)
        for name in _called_names(definition)
    ]
    counts = Counter(name for _, name in calls)
    return tuple((user, name) for user, name in calls if counts[name] >= MIN_ITEM_COUNT)


def read_documents() -> list[tuple[str, str]]:
    """The standard library's own documentation: the topics of `help()` and every docstring.

    A text that stands in several places is taken once.

    Returns:
        (name, text) pairs: `topic:for` or `json.decoder:JSONDecoder.decode`.
    """
    return list(_documents())


@cache
def _documents() -> tuple[tuple[str, str], ...]:
    documents: dict[str, str] = {}
    for module, tree in _modules():
        found = _topics(tree) if module == "pydoc_data.topics" else _docstrings(module, tree)
        for name, text in found:
            documents.setdefault(text, name)
    return tuple((name, text) for text, name in documents.items())


def hash_records(records: Iterable[tuple[str, str]]) -> str:
    """`sha256:...` of pairs of strings, one JSON list a line."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the standard library that Python can parse, by dotted name, in order."""
    root = Path(sysconfig.get_path("stdlib"))
    found = False
    for parts in sorted(_files_below(root)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as old escapes in the library's strings
                tree = ast.parse(root.joinpath(*parts).read_bytes())
        except (SyntaxError, ValueError):  # lib2to3 and others keep broken files on purpose
            continue
        found = True
        yield ".".join(parts).removesuffix(".py").removesuffix(".__init__"), tree
    if not found:
        raise DataError(f"{root}: this Python has no source files of its standard library.")


def _files_below(root: Path) -> Iterator[tuple[str, ...]]:
    """The parts of every path below `root` that is read; installed packages are not walked."""
    for folder, folders, names in os.walk(root):
        above = Path(folder).relative_to(root).parts
        folders[:] = [name for name in folders if not _is_left_out(name, above)]
        for name in names:
            if name.endswith(".py") and not _is_left_out(name.removesuffix(".py"), above):
                yield (*above, name)


def _is_left_out(name: str, above: tuple[str, ...]) -> bool:
    of_this_build = not above and name.startswith(("config-", "_sysconfigdata"))
    return name in _LEFT_OUT or of_this_build


def _classes(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class definition with its name below the module, outer ones first."""
    for node in _statements(tree):
        if isinstance(node, _NAMED):
            name = f"{outer}.{node.name}" if outer else node.name
            if isinstance(node, ast.ClassDef):
                yield name, node
            yield from _classes(node, name)
        else:
            yield from _classes(node, outer)


def _called_names(definition: ast.ClassDef) -> Iterator[str]:
    """What a class calls, outside the classes inside it, in the order of the source."""
    calls = []
    waiting: list[ast.AST] = [definition]
    while waiting:
        node = waiting.pop()
        for name in node._fields:
            value = getattr(node, name)
            children = value if isinstance(value, list) else (value,)
            waiting.extend(
                child
                for child in children
                if isinstance(child, ast.AST) and not isinstance(child, ast.ClassDef)
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            calls.append((node.func.end_lineno, node.func.end_col_offset, called))
    return (called for *_, called in sorted(calls))


def _docstrings(place: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The docstrings below `place`, in the order of the source."""
    if isinstance(tree, _DOCUMENTED) and (text := ast.get_docstring(tree)):
        yield place, text
    for node in _statements(tree):
        if isinstance(node, _NAMED):
            joint = "." if ":" in place else ":"
            yield from _docstrings(f"{place}{joint}{node.name}", node)
        else:
            yield from _docstrings(place, node)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements right inside a module or a statement; expressions hold none."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        yield from getattr(tree, name, ())


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The dictionary that `pydoc_data.topics` assigns to `topics`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for name, text in ast.literal_eval(node.value).items():
                yield f"topic:{name}", text
