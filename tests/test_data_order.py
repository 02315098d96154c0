"""Order and truncation of steps, against Python's own sort of each event."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timelike.config import SequenceConfig
from timelike.data.order import step_order
from timelike.ragged import offsets_of

keys = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.uint64, np.bool_])


def expected(rows, key, config):
    """What is done to the rows of one event."""
    if key is not None:
        rows = sorted(rows, key=lambda row: key[row], reverse=config.order == "descending")
        # Python's reverse keeps equal elements in order, as a stable sort by the negative key does.
    if config.keep_first:
        rows = rows[: config.keep_first]
    if config.keep_last:
        rows = rows[-config.keep_last :]
    return rows[::-1] if config.direction == "backward" else rows


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=6),
    keys,
    st.booleans(),
    st.sampled_from(["ascending", "descending"]),
    st.sampled_from([{}, {"keep_first": 2}, {"keep_last": 2}, {"keep_first": 9}]),
    st.sampled_from(["forward", "backward"]),
)
def test_each_event_by_itself(events, dtype, sort, order, keep, direction):
    by = {"sort_by": "key", "order": order} if sort else {}
    config = SequenceConfig(direction=direction, **by, **keep)
    offsets = offsets_of([len(e) for e in events])
    key = np.array([k for e in events for k in e], dtype=np.int64).astype(dtype) if sort else None
    rows, new = step_order(offsets, config, key)
    want = [expected(list(range(a, b)), key, config) for a, b in pairwise(offsets)]
    rows = np.arange(offsets[-1]) if rows is None else rows
    assert np.diff(new).tolist() == [len(w) for w in want]
    assert rows.tolist() == [row for w in want for row in w]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_extreme_integers(dtype, order):
    info = np.iinfo(dtype)
    key = np.array([0, info.max, info.min, 1], dtype=dtype)
    rows, _ = step_order(np.array([0, 4]), SequenceConfig(sort_by="key", order=order), key)
    want = np.argsort(key, kind="stable")
    if order == "descending":
        want = np.array(sorted(range(4), key=lambda i: int(key[i]), reverse=True))
    assert rows.tolist() == want.tolist()


def test_what_is_in_order_is_not_moved():
    config = SequenceConfig(sort_by="key")
    key = np.array([3.0, 1.0, 9.0, 9.0, 2.0])
    rows, offsets = step_order(np.array([0, 2, 2, 5]), config, key)
    assert rows is None
    assert offsets.tolist() == [0, 2, 2, 5]
