"""Bad input: one line that names what is wrong, the right exit code, nothing written over."""

import pytest

from farzi.cli import main
from farzi.distill import distill
from toy import SMALL, toy_data, write_log

GOOD = "user_id\titem_id\ttimestamp\nu\ta\t1\nu\tb\t2\nv\ta\t3\nv\tb\t4\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("user_id\tthing\ttimestamp\nu\ta\t1\n", "item"),
        (GOOD + "w\ta\tyesterday\n", "yesterday"),
        ("", "log.tsv"),
        ("user_id\titem_id\ttimestamp\nu\ta\t1\nu\tb\t2\n", "user"),
    ],
    ids=["missing column", "unparsable time", "empty file", "one user only"],
)
def test_bad_logs(tmp_path, capsys, text, named):
    log = tmp_path / "log.tsv"
    log.write_text(text)
    command = ["distill", str(log), "--task", "recommend", "--out", str(tmp_path / "run"), "-q"]
    assert main(command) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--outr-steps", "3"], "--outer-steps"),
        (["--size", "5by5"], "--size"),
        (["--set", "lr_label=1"], "lr_labels"),
        (["--set", "lr=3"], "inner.optimizer.lr"),
        (["--set", "inner.window=2.5"], "window"),
        (["--inner-steps", "0"], "inner"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_wrong_flags(tmp_path, capsys, flags, named):
    log = write_log(tmp_path / "toy.tsv")
    command = ["distill", str(log), "--task", "recommend", "--out", str(tmp_path / "run"), "-q"]
    assert main([*command, *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]


def test_a_corrupt_artifact(tmp_path, capsys):
    distill(toy_data(tmp_path), tmp_path / "run", SMALL)
    tensors = tmp_path / "run/artifact/farzi.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    log = str(tmp_path / "toy.tsv")
    command = ["compare", log, "--task", "recommend", "--artifact", str(tmp_path / "run"), "-q"]
    assert main(command) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "farzi.safetensors" in lines[0]
