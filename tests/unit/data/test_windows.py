from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farzi.data.windows import default_stride, windows_over


def test_a_long_row_by_hand() -> None:
    """Twelve tokens, eleven targets, four at a time, two new ones a window."""
    windows = windows_over([12], context_length=4, stride=2)
    assert windows.starts.tolist() == [0, 2, 4, 6, 7]
    assert windows.lengths.tolist() == [4, 4, 4, 4, 4]
    assert windows.firsts.tolist() == [0, 2, 2, 2, 3]


def test_rows_that_fit_have_one_window_and_rows_with_nothing_to_predict_none() -> None:
    windows = windows_over([0, 1, 2, 5, 6], context_length=4, stride=4)
    assert windows.sequences.tolist() == [2, 3, 4, 4]
    assert windows.starts.tolist() == [0, 0, 0, 1]
    assert windows.lengths.tolist() == [1, 4, 4, 4]
    assert windows.firsts.tolist() == [0, 0, 0, 3]
    assert len(windows_over([], 4)) == 0


@given(
    st.lists(st.integers(0, 60), max_size=6),
    st.integers(1, 12),
    st.data(),
)
def test_every_token_but_the_first_is_scored_once_with_the_context_promised(
    lengths: list[int], context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.none() | st.integers(1, context))
    windows = windows_over(lengths, context, stride)
    step = default_stride(context) if stride is None else stride
    scored: list[list[int]] = [[] for _ in lengths]
    for row, start, length, first in zip(
        windows.sequences, windows.starts, windows.lengths, windows.firsts, strict=True
    ):
        assert 1 <= length <= context
        assert start + length < lengths[row]
        for position in range(first, length):
            target = int(start) + position + 1
            scored[row].append(target)
            if target > context:
                assert position + 1 >= context - step + 1
                assert position + 1 >= context / 2 or stride is not None
    assert scored == [list(range(1, length)) for length in lengths]
    # The last target of a row reads as much as the model can.
    for row, length in enumerate(lengths):
        if length >= 2:
            (own,) = np.nonzero(windows.sequences == row)
            assert windows.lengths[own[-1]] == min(context, length - 1)


def test_refuses_strides_that_leave_targets_out() -> None:
    for stride in (0, 5):
        with pytest.raises(ValueError, match=f"from 1 to the context length 4, got {stride}"):
            windows_over([9], 4, stride)
    with pytest.raises(ValueError, match="`context_length` must be an int >= 1, got 0"):
        windows_over([9], 0)
