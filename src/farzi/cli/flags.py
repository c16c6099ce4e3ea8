"""Which flags a command has: what a message may advise."""

from __future__ import annotations

from farzi.cli import build_app

__all__ = ["flags_of"]


def flags_of(command: str) -> frozenset[str]:
    """The long flags of a command.

    Example:
        >>> from farzi.cli.flags import flags_of
        >>> sorted(flags_of("sources"))
        ['--data-root', '--help', '--json', '--json-file', '--quiet', '--traceback', '--verbose']
    """
    whole = build_app([command])
    app = whole[command]
    arguments = app.assemble_argument_collection(default_parameter=whole.default_parameter)
    names = [name for argument in arguments for name in argument.names] + list(app.help_flags)
    return frozenset(name for name in names if name.startswith("--"))
