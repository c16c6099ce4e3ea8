"""docs/choosing.md: every command on it runs, every kind is on it, with its real defaults."""

import re
import shlex
from pathlib import Path

import pytest

from farzi.cli import main
from farzi.distill.presets import OF_A_CHOICE
from farzi.distill.settings import CHOICES, DistillSettings, named
from toy import TINY_BY_NAME, write_log

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^farzi (distill .*)$", PAGE, re.MULTILINE)
SIZES = ("num_sequences", "length", "latent_dim", "student.width")


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = write_log(tmp_path / "log.tsv").read_text()
    (tmp_path / "log.csv").write_text(table.replace("\t", ","))
    assert len(COMMANDS) > 15
    for command in COMMANDS:
        arguments = shlex.split(command)
        is_later = "--from" in arguments  # whose sizes are the earlier run's
        tiny = {name: x for name, x in TINY_BY_NAME.items() if not (is_later and name in SIZES)}
        sets = [part for name, x in tiny.items() for part in ("--set", f"{name}={x}")]
        assert main([*arguments, *sets, "--no-report", "-q"]) == 0, capsys.readouterr().err
        folder = Path(arguments[arguments.index("--out") + 1])
        assert (folder / "artifact" / "farzi.json").is_file()


@pytest.mark.parametrize("choice", ["objective", "start", "inner.optimizer"])
def test_every_kind_is_on_the_page_with_its_defaults(choice):
    rows = dict(re.findall(r"^\| `(\w+)`(.*)$", PAGE, re.MULTILINE))
    assert set(CHOICES[choice]) <= set(rows)
    settings = DistillSettings()
    value = settings.inner.optimizer if choice == "inner.optimizer" else getattr(settings, choice)
    marked = [name for name in CHOICES[choice] if rows[name].startswith(" (default)")]
    assert marked == [named(value)]
    for name in CHOICES[choice]:
        for setting, number in OF_A_CHOICE.get(f"{choice}={name}", {}).items():
            assert f"`{setting}` {number}" in rows[name]
