"""`farzi.export`: what other tools read is what the artifact says, in its source's own ids."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import farzi
from artifact_examples import SOURCE, toy_artifact
from farzi.artifact import read_artifact
from farzi.errors import ArtifactError, DataError, SettingsError
from farzi.export import FORMATS, ExportSettings, export

LABELS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([4, 1, 2])
FOLDERS = {"recbole", "hf", "artifact"}


def dataset(**changes: Any) -> farzi.DistilledDataset:
    fields = {"label_latent": LABELS, "lengths": LENGTHS} | changes
    return farzi.DistilledDataset(toy_artifact(**fields))


def long_form(data: farzi.DistilledDataset, **choices: Any) -> list[tuple[int, int, Any]]:
    return [
        (row, place, original)
        for row, originals in enumerate(data.hard(**choices).originals())
        for place, original in enumerate(originals)
    ]


@pytest.mark.parametrize("samples", [None, 3])
def test_tables_in_long_form(samples: int | None, tmp_path: Path) -> None:
    data = dataset(vocabulary=[7, 30, 11, 5, -2])
    settings = ExportSettings(samples=samples, seed=5)
    expected = long_form(data, samples=samples, seed=5)
    done = export(data, "parquet", tmp_path / "a.parquet", settings)
    table = pq.read_table(done.path)
    assert table.column_names == ["sequence_id", "position", "item_id"]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert done.rows == len(expected) == 7 * (samples or 1)
    assert done.coverage == len({original for *_, original in expected}) / 5
    assert "much worse" in done.notes[0]
    export(data, "csv", tmp_path / "a.csv", settings)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["sequence_id", "position", "item_id"]
    assert [tuple(map(int, row)) for row in rows[1:]] == expected


def test_csv_quotes_what_needs_it(tmp_path: Path) -> None:
    data = dataset(vocabulary=["a,b", 'say "hi"', "two\nlines", "é", ""], lengths=None)
    export(data, "csv", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[2] for row in rows] == [original for *_, original in long_form(data)]


def test_recbole(tmp_path: Path) -> None:
    data = dataset()
    done = export(data, "recbole", tmp_path / "toy")
    header, *lines = (tmp_path / "toy" / "toy.inter").read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttimestamp:float"
    expected = [(str(row), item, str(place)) for row, place, item in long_form(data)]
    assert [tuple(line.split("\t")) for line in lines] == expected
    assert "dataset='toy'" in done.notes[1]
    with pytest.raises(DataError, match="a tab or a line break"):
        export(dataset(vocabulary=["a\tb", "b\n", "c\r", "\t", "\n"]), "recbole", tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("labels", [LABELS, None])
def test_top_k(labels: torch.Tensor | None, tmp_path: Path) -> None:
    data = dataset(label_latent=labels)
    done = export(data, "topk", tmp_path / "a.parquet", ExportSettings(top_k=2))
    rows = pq.read_table(done.path).to_pylist()
    batch = data.batch()
    expected = [
        {
            "sequence_id": row,
            "position": place,
            "item_id": data.vocabulary.ids[int(batch["tokens"][row, place].argmax())],
            "rank": rank + 1,
            "label_id": data.vocabulary.ids[int(token)],
            "probability": pytest.approx(float(batch["labels"][row, place, token])),
        }
        for row, place in batch["mask"].nonzero().tolist()
        for rank, token in enumerate(batch["labels"][row, place].argsort(descending=True)[:2])
    ]
    assert rows == expected
    assert len(rows) == 2 * (7 if labels is not None else 4)
    assert done.facts["label_probability_kept"] == pytest.approx(data.top_k(2).kept)
    assert f"{data.top_k(2).kept:.1%}" in done.notes[0]


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="it comes with the extra `hf`")
    found = []
    for seed in (0, 1):
        latent = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed))
        data = dataset(latent=latent)
        done = export(data, "hf", tmp_path / str(seed) / "hf", ExportSettings(top_k=3))
        loaded = datasets.load_dataset(str(done.path), cache_dir=str(tmp_path / "cache"))
        rows = loaded["train"]
        assert rows["ids"][:] == data.hard().originals()
        assert [data.encode(ids).tolist() for ids in rows["ids"]] == rows["input_ids"][:]
        labels = data.top_k(3)
        assert rows["label_ids"][2] == labels.ids[2, :2].tolist()
        kept = torch.tensor(rows["label_probabilities"][2])
        torch.testing.assert_close(kept, labels.probabilities[2, :2])
        found.append(rows["input_ids"][:])
    assert found[0] != found[1]


def test_hugging_face_text_has_its_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="it comes with the extra `hf`")
    words = ["<unk>", "<eos>", "the", "of", "n"]
    source = {**SOURCE, "task": "language", "protocol": {"tokens": "words"}}
    export(dataset(source=source, vocabulary=words), "hf", tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    assert tokenizer("The bank of N").input_ids == [2, 0, 3, 4]
    assert pq.read_table(tmp_path / "hf" / "vocabulary.parquet")["token"].to_pylist() == words


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_smaller_artifact(dtype: Any, tmp_path: Path) -> None:
    data = dataset()
    done = export(data, "artifact", tmp_path / "a", ExportSettings(dtype=dtype))
    found = read_artifact(done.path)
    assert found.dtype == dtype
    assert done.facts["bytes"] == found.num_bytes < done.facts["bytes_before"]
    for kind in ("tokens", "labels"):
        before = getattr(data.synthetic, kind)().double()
        after = getattr(found.synthetic, kind)().double()
        apart = (before - after).abs().sum(-1)[data.synthetic.mask()] / 2
        assert done.facts[f"{kind}_changed"] == pytest.approx(float(apart.mean()))
        assert done.facts[f"{kind}_changed_most"] == pytest.approx(float(apart.max()))
        assert 0 < done.facts[f"{kind}_changed"] < (1e-3 if dtype == "float16" else 2e-2)


def test_tokens_become_ids_where_nothing_is_lost(tmp_path: Path) -> None:
    auto = ExportSettings(tokens="auto")
    done = export(dataset(), "artifact", tmp_path / "soft", auto)
    assert done.facts["tokens"] == "soft"
    sharp = dataset(
        latent=torch.eye(5)[torch.tensor([[0, 1, 2, 3]] * 3)] * 4,
        decoder=torch.eye(5),
        label_latent=torch.zeros(3, 4, 5),
    )
    done = export(sharp, "artifact", tmp_path / "hard", auto)
    assert done.facts["tokens"] == "hard"
    assert done.facts["token_probability"] > 0.99
    assert done.facts["tokens_changed"] == pytest.approx(
        1 - done.facts["token_probability"], rel=1e-3
    )
    assert read_artifact(tmp_path / "hard").synthetic.tokens().tolist() == [[0, 1, 2, 3]] * 3
    hard = ExportSettings(tokens="hard")
    done = export(dataset(), "artifact", tmp_path / "asked", hard)
    assert read_artifact(done.path).has_hard_tokens
    with pytest.raises(ArtifactError, match="must stay soft"):
        export(dataset(label_latent=None), "artifact", tmp_path / "no", hard)


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_of_others_is_overwritten(to: str, tmp_path: Path) -> None:
    data = dataset()
    out = tmp_path / "out"
    export(data, to, out, ExportSettings(dtype="float16"))
    with pytest.raises(SettingsError, match="out: exists already, and is not overwritten"):
        export(data, to, out)
    export(data, to, out, ExportSettings(dtype="float16", overwrite=True))
    if to in FOLDERS - {"artifact"}:
        (out / "notes.txt").write_text("mine")
        with pytest.raises(SettingsError, match=r"holds notes\.txt"):
            export(data, to, out, ExportSettings(overwrite=True))
        assert (out / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    if to in FOLDERS:
        other.write_text("mine")
    else:
        other.mkdir()
    with pytest.raises(SettingsError, match="other: "):
        export(data, to, other, ExportSettings(overwrite=True))
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other"}


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no format 'xlsx': take parquet, csv"):
        export(dataset(), "xlsx", tmp_path / "a")
