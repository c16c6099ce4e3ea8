"""Streams of random numbers: repeatable, and never shared by two purposes."""

import itertools

import pytest

from farzi.seeding import STREAMS, stream, stream_seed


def test_streams_of_one_seed_are_all_different():
    assert len(set(STREAMS.values())) == len(STREAMS)
    draws = {
        (name, place): stream(0, name, *place).integers(2**63)
        for name, place in itertools.product(STREAMS, [(), (0,), (1,), (1, 0)])
    }
    assert len(set(draws.values())) == len(draws)


def test_a_stream_is_a_function_of_seed_name_and_place():
    assert stream(3, "order", 7).random() == stream(3, "order", 7).random()
    assert stream_seed(3, "weights") == stream_seed(3, "weights")
    assert stream_seed(3, "weights") != stream_seed(4, "weights")


def test_an_unknown_stream_is_refused():
    with pytest.raises(KeyError, match="ordre"):
        stream(0, "ordre")  # type: ignore[arg-type]
