"""One split of a comparison: what its results depend on, and which splits share a table."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from farzi.errors import SettingsError
from farzi.experiments.splits import Split, check_one_protocol
from farzi.models import build_student
from farzi.synthetic import SyntheticSequences

STUDENT = {"name": "sasrec", "num_tokens": 12, "context_length": 8, "width": 8}


def made_up_data(**changes):
    values = {
        "name": "shop",
        "fingerprint": "sha256:1",
        "task": "recommend",
        "split_kind": "users",
        "split_seed": 0,
        "train_users_hash": "sha256:2",
        "seen_items": "keep",
        "protocol": {
            "k_core": 0,
            "min_length": 5,
            "repeats": "keep",
            "vocabulary_size": None,
            "tokens": None,
            "num_users": 60,
        },
    }
    return SimpleNamespace(**{**values, **changes})


def with_protocol(**changes):
    return made_up_data(protocol={**made_up_data().protocol, **changes}, split_seed=1)


def test_results_depend_on_source_split_protocol_and_student():
    data = made_up_data()
    assert Split(data, STUDENT, 6).identity() == {
        "source": "shop",
        "fingerprint": "sha256:1",
        "task": "recommend",
        "split_kind": "users",
        "split_seed": 0,
        "train_users_hash": "sha256:2",
        "seen_items": "keep",
        "protocol": {
            "k_core": 0,
            "min_length": 5,
            "repeats": "keep",
            "vocabulary_size": None,
            "tokens": None,
        },
        "student": STUDENT,
    }
    data.protocol.pop("tokens")  # of an older kind: as if it were not said
    assert Split(data, STUDENT, 6).identity()["protocol"]["tokens"] is None


def test_what_is_asked_of_a_split_comes_from_its_parts():
    split = Split(made_up_data(split_seed=7), STUDENT, 6)
    assert split.seed == 7
    assert split.context_length == 8
    assert split.batch_size == 10
    assert Split(made_up_data(), {**STUDENT, "context_length": "8"}, 6).context_length == 8


def test_a_student_is_built_or_is_the_users_own():
    split = Split(made_up_data(), STUDENT, 6)
    assert split.build_student().dropout == 0.0
    assert split.build_student(0.3) == build_student({**STUDENT, "dropout": 0.3})
    own = build_student({**STUDENT, "width": 4})
    assert replace(split, own=own).build_student(0.2) == build_student(
        {**STUDENT, "width": 4, "dropout": 0.2}
    )


def test_teachers_and_sequences_are_known_by_their_values():
    student = build_student(STUDENT)
    teachers = tuple(student.init(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    few = SyntheticSequences(torch.ones(6, 8, 3), torch.eye(3, 12), lengths=torch.full((6,), 5))
    split = Split(made_up_data(), STUDENT, 6, 3, {"farzi": few}, teachers)

    digest = hashlib.sha256()
    for place, params in enumerate(teachers):
        for name in sorted(params):
            tensor = params[name]
            digest.update(f"{place}/{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    assert split.key("teachers") == digest.hexdigest()[:16]

    digest = hashlib.sha256(b"1.0")
    for name, tensor in (("decoder", few.decoder), ("latent", few.latent)):
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    digest.update(b"lengths (6,)" + few.lengths.numpy().tobytes())
    assert split.key("farzi") == digest.hexdigest()[:16]

    shuffled = tuple(dict(reversed(params.items())) for params in teachers)
    assert replace(split, teachers=shuffled).key("teachers") == split.key("teachers")
    transposed = replace(few, decoder=few.decoder.T.contiguous().T)  # the same values
    assert replace(split, distilled={"farzi": transposed}).key("farzi") == split.key("farzi")
    for other in (
        replace(few, temperature=2.0),
        replace(few, lengths=torch.full((6,), 4)),
        replace(few, lengths=None),
        replace(few, latent=2 * few.latent),
    ):
        assert replace(split, distilled={"farzi": other}).key("farzi") != split.key("farzi")
    assert replace(split, teachers=teachers[::-1]).key("teachers") != split.key("teachers")
    named = replace(split, keys={"teachers": "abc"})
    assert named.key("teachers") == "abc"
    assert named.key("farzi") == split.key("farzi")


def test_splits_that_differ_in_their_seed_alone_share_a_table():
    first = Split(made_up_data(), STUDENT, 6)
    others = [
        Split(made_up_data(split_seed=1, train_users_hash="sha256:3"), STUDENT, 6),
        Split(with_protocol(num_users=61), STUDENT, 6, 3),
    ]
    others[1].data.split_seed = 2
    check_one_protocol([first, *others])
    with pytest.raises(SettingsError, match=r"^a comparison needs at least one split\.$"):
        check_one_protocol([])
    with pytest.raises(SettingsError, match=r"^split 1 is there twice; a comparison takes each"):
        check_one_protocol([first, others[0], others[0]])


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (Split(made_up_data(name="store", split_seed=1), STUDENT, 6), "source: shop and store"),
        (
            Split(made_up_data(fingerprint="sha256:9", split_seed=1), STUDENT, 6),
            "content of the source: sha256:1 and sha256:9",
        ),
        (
            Split(made_up_data(task="language", split_seed=1), STUDENT, 6),
            "task: recommend and language",
        ),
        (
            Split(made_up_data(split_kind="leave-last-out", split_seed=1), STUDENT, 6),
            "kind of split: users and leave-last-out",
        ),
        (
            Split(made_up_data(seen_items="leave-out", split_seed=1), STUDENT, 6),
            "seen items: keep and leave-out",
        ),
        (Split(with_protocol(k_core=5), STUDENT, 6), "k core: 0 and 5"),
        (Split(with_protocol(min_length=3), STUDENT, 6), "min length: 5 and 3"),
        (Split(with_protocol(repeats="first"), STUDENT, 6), "repeats: keep and first"),
        (Split(with_protocol(vocabulary_size=9), STUDENT, 6), "vocabulary size: None and 9"),
        (Split(with_protocol(tokens="words"), STUDENT, 6), "tokens: None and words"),
        (
            Split(made_up_data(split_seed=1), {**STUDENT, "width": 16}, 6),
            "the student's width: 8 and 16",
        ),
        (Split(made_up_data(split_seed=1), STUDENT, 7), "number of sequences: 6 and 7"),
    ],
)
def test_splits_that_differ_otherwise_do_not(other, line):
    first = Split(made_up_data(), STUDENT, 6)
    expected = f"splits 0 and 1 differ in {line}; their scores cannot stand in one table."
    with pytest.raises(SettingsError) as caught:
        check_one_protocol([first, other])
    assert str(caught.value) == expected
    between = Split(made_up_data(split_seed=3), STUDENT, 6)
    with pytest.raises(SettingsError, match="splits 0 and 1 differ"):
        check_one_protocol([first, between, other])
