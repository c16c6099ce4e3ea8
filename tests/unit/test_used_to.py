"""What docs/used-to.md says is here, is here."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from farzi.cli import COMMANDS, flags_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/used-to.md").read_text()
ROWS = [
    line.strip("|").rpartition(" | ")[2].strip()
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| there"))
]
NOT_OURS = {"torch.utils.data.Dataset", "torch.nn.Module"}


def python_name(dotted: str) -> object:
    """The object of a dotted name; a field of a dataclass counts."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            fields = getattr(found, "__dataclass_fields__", {})
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise AssertionError(f"{dotted}: there is no such module")


def check(code: str, commands: list[str]) -> None:
    if code.startswith(("farzi ", "torchrun -m farzi ")):
        command, *words = shlex.split(code.partition("farzi ")[2])
        assert command in COMMANDS, code
        assert {word for word in words if word.startswith("--")} <= flags_of(command), code
    elif code.startswith("--"):
        assert any(code in flags_of(command) for command in commands), code
    elif code.startswith("FARZI_"):
        files = [*(ROOT / "src/farzi/cli").glob("*.py")]
        assert any(f'"{code}"' in file.read_text() for file in files), code
    elif code not in NOT_OURS:
        assert code.startswith("farzi."), code
        python_name(code)


@pytest.mark.parametrize("here", ROWS)
def test_it_is_there(here: str) -> None:
    codes = re.findall(r"`([^`]+)`", here)
    assert codes
    commands = [code.split()[1] for code in codes if code.startswith("farzi ")]
    for code in codes:
        check(code, commands)


def test_every_tool_has_rows() -> None:
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [
        "RecTools", "RePlay", "RecBole", "Hugging Face", "Lightning", "axolotl",
    ]  # fmt: skip
    assert len(ROWS) > 40
    with pytest.raises(AssertionError):
        check("farzi train x --no-such-flag", [])
    with pytest.raises(AttributeError):
        check("farzi.no_such_name", [])
