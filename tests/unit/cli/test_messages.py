"""No message advises a flag that its command does not have."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import farzi
from farzi import cli
from farzi.cli import COMMANDS, flags_of
from farzi.data import prepare
from farzi.distill import distill
from toy import SMALL, write_log

SOURCE = Path(farzi.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
NOT_OURS = {"--version"}  # of compilers, in calls of them

# Whose users may read the messages of a package outside `cli/`; a command's own file is its own.
READERS = {"prepare", "distill", "train", "evaluate", "compare"}
READ_BY = {
    "data": READERS | {"report"},
    "provenance": READERS - {"prepare", "distill"} | {"report"},
    "report": {"report"},
    "artifact": READERS - {"prepare"},
    "models": READERS - {"prepare"},
    "api": {"train", "evaluate", "compare"},
    "distill": {"distill"},
    "sweeps": {"sweep"},
    "experiments": {"compare"},
}
# Where a flag is named after only some of those commands can have come to it.
ONLY = {
    ("data", "--force"): {"prepare"},
    ("data", "--out"): {"prepare"},
    ("data", "--split-seed"): READERS - {"evaluate", "compare"},
}
OF_EVERY_COMMAND = {"cli/__init__.py", "cli/_common.py", "cli/_source.py"}


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module that names a flag, docstrings aside."""
    tree = ast.parse(file.read_text())
    bodies = [node.body for node in ast.walk(tree) if hasattr(node, "body")]
    docstrings = {
        body[0].value
        for body in bodies
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr)
    }
    parts: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= set(node.values)
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if node not in parts | docstrings and set(FLAG.findall(text)) - NOT_OURS:
            yield node.lineno, text


