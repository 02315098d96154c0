"""Shares of events: nobody twice, nobody lost, the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timelike.config import FractionsConfig, RemaindersConfig, SplitConfig
from timelike.data.split import PARTS, split
from timelike.errors import DataError
from timelike.sequences import Sequences


def events(n, *, labels=None, numbers=None):
    return Sequences(np.zeros((0, 1)), np.zeros(n + 1, dtype=int), labels=labels, events=numbers)


class TestRandom:
    @given(st.integers(20, 200), st.integers(0, 5))
    def test_everybody_is_in_one_part(self, n, seed):
        parts = split(events(n), SplitConfig(seed=seed))
        assert tuple(parts) == PARTS
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
        assert all(np.all(np.diff(which) > 0) for which in parts.values())
        sizes = [len(parts[part]) for part in PARTS]
        np.testing.assert_allclose(sizes, [0.7 * n, 0.1 * n, 0.2 * n], atol=1)

    def test_every_part_has_the_same_mix_of_classes(self):
        labels = np.array([0] * 1000 + [1] * 10)
        parts = split(events(1010, labels=labels), SplitConfig())
        assert [int(labels[parts[part]].sum()) for part in PARTS] == [7, 1, 2]

    def test_the_seed_decides(self):
        s = events(100)
        a, b, c = (split(s, SplitConfig(seed=seed))["train"] for seed in (1, 1, 2))
        assert a.tolist() == b.tolist() != c.tolist()

    def test_events_are_shuffled(self):
        assert split(events(100), SplitConfig())["train"].tolist() != list(range(70))

    def test_a_part_that_is_not_asked_for(self):
        fractions = FractionsConfig(train=0.5, validation=0.5, test=0.0)
        parts = split(events(10), SplitConfig(fractions=fractions))
        assert [len(parts[part]) for part in PARTS] == [5, 5, 0]

    def test_a_class_that_is_too_small(self):
        labels = np.array([0] * 100 + [1] * 3)
        message = "split by random: no events of class 'top' for validation, of the 3 there are"
        with pytest.raises(DataError, match=message):
            split(events(103, labels=labels), SplitConfig(), class_names=["qcd", "top"])
        with pytest.raises(DataError, match="no events of class 1 for validation"):
            split(events(103, labels=labels), SplitConfig())

    def test_too_few_events(self):
        with pytest.raises(DataError, match="no events for test, of the 2 there are"):
            split(events(2), SplitConfig())


class TestEventNumber:
    config = SplitConfig(by="event_number")

    def test_the_remainder_decides(self):
        numbers = np.array([17, 10, 28, 1000003, -1])
        parts = split(events(5, numbers=numbers), SplitConfig(by="event_number"))
        assert {p: numbers[w].tolist() for p, w in parts.items()} == {
            "train": [10, 1000003],
            "validation": [17],
            "test": [28, -1],
        }

    def test_remainders_in_no_list_are_in_no_part(self):
        remainders = RemaindersConfig(train=(0,), validation=(1,), test=())
        config = SplitConfig(by="event_number", modulo=3, remainders=remainders)
        parts = split(events(6, numbers=np.arange(6)), config)
        assert [parts[p].tolist() for p in PARTS] == [[0, 3], [1, 4], []]

    def test_without_numbers(self):
        with pytest.raises(DataError, match="the events have no numbers"):
            split(events(6), self.config)

    def test_a_part_without_events(self):
        with pytest.raises(DataError, match="split by event_number: no events for validation"):
            split(events(6, numbers=np.arange(6) * 10), self.config)
