"""Results in a folder: found by all they depend on, complete or not there."""

import json

import pytest

from farzi.errors import DataError
from farzi.experiments.store import Store, key_of

IDENTITY = {"kind": "score", "row": "random-soft", "split_seed": 1, "seed": 2, "lr": [0.01]}


def test_what_is_there_is_not_made_again(tmp_path):
    store, made = Store(tmp_path), []

    def make():
        made.append(1)
        return {"loss": 0.1}

    assert store.take(IDENTITY, make) == ({"loss": 0.1}, False)
    assert store.take(dict(reversed(IDENTITY.items())), make) == ({"loss": 0.1}, True)
    assert made == [1]
    (path,) = tmp_path.iterdir()
    assert path.name == f"score.random-soft.split-1.seed-2.{key_of(IDENTITY)}.json"


@pytest.mark.parametrize("change", [{"seed": 3}, {"lr": [0.02]}, {"row": "random"}])
def test_anything_it_depends_on_makes_another(tmp_path, change):
    store = Store(tmp_path)
    store.put(IDENTITY, {"loss": 0.1})
    assert store.get({**IDENTITY, **change}) is None


def test_a_failure_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail():
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        store.take(IDENTITY, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_named(tmp_path):
    store = Store(tmp_path)
    store.put(IDENTITY, {"loss": 0.1})
    path = store.path(IDENTITY)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=path.name):
        store.get(IDENTITY)
    path.write_text(json.dumps({"identity": {"row": "full"}, "result": {}}))
    with pytest.raises(DataError, match="something else"):
        store.get(IDENTITY)


def test_without_a_folder_results_are_kept_in_memory():
    store = Store()
    assert store.take(IDENTITY, lambda: {"loss": 1}) == ({"loss": 1}, False)
    assert store.take(IDENTITY, dict) == ({"loss": 1}, True)
    assert Store().get(IDENTITY) is None
    store.clear()
    assert store.get(IDENTITY) is None