def unknown_flags(text: str, commands: set[str], package: str = "") -> list[str]:
    """The flags that a text names and a command that may say it lacks.

    `farzi COMMAND ... --flag` between backticks, or on a line of its own, is about that command.
    """
    wrong = []
    quoted = re.compile(r"`farzi ([a-z]+)([^`]*)`|^farzi ([a-z]+)(.*)$", re.MULTILINE)
    for match in quoted.finditer(text):
        command, rest = (group for group in match.groups() if group is not None)
        wrong += [
            f"{command} {flag}" for flag in FLAG.findall(rest) if flag not in flags_of(command)
        ]
    for flag in set(FLAG.findall(quoted.sub("", text))) - NOT_OURS:
        for command in ONLY.get((package, flag), commands):
            if flag not in flags_of(command):
                wrong.append(f"{command} {flag}")
    return wrong


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE))
)
def test_the_flags_in_messages_are_there(file: Path) -> None:
    name = str(file.relative_to(SOURCE))
    found = list(messages(file))
    if not found:
        return
    package = name.removesuffix(".py").split("/")[0]
    if name.startswith("cli/"):
        own = file.stem
        commands = {own} if own in COMMANDS else set() if name in OF_EVERY_COMMAND else READERS
    else:
        assert package in READ_BY, f"{name} names {found}: say in READ_BY who can read that"
        commands = READ_BY[package]
    wrong = {line: unknown_flags(text, commands, package) for line, text in found}
    assert not any(wrong.values()), wrong


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, a text, two runs on the log and a model."""
    folder = tmp_path_factory.mktemp("messages")
    log = write_log(folder / "log.tsv")
    (folder / "prose.txt").write_text("one two three\n" * 20)
    settings = SMALL.with_values({"outer.steps": 1})
    data = prepare(log)
    distill(data, folder / "run", settings)
    distill(dataclasses.replace(data, origin=None), folder / "homeless", settings)
    data.save(folder / "prepared")
    train = ["train", str(log), "--out", str(folder / "model"), "--max-steps", "5", "-q"]
    assert cli.main(train) == 0
    return folder


FAILURES = [
    "prepare",
    "prepare nowhere.csv --out {new}",
    "prepare stdlib-cals --out {new}",
    "prepare {log} --out {prepared}",
    "prepare {log} --out {run}",
    "prepare {log} --out {new} --vocabulary-size 9",
    "prepare {log} --out {new} --tokenizer {empty}",
    "prepare {prose} --out {new} --tokenizer nowhere",
    "prepare {prose} --out {new} --tokenizer {empty}",
    "prepare {prose} --out {new} --tokenizer {prose}",
    "prepare {prose} --out {new} --tokenizer {empty} --tokens blanks",
    "prepare {prose} --out {new} --tokenizer {empty} --vocabulary-size 9",
    "prepare {prose} --out {new} --k-core 2",
    "prepare {prose} --out {new} --min-length 3",
    "prepare {prose} --out {new} --seen-items keep",
    "prepare {log} --out {new} --k-core -1",
    "prepare {log} --out {new} --min-length 1",
    "prepare {log} --out {new} --split-seed -1",
    "prepare {log} --out {new} --user-col nobody",
    "prepare {log} --out {new} --min-length 99",
    "prepare ml-100k --out {new} --data-root {empty}",
    "prepare ml-100k --out {new} --data-root {empty} --user-col a",
    "prepare ml-100k --out {new} --task language",
    "distill {log}",
    "distill {log} --out {run}",
    "distill {log} --out {new} --size 5by5",
    "distill {log} --out {new} --set lr_label=1",
    "distill {log} --out {new} --set inner_lr=-1",
    "distill {log} --out {new} --set window=2.5",
    "distill {log} --out {new} --set window=900",
    "distill {log} --out {new} --inner-steps 0",
    "distill {log} --out {new} --config nowhere.toml",
    "distill {log} --out {new} --resume",
    "distill {log} --out {run} --resume",
    "distill {log} --out {new} --set lr",
    "distill {log} --out {new} --outr-steps 3",
    "distill {log} --out {new} --student nobody",
    "distill {prepared} --out {new} --split-seed 4",
    "distill {prepared} --out {new} --split leave-last-out",
    "distill {prepared} --out {new} --repeats first",
    "train {log}",
    "train {log} --out {model}",
    "train {log} --out {new} --on {log}",
    "train {log} --out {new} --student nobody",
    "train {homeless} --out {new}",
    "train {run} --out {new} --split-seed 3",
    "train {run} --out {new} --on {prose}",
    "train {log} --out {new} --width 0",
    "train {log} --out {new} --lr 1e30",
    "train ml-100k --out {new} --data-root {empty}",
    "evaluate {new}",
    "evaluate {model} --on {prose}",
    "evaluate {model} --on {empty}",
    "evaluate {model} --part train",
    "evaluate {model} --min-length 9",
    "compare {log}",
    "compare {run} --rows fulll",
    "compare {run} --seeds 0",
    "compare {run} --splits 3",
    "compare {run} --also x",
    "compare {run} --also full={run}",
    "compare {run} --on {prose}",
    "compare {homeless}",
    "compare {log} --on {log}",
    "compare {log} --artifact {empty}",
    "compare {run} --min-length 9",
    "inspect {empty}",
    "inspect {run} --top -1",
    "sources --json --nothing",
    "doctor --nothing",
]


@pytest.mark.parametrize("line", FAILURES)
def test_an_error_advises_only_flags_that_are_there(
    line: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FARZI_DATA_ROOT", raising=False)
    (tmp_path / "empty").mkdir()
    names = ("run", "homeless", "model", "prepared")
    arguments = line.format(
        log=place / "log.tsv",
        prose=place / "prose.txt",
        new=tmp_path / "new",
        empty=tmp_path / "empty",
        **{name: place / name for name in names},
    ).split()
    assert cli.main(
        [*arguments, "--device=cpu"] if "--device" in flags_of(arguments[0]) else arguments
    ) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    errors = [row for row in said.err.splitlines() if row.startswith("farzi: ")]
    assert len(errors) == 1
    (error,) = errors
    assert "--traceback" not in error, "an error that nobody foresaw"
    wrong = unknown_flags(error, {arguments[0]})
    assert [name for name in wrong if name.split()[1] not in arguments] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("distill {log} --out {new} --inner-steps 0", "--inner-steps must be > 0"),
        (
            "distill {log} --out {new} --set inner.optimizer.lr=-1",
            "--set inner.optimizer.lr must be > 0",
        ),
        ("prepare {log} --out {new} --k-core -1", "--k-core must be an int >= 0"),
    ],
)
def test_an_argument_is_called_as_the_command_line_calls_it(
    line: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.format(log=place / "log.tsv", new=tmp_path / "new").split()) == 2
    assert f"farzi: {said}" in capsys.readouterr().err
