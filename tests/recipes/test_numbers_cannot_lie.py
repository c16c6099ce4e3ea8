"""What would make a published number a lie, tried: each test fails where it happens.

Test users must not influence a choice, a user must not be in two parts, nothing trained on real
data may reach a student that is scored, and two protocols must not stand in one mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from farzi.cli import main
from farzi.data import PreparedData, Sequences, prepare
from farzi.distill import distill
from farzi.errors import SettingsError
from farzi.experiments.cells import Cells, CompareSettings
from farzi.experiments.compare import compare
from farzi.experiments.rows import load_row
from farzi.experiments.splits import Split
from farzi.models import build_student
from farzi.synthetic import SyntheticSequences
from toy import SMALL, toy_data, write_log

ITEMS = 12
STUDENT = {"name": "sasrec", "num_tokens": ITEMS, "context_length": 8, "width": 8}
QUICK = CompareSettings(
    rows=("full", "random", "head", "farzi", "most-popular"),
    seeds=2,
    lrs=(0.05, 0.02),
    batches=(16,),
    decays=(0.0,),
    dropouts=(0.0, 0.2),
    smoothings=(0.0,),
    max_steps=30,
    max_epochs=4,
    patience=2,
)


def distilled(scale=1.0):
    """A few sequences; `scale` moves size from the latents to the decoder, exactly."""
    generator = torch.Generator().manual_seed(0)
    latent, labels = torch.randn(2, 6, 8, 3, generator=generator)
    decoder = torch.randn(3, ITEMS, generator=generator)
    return SyntheticSequences(latent * scale, decoder / scale, labels * scale)


def teachers(fill=None):
    params = build_student(STUDENT).init(torch.Generator().manual_seed(7))
    if fill is not None:
        params = {name: torch.full_like(value, fill) for name, value in params.items()}
    return (params,)


def outcome(data, few=None, weights=None):
    """All that a comparison chose, trained and scored, but for the seconds."""
    cells = Cells(
        Split(data, STUDENT, 6, 3, {"farzi": few or distilled()}, weights or teachers()), QUICK
    )
    chosen, curves, scores = {}, {}, {}
    for name in QUICK.rows:
        row = load_row(name)
        if row.trained:
            search = cells.tuned(name, row)[0]
            chosen[name] = [(each.choice, each.loss, each.step) for each in search.tries]
        for seed in range(QUICK.seeds if row.trained else 1):
            run = cells.scored(name, row, seed)[0]
            scores[name, seed] = run.per_user
            if run.training is not None:
                curves[name, seed] = [(look.step, look.loss) for look in run.training.curve]
    return chosen, curves, scores


def same(one, other):
    """Bit for bit."""
    assert one[:2] == other[:2]
    for run, values in one[2].items():
        for name, each in values.items():
            assert list(each) == list(other[2][run][name]), (run, name)


# --------------------------------------------------------------------- test data and choices


class Sealed(PreparedData):
    """Data whose test part cannot be read without being caught."""

    def __getattribute__(self, name):
        if name == "test":
            raise AssertionError("the test users were read")
        return super().__getattribute__(name)


def with_other_test_users(data):
    generator = np.random.default_rng(1)
    rows = [generator.integers(ITEMS, size=generator.integers(3, 20)) for _ in range(9)]
    return dataclasses.replace(data, test=Sequences.from_lists(rows))


def test_a_distillation_never_reads_a_test_user(tmp_path):
    data = toy_data(tmp_path)
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    outcomes = []
    for name, source in (("open", data), ("sealed", Sealed(**fields))):
        folder = distill(source, tmp_path / name, SMALL).artifact
        outcomes.append({file.name: file.read_bytes() for file in folder.rglob("*.*")})
    assert outcomes[0] == outcomes[1]


def test_no_choice_of_a_comparison_depends_on_test_users(tmp_path):
    data = toy_data(tmp_path)
    chosen, curves, scores = outcome(data)
    other_chosen, other_curves, other_scores = outcome(with_other_test_users(data))
    assert chosen == other_chosen
    assert curves == other_curves
    for run, values in scores.items():
        assert len(values["MRR"]) != len(other_scores[run]["MRR"]), run


def test_training_stops_where_validation_says_whatever_the_test_users_are(tmp_path):
    """`farzi train` writes the same weights for a log whose test users did something else."""
    log = write_log(tmp_path / "toy.tsv")
    data = prepare(str(log), task="recommend")
    lines = log.read_text().splitlines()
    train_and_looked = {tuple(row) for part in (data.train, data.validation) for row in part}
    changed = []
    users = {}
    for line in lines[1:]:
        user, item, _ = line.split("\t")
        users.setdefault(user, []).append(item)
    ids = data.vocabulary.decode(np.arange(data.vocabulary.size))
    token = {original: place for place, original in enumerate(ids)}
    for line in lines[1:]:
        user, item, time = line.split("\t")
        row = tuple(token[each] for each in users[user])
        if row not in train_and_looked:
            item = ids[(token[item] * 5 + 1) % ITEMS]
        changed.append(f"{user}\t{item}\t{time}")
    assert changed != lines[1:]
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "toy.tsv"
    other.write_text("\n".join([lines[0], *changed]) + "\n")
    weights = []
    for place, source in enumerate((log, other)):
        out = tmp_path / f"model-{place}"
        command = ["train", str(source), "--task", "recommend", "--out", str(out), "-q"]
        assert main([*command, "--max-steps", "12", "--width", "8"]) == 0
        weights.append(_tensors(out))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def _tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "weights.safetensors")


# -------------------------------------------------------------------------- users and splits


@pytest.mark.parametrize("seed", range(4))
def test_no_user_is_in_two_parts(tmp_path, seed):
    """Every user has an item of their own, in the middle of what others have too."""
    lines = ["user_id\titem_id\ttimestamp"]
    for user in range(37):
        items = [f"i{user % 5}", f"only-u{user}", f"i{user % 7}", f"i{user % 3}"]
        lines += [f"u{user}\t{item}\t{time}" for time, item in enumerate(items)]
    lines[1:] = np.random.default_rng(seed).permutation(lines[1:]).tolist()
    file = tmp_path / "log.tsv"
    file.write_text("\n".join(lines) + "\n")
    data = prepare(str(file), task="recommend", split_seed=seed)
    found = {
        name: [item for row in part for item in data.vocabulary.decode(row) if "only" in item]
        for name, part in data.parts.items()
    }
    everybody = sorted(f"only-u{user}" for user in range(37))
    assert sorted(item for items in found.values() for item in items) == everybody
    assert [len(found[name]) for name in ("train", "validation", "test")] == [31, 3, 3]


def test_leave_last_out_never_trains_on_a_target(tmp_path):
    """Items are numbered by place, so that what a row holds says which events it is of."""
    lines = ["user_id\titem_id\ttimestamp"]
    for user in range(12):
        lines += [f"u{user}\tu{user}-{place:02}\t{place}" for place in range(5 + user)]
    file = tmp_path / "log.tsv"
    file.write_text("\n".join(lines) + "\n")
    data = prepare(str(file), task="recommend", split="leave-last-out")
    trained_on = set(data.train.tokens.tolist())
    looked_at = trained_on | set(data.validation.tokens.tolist())
    assert trained_on.isdisjoint(row[-1] for row in data.validation)
    assert looked_at.isdisjoint(row[-1] for row in data.test)
    assert len(data.test) == len(data.validation) == 12


# --------------------------------------------------------------------- pretrained parameters


def test_nothing_of_a_teacher_reaches_a_scored_student(tmp_path):
    """With teachers of other weights, and of none, rows without their labels stay as they are."""
    data = toy_data(tmp_path)
    same(outcome(data), outcome(data, weights=teachers(float("nan"))))


def test_a_scored_student_sees_what_factors_say_and_not_the_factors(tmp_path):
    """Eight times the latents and an eighth of the decoder: the same tokens, so the same bits."""
    data = toy_data(tmp_path)
    assert torch.equal(distilled().tokens(), distilled(8.0).tokens())
    same(outcome(data), outcome(data, distilled(8.0)))


def test_a_scored_student_starts_from_its_own_seed(tmp_path, monkeypatch):
    """Every student of a comparison draws its weights, and no two runs share them."""
    from farzi.models import SASRec

    drawn = []
    init = SASRec.init

    def recording(self, generator, dtype=torch.float32):
        drawn.append(generator.initial_seed())
        return init(self, generator, dtype)

    monkeypatch.setattr(SASRec, "init", recording)
    data = toy_data(tmp_path)
    split = Split(data, STUDENT, 6, 3, {"farzi": distilled()}, ())
    compare([split], dataclasses.replace(QUICK, rows=("farzi",), seeds=3))
    assert len(drawn) > 3
    assert len(set(drawn[-3:])) == 3
    assert not set(drawn[-3:]) & set(drawn[:-3])  # nor with those that the row was tuned with


# ----------------------------------------------------------------------- protocols and means


@pytest.mark.parametrize(
    "change",
    [
        {"seen_items": "leave-out"},
        {"split_kind": "leave-last-out"},
        {"fingerprint": "sha256:other"},
    ],
)
def test_two_protocols_never_stand_in_one_mean(tmp_path, change):
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    first, second = (toy_data(tmp_path / str(seed), split_seed=seed) for seed in (0, 1))
    assert first.seen_items == "keep"
    splits = [
        Split(data, STUDENT, 6, 3, {"farzi": distilled()})
        for data in (first, dataclasses.replace(second, **change))
    ]
    said = []
    with pytest.raises(SettingsError, match="cannot stand in one table"):
        compare(splits, QUICK, progress=lambda *values: said.append(values))
    assert not said  # before anything is trained
