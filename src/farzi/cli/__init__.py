"""The command line: one file a command, loaded when it is called.

`farzi --help` answers from the table below and loads no command, so it loads neither torch nor
duckdb nor pyarrow.

A command `NAME` is a function `NAME` in `farzi/cli/NAME.py` that does its work through the library
and returns an exit code or None, which is 0. Its docstring is its help page; the docstring's last
section, `Example:`, is printed below the flags as it stands. CONTRIBUTING.md shows one.

Failures are raised, not printed: `SettingsError` and a `ValueError` that names an argument leave
with 2, every other error with 1. `_common.error_boundary` turns each into one line.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap
from collections.abc import Callable, Sequence
from inspect import getdoc  # `farzi.cli.inspect` is a command
from typing import Any

import cyclopts

import farzi
from farzi.cli import _common

__all__ = ["COMMANDS", "build_app", "flags_of", "main"]

COMMANDS = {
    "sources": "List the known datasets, which are at hand, and their licences.",
    "fetch": "Download a known dataset from its publisher, every byte checked.",
    "prepare": "Turn a table or a text into sequences and splits.",
    "distill": "Distil a source into a few synthetic sequences.",
    "train": "Train an ordinary model on an artifact or on a source.",
    "evaluate": "Score a model on a source, the protocol spelled out.",
    "compare": "Compare an artifact with full data and with samples of it.",
    "sweep": "Search over settings of a student or of a distillation.",
    "audit": "Attack a distilled dataset, and say what it gives away of its users.",
    "reproduce": "Distil again from an artifact's own record, and compare.",
    "watch": "Watch a run: how far it is, its losses, gradients and agreement.",
    "report": "Write one HTML page that shows a run: result, course, contents, cost.",
    "experiments": "Run an experiment cell by cell, or show what is there of it.",
    "inspect": "Show what an artifact holds.",
    "export": "Write a distilled dataset in the files that other tools read.",
    "push": "Push an artifact to a dataset repository of the Hugging Face hub.",
    "pull": "Pull an artifact from a dataset repository of the Hugging Face hub.",
    "doctor": "Show what farzi finds here, and say what to do where something is missing.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; those of this process when None.

    Returns:
        0 done, 1 bad data or a failed run, 2 a wrong flag or setting, 75 stopped by SIGTERM (with
        what can be saved saved), 130 interrupted.

    Example:
        >>> from farzi.cli import main
        >>> main(["distil", "ml-100k"])  # says on stderr: did you mean "distill"?
        2
    """
    tokens = _name_json_file(list(sys.argv[1:] if argv is None else argv))
    boundary = _common.error_boundary(
        traceback="--traceback" in tokens, flags=lambda: flags_of(_called(tokens))
    )
    with boundary as outcome, _common.ended_by_signals(), _common.log_to_stderr(tokens):
        app = build_app(tokens)
        if "--install-completion" in tokens:  # of every command's flags, so all are loaded
            app = build_app(tokens, whole=True)
        command, arguments, _ = app.parse_args(
            tokens, print_error=False, exit_on_error=False, verbose=False
        )
        _common.keep_freed_memory()
        outcome.code = command(*arguments.args, **arguments.kwargs) or _common.EXIT_DONE
    return outcome.code


def build_app(tokens: Sequence[str], *, whole: bool = False) -> cyclopts.App:
    """Register every command by its summary, and the one that is called by its function.

    Args:
        tokens: the command line.
        whole: register all by their functions.
    """
    app = cyclopts.App(
        name="farzi",
        help="Distil event logs and text corpora into a few synthetic sequences.",
        help_epilogue="`farzi COMMAND --help` shows the flags of a command and an example.",
        help_format="plaintext",
        version=farzi.__version__,
        default_parameter=cyclopts.Parameter(negative=()),
    )
    called = _called(tokens)
    for position, (name, summary) in enumerate(COMMANDS.items()):
        if whole or name == called:
            function = getattr(importlib.import_module(f"farzi.cli.{name}"), name)
            example = _example(function)
            function.__doc__ = _common.reflow(getdoc(function))
            app.command(function, name=name, sort_key=position, help_epilogue=example)
        else:
            app.command(_stand_in, name=name, sort_key=position, help=summary)
    app.register_install_completion_command(
        help="Teach your shell to complete commands and flags (bash, zsh, fish).",
        sort_key=len(COMMANDS),
    )
    return app


def flags_of(command: str) -> frozenset[str]:
    """The long flags of a command; none where there is no such command.

    Example:
        >>> from farzi.cli import flags_of
        >>> sorted(flags_of("sources"))
        ['--data-root', '--help', '--json', '--json-file', '--quiet', '--traceback', '--verbose']
    """
    if command not in COMMANDS:
        return frozenset()
    whole = build_app([command])
    app = whole[command]
    arguments = app.assemble_argument_collection(default_parameter=whole.default_parameter)
    names = [name for argument in arguments for name in argument.names] + list(app.help_flags)
    return frozenset(name for name in names if name.startswith("--"))


def _called(tokens: Sequence[str]) -> str:
    """The command that is called."""
    return next((token for token in tokens if not token.startswith("-")), "")


def _name_json_file(tokens: list[str]) -> list[str]:
    """Read `--json FILE` as the file to write, where FILE is named as one.

    Example:
        >>> from farzi.cli import _name_json_file
        >>> _name_json_file(["compare", "--json", "out.json", "--seeds", "3"])
        ['compare', '--json-file', 'out.json', '--seeds', '3']
    """
    for place, (flag, value) in enumerate(itertools.pairwise(tokens)):
        if flag == "--json" and value.endswith(".json"):
            return [*tokens[:place], "--json-file", *tokens[place + 1 :]]
    return tokens


def _stand_in() -> None:
    """Hold the place of a command that is not called."""


def _example(function: Callable[..., Any]) -> str:
    """Return the `Example:` section that ends the function's docstring."""
    _, found, example = (getdoc(function) or "").partition("\nExample:\n")
    return "Example:\n" + textwrap.indent(textwrap.dedent(example).rstrip(), "  ") if found else ""
