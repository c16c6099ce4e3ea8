"""Pushing and pulling with `huggingface_hub` itself, against a hub on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifact_examples import SOURCE, toy_artifact
from farzi import cli
from farzi.artifact import read_artifact, write_artifact
from farzi.errors import ArtifactError, SettingsError
from farzi.hub import pull, push
from hub_server import TOKEN, Hub, serve

pytest.importorskip("huggingface_hub", reason="it comes with the extra `hub`")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

NAME = "me/toy-distilled"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve() as hub:
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_artifact(toy_artifact(), tmp_path / "run" / "artifact").parent


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_pushed_is_pulled(hub: Hub, run: Path, tmp_path: Path) -> None:
    (run / "artifact" / "notes.txt").write_text("mine")
    own = file_bytes(run / "artifact")
    del own["notes.txt"]
    assert push(run, NAME, private=True, endpoint=hub.endpoint).endswith(f"/datasets/{NAME}")
    assert {path: content for path, content in hub.repos[NAME].items() if path[0] != "."} == own
    assert hub.private == {NAME}
    folder = pull(NAME, tmp_path / "pulled" / "a", endpoint=hub.endpoint)
    assert file_bytes(folder) == own
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_a_push_replaces_the_files_of_the_last(hub: Hub, run: Path, tmp_path: Path) -> None:
    words = ["<unk>", "<eos>", "the", "of", "N"]
    text = toy_artifact(source={**SOURCE, "task": "language"}, vocabulary=words)
    push(write_artifact(text, tmp_path / "text"), NAME, endpoint=hub.endpoint)
    assert "tokenizer.json" in hub.repos[NAME]
    hub.repos[NAME]["paper.pdf"] = b"theirs"
    push(run, NAME, endpoint=hub.endpoint)
    assert "tokenizer.json" not in hub.repos[NAME]
    assert hub.repos[NAME]["paper.pdf"] == b"theirs"
    folder = pull(NAME, tmp_path / "pulled", endpoint=hub.endpoint)
    assert file_bytes(folder) == file_bytes(run / "artifact")


def test_what_is_broken_is_neither_pushed_nor_pulled(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, NAME, endpoint=hub.endpoint)
    kept = pull(NAME, tmp_path / "kept", endpoint=hub.endpoint)
    before = file_bytes(kept)
    hub.repos[NAME]["farzi.json"] += b" "
    message = rf"^{NAME}: farzi\.json: its SHA-256"
    with pytest.raises(ArtifactError, match=message):
        pull(NAME, tmp_path / "other", endpoint=hub.endpoint)
    with pytest.raises(ArtifactError, match=message):
        pull(NAME, kept, overwrite=True, endpoint=hub.endpoint)
    assert file_bytes(kept) == before
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "run"}
    (run / "artifact" / "farzi.json").write_text("{}")
    seen = len(hub.requests)
    with pytest.raises(ArtifactError, match=r"farzi\.json"):
        push(run, NAME, endpoint=hub.endpoint)
    assert len(hub.requests) == seen


def test_too_large_is_refused_before_it_is_read(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, NAME, endpoint=hub.endpoint)
    monkeypatch.setattr("farzi.hub.MAX_BYTES", 500)
    with pytest.raises(ArtifactError, match=f"{NAME}: README.md has .* bytes, more than 500"):
        pull(NAME, tmp_path / "a", endpoint=hub.endpoint)
    assert not any("resolve" in request for request in hub.requests)


def test_an_artifact_is_replaced_only_where_that_is_asked(
    hub: Hub, run: Path, tmp_path: Path
) -> None:
    push(run, NAME, endpoint=hub.endpoint)
    folder = pull(NAME, tmp_path / "a", endpoint=hub.endpoint)
    with pytest.raises(SettingsError, match="exists already"):
        pull(NAME, folder, endpoint=hub.endpoint)
    artifact = toy_artifact(temperature=2.0)
    push(write_artifact(artifact, tmp_path / "b"), NAME, endpoint=hub.endpoint)
    pull(NAME, folder, overwrite=True, endpoint=hub.endpoint)
    assert read_artifact(folder).temperature == 2.0
    (tmp_path / "mine").mkdir()
    with pytest.raises(SettingsError, match="is not an artifact"):
        pull(NAME, tmp_path / "mine", overwrite=True, endpoint=hub.endpoint)


def test_one_line_says_what_is_wrong(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="no name of a repository"):
        push(run, "a b", endpoint=hub.endpoint)
    with pytest.raises(ArtifactError, match="me/none: there is no such dataset"):
        pull("me/none", tmp_path / "a", endpoint=hub.endpoint)
    push(run, NAME, endpoint=hub.endpoint)
    with pytest.raises(ArtifactError, match="there is no such revision"):
        pull(NAME, tmp_path / "a", revision="v9", endpoint=hub.endpoint)
    hub.repos["me/other"] = {"README.md": b"# a dataset of another kind"}
    with pytest.raises(ArtifactError, match=r"me/other: .*not an artifact"):
        pull("me/other", tmp_path / "a", endpoint=hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(ArtifactError, match="a token that may write there"):
        push(run, "me/new", endpoint=hub.endpoint)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ArtifactError, match=f"{NAME}: the hub is not reached"):
        pull(NAME, tmp_path / "a", endpoint=nobody)
    assert not (tmp_path / "a").exists()


def test_the_commands(
    hub: Hub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(run), NAME, "--endpoint", hub.endpoint]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/datasets/{NAME}\n"
    out = tmp_path / "pulled"
    arguments = ["pull", NAME, "--out", str(out), "--endpoint", hub.endpoint]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{out}: DistilledDataset('toy': 3 sequences")
    assert cli.main(["inspect", str(out)]) == 0
    assert cli.main(arguments) == 2
    assert cli.main(["pull", "me/none", "--out", str(tmp_path / "b"), *arguments[4:]]) == 1
