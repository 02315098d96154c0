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


class TestCounts:
    labels = np.array([0, 1] * 10)

    def parts(self, by, counts=None, **more):
        given = {"by": by, **({"counts": counts} if counts is not None else {}), **more}
        found = split(
            events(20, labels=self.labels), SplitConfig.model_validate(given), class_names=["qcd", "top"]
        )
        return {part: which.tolist() for part, which in found.items()}

    def test_blocks_come_one_after_the_other(self):
        counts = {"train": {"qcd": 4, "top": 6}, "test": {"qcd": 3}, "validation": 0.5}
        assert self.parts("block", counts) == {
            "train": [0, 1, 2, 3, 5],
            "validation": [4, 6, 7, 9, 11],
            "test": [8, 10, 12, 13, 15, 17, 19],
        }

    def test_events_are_taken_in_turn(self):
        found = self.parts("alternate", {"validation": 0.2})
        assert sorted(found["train"] + found["validation"]) == [0, 1, 4, 5, 8, 9, 12, 13, 16, 17]
        assert found["test"] == [2, 3, 6, 7, 10, 11, 14, 15, 18, 19]
        assert found["validation"] == [16, 17]

    def test_in_turn_the_larger_part_comes_more_often(self):
        counts = {"train": {"qcd": 6, "top": 6}, "test": {"qcd": 2, "top": 2}}
        found = self.parts("alternate", counts)
        assert found["test"] == [4, 5, 12, 13]  # of each eight the third and the seventh

    def test_without_counts_there_are_halves(self):
        found = self.parts("block")
        assert sorted(found["train"] + found["validation"]) == list(range(10))
        assert len(found["validation"]) == 2

    def test_what_is_not_counted_goes_to_the_other_part(self):
        found = self.parts("block", {"test": {"qcd": 1, "top": 1}})
        assert found["test"] == [18, 19]

    def test_at_random_each_has_its_number(self):
        counts = {"train": {"qcd": 5, "top": 8}, "test": {"qcd": 3, "top": 2}}
        a, b, other = (self.parts("random", counts, seed=seed) for seed in (1, 1, 2))
        assert a == b != other
        assert [int(self.labels[a["test"]].sum()), len(a["test"])] == [2, 5]
        assert len(a["train"]) + len(a["validation"]) == 13
        everyone = a["train"] + a["validation"] + a["test"]
        assert len(set(everyone)) == len(everyone) == 18

    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ({"train": {"top": 11}}, "class 'top' has 10 events; 11 for training and 0 for test"),
            ({"train": {"qcd": 6}, "test": {"qcd": 5}}, "class 'qcd' has 10 events; 6 for training and 5"),
            ({"test": {"qcd": 10}}, "class 'qcd' has 10 events; 0 for training and 10 for test"),
        ],
    )
    def test_more_than_there_are(self, counts, said):
        with pytest.raises(DataError, match=said):
            self.parts("block", counts)

    def test_a_class_that_has_nothing_for_test(self):
        with pytest.raises(DataError, match="no events of class 'top' for test, of the 10"):
            self.parts("block", {"train": {"top": 10}})


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
