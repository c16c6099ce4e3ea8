"""The artifact: round trip, bytes, places it may be written to, the split it belongs to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifact_examples import SOURCE, toy_artifact
from farzi import artifact as artifacts
from farzi.artifact import Artifact
from farzi.data import SplitIdentity
from farzi.errors import ArtifactError, SettingsError

FILES = {
    "farzi.safetensors",
    "farzi.json",
    "items.parquet",
    "data/train.parquet",
    "README.md",
    "MANIFEST.sha256",
}
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json"}
WORDS = ["<unk>", "<eos>", "the", "of", "N"]
LANGUAGE_SOURCE = {**SOURCE, "task": "language"}


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_equal(found: Artifact, expected: Artifact) -> None:
    torch.testing.assert_close(found.tensors, expected.tensors, rtol=0, atol=0)
    for name in ("temperature", "recipe", "source", "scores", "hard_token_seed"):
        assert getattr(found, name) == getattr(expected, name)
    assert list(found.vocabulary) == list(expected.vocabulary)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    artifact = toy_artifact()
    folder = artifacts.write_artifact(artifact, tmp_path / "runs" / "toy")
    assert set(file_bytes(folder)) == FILES
    assert_equal(artifacts.read_artifact(folder), artifact)


@pytest.mark.parametrize("task", ["recommend", "language"])
def test_version_1_is_read(task: str, tmp_path: Path) -> None:
    """Folders that version 1 wrote: read, and written anew as the version of today."""
    found = artifacts.read_artifact(Path(__file__).parent / "version1" / task)
    if task == "recommend":
        labels = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
        expected = toy_artifact(label_latent=labels, lengths=torch.tensor([4, 1, 2]))
    else:
        expected = toy_artifact(source=LANGUAGE_SOURCE, vocabulary=WORDS)
    assert_equal(found, expected)
    folder = artifacts.write_artifact(found, tmp_path / "a")
    assert json.loads((folder / "farzi.json").read_text())["format_version"] == 2
    assert_equal(artifacts.read_artifact(folder), expected)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
sizes = st.integers(1, 4)


@st.composite
def any_artifact(draw: st.DrawFn) -> Artifact:
    sequences, length, rank, vocabulary = draw(st.tuples(sizes, sizes, sizes, sizes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    task = draw(st.sampled_from(["recommend", "language"]))
    numbers = task == "recommend" and draw(st.booleans())
    originals = st.integers(-(1 << 63), (1 << 63) - 1) if numbers else names
    return toy_artifact(
        latent=torch.randn(sequences, length, rank, generator=generator),
        decoder=torch.randn(rank, vocabulary, generator=generator),
        temperature=draw(st.floats(0.01, 100)),
        label_latent=draw(
            st.sampled_from([None, torch.randn(sequences, length, rank, generator=generator)])
        ),
        lengths=draw(
            st.none()
            | st.lists(st.integers(1, length), min_size=sequences, max_size=sequences).map(
                torch.tensor
            )
        ),
        learned={"lr": torch.rand(draw(st.sampled_from([(), (3,)])), generator=generator)},
        recipe=draw(st.dictionaries(names, values, max_size=3)),
        scores=draw(st.dictionaries(names, values, max_size=3)),
        source={**SOURCE, "task": task, "name": draw(names)},
        vocabulary=draw(st.lists(originals, min_size=vocabulary, max_size=vocabulary, unique=True)),
        hard_token_seed=draw(st.none() | st.integers(0, 2**40)),
    )


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(artifact=any_artifact())
def test_round_trip(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("artifact")
    first = artifacts.write_artifact(artifact, folder / "first")
    found = artifacts.read_artifact(first)
    assert_equal(found, artifact)
    second = artifacts.write_artifact(found, folder / "second")
    assert file_bytes(first) == file_bytes(second)


def test_the_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    """Another process, another day, another folder and another order of keys: the same bytes."""
    code = (
        "import sys, time, torch\n"
        "time.time = lambda: 1e9\n"
        "torch.set_num_threads(1)\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from artifact_examples import toy_artifact, SOURCE\n"
        "from farzi.artifact import write_artifact\n"
        "artifact = toy_artifact(source=dict(reversed(SOURCE.items())))\n"
        f"write_artifact(artifact, {str(tmp_path / 'there' / 'b')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    here = artifacts.write_artifact(toy_artifact(), tmp_path / "a")
    assert file_bytes(here) == file_bytes(tmp_path / "there" / "b")


def test_the_manifest_is_what_sha256sum_reads(tmp_path: Path) -> None:
    folder = artifacts.write_artifact(toy_artifact(), tmp_path / "a")
    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum here")
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "MANIFEST.sha256"], cwd=folder, check=True
    )


def test_hard_tokens_are_the_likeliest_in_original_ids(tmp_path: Path) -> None:
    artifact = toy_artifact()
    folder = artifacts.write_artifact(artifact, tmp_path / "a")
    table = parquet.read_table(folder / "data" / "train.parquet").to_pydict()
    assert table["sequence_id"] == [0, 1, 2]
    for index, items in enumerate(table["item_ids"]):
        likeliest = artifact.synthetic.tokens()[index].argmax(-1)
        assert items == [artifact.vocabulary[token] for token in likeliest]
    assert parquet.read_table(folder / "items.parquet")["item_id"].to_pylist() == list(
        artifact.vocabulary
    )


def test_hard_tokens_can_be_drawn_with_a_seed_that_is_recorded(tmp_path: Path) -> None:
    flat = {"latent": torch.zeros(200, 50, 1), "decoder": torch.tensor([[0.0, 1, 2, 3, 4]])}
    drawn = list(artifacts.hard_tokens(toy_artifact(**flat, hard_token_seed=7)))
    assert drawn == list(artifacts.hard_tokens(toy_artifact(**flat, hard_token_seed=7)))
    assert drawn != list(artifacts.hard_tokens(toy_artifact(**flat, hard_token_seed=8)))
    shares = torch.bincount(torch.tensor(drawn).flatten(), minlength=5) / 10_000
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.02, rtol=0)
    folder = artifacts.write_artifact(toy_artifact(hard_token_seed=7), tmp_path / "a")
    assert json.loads((folder / "farzi.json").read_text())["hard_token_seed"] == 7
    assert "seed 7" in (folder / "README.md").read_text()


def test_a_text_artifact_ships_a_tokenizer(tmp_path: Path) -> None:
    artifact = toy_artifact(source=LANGUAGE_SOURCE, vocabulary=WORDS)
    folder = artifacts.write_artifact(artifact, tmp_path / "a")
    assert set(file_bytes(folder)) == FILES - {"items.parquet"} | TOKENIZER_FILES
    assert list(artifacts.read_artifact(folder).vocabulary) == WORDS
    table = parquet.read_table(folder / "data" / "train.parquet")
    assert table.column_names == ["sequence_id", "tokens"]


def test_hard_tokens_end_where_the_sequence_ends() -> None:
    artifact = toy_artifact(lengths=torch.tensor([4, 1, 2]))
    assert [len(tokens) for tokens in artifacts.hard_tokens(artifact)] == [4, 1, 2]
    assert artifact.num_tokens == 7


def test_a_student_is_given_what_was_written(tmp_path: Path) -> None:
    labels = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    artifact = toy_artifact(label_latent=labels, lengths=torch.tensor([4, 1, 2]))
    folder = artifacts.write_artifact(artifact, tmp_path / "a")
    synthetic = artifacts.read_artifact(folder).synthetic
    expected = (labels @ artifact.decoder / 0.5).softmax(-1)
    torch.testing.assert_close(synthetic.labels(), expected)
    assert synthetic.mask().sum(1).tolist() == [4, 1, 2]


def test_sizes() -> None:
    artifact = toy_artifact()
    shape = (artifact.num_sequences, artifact.length, artifact.rank, artifact.vocabulary_size)
    assert shape == (3, 4, 2, 5)
    assert artifact.num_tokens == 12
    assert artifact.num_bytes == 4 * (3 * 4 * 2 + 2 * 5 + 1)


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path) -> None:
    folder = artifacts.write_artifact(toy_artifact(), tmp_path / "a")
    before = file_bytes(folder)
    with pytest.raises(SettingsError, match="exists already"):
        artifacts.write_artifact(toy_artifact(temperature=2.0), folder)
    assert file_bytes(folder) == before
    artifacts.write_artifact(toy_artifact(temperature=2.0), folder, overwrite=True)
    assert artifacts.read_artifact(folder).temperature == 2.0
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_artifact_is_never_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("notes")
    elif kind == "folder":
        (target / "notes").mkdir(parents=True)
    else:
        target.symlink_to(artifacts.write_artifact(toy_artifact(), tmp_path / "a"))
    with pytest.raises(SettingsError, match="mine"):
        artifacts.write_artifact(toy_artifact(), target, overwrite=True)
    assert target.exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        artifacts.write_artifact(toy_artifact(), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_failed_replacement_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifacts.write_artifact(toy_artifact(), tmp_path / "a")
    before = file_bytes(folder)
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name.startswith(".a.") and self.name != ".a.old":
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    monkeypatch.setattr("farzi.data.files._exchange", lambda *names: False)
    with pytest.raises(OSError, match="Permission"):
        artifacts.write_artifact(toy_artifact(temperature=2.0), folder, overwrite=True)
    assert file_bytes(folder) == before


def test_a_run_folder_stands_for_its_artifact(tmp_path: Path) -> None:
    artifacts.write_artifact(toy_artifact(), tmp_path / "run" / "artifact")
    assert artifacts.read_artifact(tmp_path / "run").num_sequences == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", "sha256:" + "0" * 64),
        ("split_kind", "leave-last-out"),
        ("split_seed", 1),
        ("train_users_hash", "sha256:" + "0" * 64),
    ],
)
def test_an_artifact_is_refused_on_another_split(name: str, value: Any) -> None:
    artifact = toy_artifact()
    artifacts.check_split(artifact, SplitIdentity.of(SOURCE))
    other = SplitIdentity.of({**SOURCE, name: value})
    with pytest.raises(ArtifactError, match=f"{name} .*not {value}"):
        artifacts.check_split(artifact, other)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"latent": torch.zeros(3, 4, 2, dtype=torch.float64)}, "latent"),
        ({"latent": torch.zeros(3, 4)}, "latent"),
        ({"latent": torch.zeros(0, 4, 2)}, "latent"),
        ({"decoder": torch.zeros(3, 5)}, "decoder"),
        ({"decoder": torch.full((2, 5), float("nan"))}, "decoder"),
        ({"label_latent": torch.zeros(3, 4, 1)}, "label_latent"),
        ({"lengths": torch.tensor([1, 2])}, "lengths"),
        ({"lengths": torch.tensor([1, 2, 5])}, "lengths"),
        ({"lengths": torch.tensor([0, 2, 4])}, "lengths"),
        ({"lengths": torch.tensor([1.0, 2.0, 4.0])}, "lengths"),
        ({"learned": {"Lr": torch.tensor(0.1)}}, "learned"),
        ({"learned": {"lr": torch.tensor(float("inf"))}}, "learned.lr"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 1}, "temperature"),
        ({"temperature": 5e-324}, "temperature"),
        ({"latent": torch.full((3, 4, 2), 1e30), "decoder": torch.full((2, 5), 1e30)}, "latent"),
        ({"recipe": {"lr": float("nan")}}, "recipe.lr"),
        ({"recipe": {"grid": [0.1, object()]}}, "recipe.grid.1"),
        ({"recipe": {1: 2}}, "recipe"),
        ({"scores": [1]}, "scores"),
        ({"source": {**SOURCE, "host": "here"}}, "host"),
        ({"source": {**SOURCE, "split_seed": True}}, "split_seed"),
        ({"source": {**SOURCE, "task": "vision"}}, "source.task"),
        ({"source": {**SOURCE, "fingerprint": "abc"}}, "source.fingerprint"),
        ({"source": {**SOURCE, "protocol": {"grid": [1]}}}, "source.protocol.grid"),
        ({"vocabulary": [1, 2, 3, 4]}, "vocabulary"),
        ({"vocabulary": [1, 2, 3, 4, "5"]}, "vocabulary"),
        ({"vocabulary": [1, 2, 3, 4, 4]}, "vocabulary"),
        ({"vocabulary": [1, 2, 3, 4, 1 << 64]}, "vocabulary"),
        ({"vocabulary": ["a", "b", "c", "d", "\ud800"]}, "vocabulary"),
        ({"vocabulary": [1, 2, 3, 4, 5], "source": LANGUAGE_SOURCE}, "vocabulary"),
        ({"hard_token_seed": -1}, "hard_token_seed"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ArtifactError) as raised:
        toy_artifact(**changes)
    assert f"`{name}`" in str(raised.value)
