"""Ragged batches: what goes in comes out, and what does not fit is named."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from timelike.errors import DataError
from timelike.ragged import check_same_lengths, copied, gather, integers, offsets_of
from timelike.sequences import Sequences


def batch(lengths=(3, 0, 2, 1), width=2, dtype=np.float32, **fields):
    """Rows 0, 1, 2, ... so that every row is known by its value."""
    n = sum(lengths)
    values = np.arange(n * width, dtype=dtype).reshape(n, width)
    return Sequences(values, offsets_of(lengths), **fields)


def full(lengths=(3, 0, 2, 1), **fields):
    n = len(lengths)
    known = {
        "labels": np.arange(n) % 2,
        "weights": np.linspace(-1, 1, n),
        "events": np.arange(n) + 100,
        "observers": {"jet_pt": np.arange(n) * 10.0, "kind": np.array([f"k{i}" for i in range(n)])},
    }
    return batch(lengths, **{**known, **fields})


def assert_same(got, want):
    assert got.names == want.names
    assert got.values.dtype == want.values.dtype
    np.testing.assert_array_equal(got.values, want.values)
    np.testing.assert_array_equal(got.offsets, want.offsets)
    for name in ("labels", "weights", "events"):
        a, b = getattr(got, name), getattr(want, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a, b)
    assert got.observers.keys() == want.observers.keys()
    for name in want.observers:
        np.testing.assert_array_equal(got.observers[name], want.observers[name])


lengths_of_batches = st.lists(st.integers(0, 5), max_size=8)


@st.composite
def batches(draw, dtypes=(np.float32, np.float64), least=0):
    lengths = draw(st.lists(st.integers(0, 5), min_size=least, max_size=8))
    width = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(dtypes))
    finite = st.floats(-1e3, 1e3, width=32)
    values = draw(hnp.arrays(dtype, (sum(lengths), width), elements=finite))
    return Sequences(values, offsets_of(lengths))


class TestFields:
    def test_sizes(self):
        s = batch()
        assert (len(s), s.n_rows, s.n_variables) == (4, 6, 2)
        assert s.lengths.tolist() == [3, 0, 2, 1]
        assert s.names == ("x0", "x1")
        assert s.offsets.dtype == np.int64

    def test_types_of_what_is_known_per_sequence(self):
        s = full(
            labels=np.array([0, 1, 0, 1], dtype=np.int8),
            weights=[1, 2, 3, 4],
            events=np.arange(4, dtype=np.uint64),
        )
        assert s.labels.dtype == np.int64
        assert s.weights.dtype == np.float64
        assert s.events.dtype == np.int64

    def test_rows_of_this_layout_are_not_copied(self):
        values = np.zeros((5, 2), dtype=np.float32)
        assert np.shares_memory(Sequences(values, [0, 5]).values, values)

    def test_rows_of_another_layout_become_contiguous(self):
        values = np.arange(10.0).reshape(2, 5).T
        s = Sequences(values, [0, 5])
        assert s.values.flags.c_contiguous
        np.testing.assert_array_equal(s.values, values)

    def test_no_sequences_at_all(self):
        s = Sequences(np.zeros((0, 3)), [0])
        assert len(s) == 0
        assert s.to_list() == []
        assert "0 sequences of no steps" in repr(s)

    def test_a_batch_can_be_pickled(self):
        s = full()
        assert_same(pickle.loads(pickle.dumps(s)), s)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"values": np.zeros((3, 2), dtype=np.int64)}, "values are int64; possible: float32, float64"),
            ({"values": np.zeros((3, 2), dtype=np.float16)}, "values are float16"),
            ({"values": np.zeros(3)}, r"values have shape \(3,\)"),
            ({"offsets": [1, 3]}, "offsets start at 1"),
            ({"offsets": [0, 2]}, "offsets end at 2, and there are 3 rows"),
            ({"offsets": [0, 2, 1, 3]}, "offsets fall from 2 to 1 at sequence 1"),
            ({"offsets": [0.0, 3.0]}, "offsets are float64; integers"),
            ({"offsets": []}, r"offsets have shape \(0,\)"),
            ({"offsets": [[0, 3]]}, r"offsets have shape \(1, 2\)"),
            ({"names": ["a"]}, "1 names for 2 variables: 'a'"),
            ({"names": ["a", "a"]}, "'a' is given to two"),
            ({"names": "ab"}, "names are one text"),
            ({"labels": [0, 1]}, r"labels have shape \(2,\); \[1\]"),
            ({"labels": [-1]}, "sequence 0 has class index -1"),
            ({"labels": [0.5]}, "labels are float64; integers"),
            ({"weights": ["heavy"]}, "weights are <U5"),
            ({"events": [1.5]}, "events are float64"),
            ({"events": np.array([2**63], dtype=np.uint64)}, "events reach 9223372036854775808"),
            ({"observers": {"m": [1.0, 2.0]}}, "observer 'm' have shape"),
        ],
    )
    def test_what_does_not_fit_is_named(self, fields, message):
        known = {"values": np.zeros((3, 2)), "offsets": [0, 3]}
        with pytest.raises(DataError, match=message) as caught:
            Sequences(**{**known, **fields})
        assert "\n" not in str(caught.value)


class TestChoosing:
    def test_one_sequence(self):
        s = batch()
        assert s[2].tolist() == [[6, 7], [8, 9]]
        assert s[-1].tolist() == [[10, 11]]
        assert s[np.int64(1)].shape == (0, 2)
        assert np.shares_memory(s[0], s.values)

    @pytest.mark.parametrize("which", [4, -5])
    def test_a_sequence_that_is_not_there(self, which):
        with pytest.raises(IndexError, match=f"sequence {which} of 4"):
            batch()[which]

    def test_a_contiguous_slice_shares_the_rows(self):
        s = full()
        assert np.shares_memory(s[1:3].values, s.values)

    @given(lengths_of_batches, st.data())
    def test_choosing_is_choosing_from_the_list(self, lengths, data):
        s, n = full(lengths), len(lengths)
        one = st.none() | st.integers(-n - 2, n + 2)
        kinds = [
            st.slices(n),
            st.builds(slice, one, one),
            st.lists(st.booleans(), min_size=n, max_size=n).map(lambda m: np.array(m, dtype=bool)),
        ]
        if n:
            kinds.append(st.lists(st.integers(-n, n - 1)))
        which = data.draw(st.one_of(kinds))
        got = s[which]
        numbers = np.arange(n)[np.asarray(which, dtype=int) if isinstance(which, list) else which]
        want = [s[int(b)] for b in numbers]
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(got.events, numbers + 100)
        np.testing.assert_array_equal(got.labels, numbers % 2)
        np.testing.assert_array_equal(got.observers["jet_pt"], numbers * 10.0)
        np.testing.assert_array_equal(got.weights, s.weights[numbers])

    @pytest.mark.parametrize("which", [[0.5], [[0, 1]], [True, False], [4], ["a"]])
    def test_what_cannot_choose(self, which):
        with pytest.raises(IndexError):
            batch()[which]

    def test_replace(self):
        s = full()
        assert s.replace(labels=None).labels is None
        assert_same(s.replace(labels=None).replace(labels=s.labels), s)


class TestConcatenating:
    @given(lengths_of_batches, st.data())
    def test_pieces_give_the_whole(self, lengths, data):
        s = full(lengths)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(s)), max_size=3)))
        pieces = [s[a:b] for a, b in zip([0, *cuts], [*cuts, len(s)], strict=True)]
        assert_same(Sequences.concatenate(pieces), s)

    @given(lengths_of_batches, st.data())
    def test_some_of_the_pieces(self, lengths, data):
        s = full(lengths)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(s)), max_size=3)))
        pieces = [s[a:b] for a, b in zip([0, *cuts], [*cuts, len(s)], strict=True)]
        some = st.integers(0, max(len(s) - 1, 0))
        which = np.array(data.draw(st.lists(some, max_size=8 if len(s) else 0)), dtype=np.int64)
        found = Sequences.concatenate(pieces, which)
        assert_same(found, s[which])
        assert [row.tolist() for row in found] == [s[int(b)].tolist() for b in which]

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (batch(names=["a", "b"]), r"part 1 has variables \('a', 'b'\)"),
            (batch(dtype=np.float64), "part 1 is float64, part 0 is float32"),
            (batch(labels=np.zeros(4, int)), "part 0 has no labels"),
            (batch(observers={"m": np.zeros(4)}), r"part 1 has observers \['m'\]"),
        ],
    )
    def test_parts_that_do_not_fit(self, other, message):
        with pytest.raises(DataError, match=message):
            Sequences.concatenate([batch(), other])

    @pytest.mark.parametrize("which", [[-1], [0, 8]])
    def test_sequences_that_there_are_not(self, which):
        parts = [batch(), batch()]
        assert sum(map(len, parts)) == 8
        with pytest.raises(IndexError):
            Sequences.concatenate(parts, np.array(which))

    @pytest.mark.parametrize(
        ("others", "starts", "lengths", "error"),
        [
            (np.zeros((3, 2)), [-1], [1], IndexError),
            (np.zeros((3, 2)), [1], [3], IndexError),
            (np.zeros((3, 2)), [2], [-1], IndexError),
            (np.zeros((3, 1)), [0], [1], ValueError),
            (np.zeros((3, 2), np.float32), [0], [1], ValueError),
        ],
    )
    def test_pieces_outside_of_their_array(self, others, starts, lengths, error):
        with pytest.raises(error):
            copied([np.zeros((3, 2)), others], 0, np.array(starts), np.array(lengths))

    def test_nothing_to_concatenate(self):
        with pytest.raises(DataError, match="nothing to concatenate"):
            Sequences.concatenate([])


class TestCheckFinite:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_the_first_bad_value_is_named(self, bad):
        s = batch((2, 0, 0, 3), names=["pt", "eta"])
        s.values[4, 1] = bad  # sequence 3, step 2
        s.values[3, 0] = bad  # sequence 3, step 1: the first
        with pytest.raises(DataError, match=rf"^jets\.root: variable 'pt' is {bad} in sequence 3, step 1$"):
            s.check_finite("jets.root")

    def test_the_first_step_of_a_sequence(self):
        s = batch((2, 0, 0, 3))
        s.values[2, 0] = np.nan
        with pytest.raises(DataError, match="in sequence 3, step 0"):
            s.check_finite()

    def test_a_bad_weight_is_named(self):
        with pytest.raises(DataError, match="the event weight is nan in sequence 2"):
            full(weights=[1, 2, np.nan, np.inf]).check_finite()

    def test_good_values_pass(self):
        full().check_finite()
        Sequences(np.zeros((0, 2)), [0, 0]).check_finite()


class TestLists:
    @given(batches(least=1))
    def test_there_and_back(self, s):
        assert_same(Sequences.from_list(s.to_list()), s)

    def test_one_axis_is_one_variable(self):
        s = Sequences.from_list([np.ones(2), np.ones(3)], names=["x"])
        assert s.values.shape == (5, 1)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ([], "does not say how many variables"),
            ([np.zeros((1, 2)), np.zeros((1, 3))], r"sequence 1 has shape \(1, 3\); \[steps, 2\]"),
            (
                [np.zeros((1, 2)), np.zeros((1, 2), np.float32)],
                "sequence 1 is float32, sequence 0 is float64",
            ),
            ([np.zeros((1, 2, 3))], "sequence 0 has shape"),
        ],
    )
    def test_what_does_not_fit(self, arrays, message):
        with pytest.raises(DataError, match=message):
            Sequences.from_list(arrays)


class TestPadded:
    @given(batches(), st.integers(0, 3), st.sampled_from([0.0, -7.0, np.nan]))
    def test_there_and_back(self, s, spare, fill):
        longest = int(s.lengths.max()) if len(s) else 0
        array, mask = s.to_padded(longest + spare, fill=fill)
        assert array.shape == (len(s), longest + spare, s.n_variables)
        np.testing.assert_array_equal(array[~mask], np.full_like(array[~mask], fill))
        assert_same(Sequences.from_padded(array, mask), s)
        assert_same(Sequences.from_padded(array, lengths=s.lengths), s)

    def test_a_mask_with_holes_gives_shorter_sequences(self):
        array = np.arange(8.0).reshape(2, 4, 1)
        s = Sequences.from_padded(array, [[True, False, True, False], [False, False, False, True]])
        assert [a.ravel().tolist() for a in s] == [[0, 2], [7]]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "either a mask or lengths"),
            ({"mask": np.ones((2, 3), bool), "lengths": [1, 1]}, "either a mask or lengths"),
            ({"mask": np.ones((2, 3))}, "the mask is float64"),
            ({"mask": np.ones((3, 2), bool)}, r"the mask has shape \(3, 2\); \[2, 3\]"),
            ({"lengths": [1, 4]}, "sequence 1 has length 4; 0 to 3"),
            ({"lengths": [-1, 0]}, "sequence 0 has length -1"),
            ({"lengths": [1]}, r"lengths have shape \(1,\)"),
            ({"lengths": [1.0, 2.0]}, "lengths are float64"),
        ],
    )
    def test_what_does_not_fit(self, arguments, message):
        with pytest.raises(DataError, match=message):
            Sequences.from_padded(np.zeros((2, 3, 1)), **arguments)

    def test_two_axes_are_not_padded_sequences(self):
        with pytest.raises(DataError, match="the padded array has shape"):
            Sequences.from_padded(np.zeros((2, 3)), lengths=[1, 1])

    def test_nothing_is_cut_silently(self):
        with pytest.raises(DataError, match="sequence 0 has 3 steps and does not fit in 2"):
            batch().to_padded(2)


class TestAwkward:
    ak = pytest.importorskip("awkward")

    @given(batches())
    def test_records_there_and_back(self, s):
        assert_same(Sequences.from_awkward(s.to_awkward()), s)

    def test_columns_by_name(self):
        array = batch(names=["pt", "eta"]).to_awkward()
        got = Sequences.from_awkward({"eta": array.eta, "pt": array.pt}, labels=[0, 1, 0, 1])
        assert got.names == ("eta", "pt")
        assert got[2].tolist() == [[7, 6], [9, 8]]
        assert got.labels.tolist() == [0, 1, 0, 1]

    def test_a_cut_array(self):
        array = batch(names=["pt", "eta"]).to_awkward()
        cut = array[array.pt > 3][::-1]
        assert [a.tolist() for a in Sequences.from_awkward(cut)] == [
            [[10, 11]],
            [[6, 7], [8, 9]],
            [],
            [[4, 5]],
        ]

    def test_jagged_rows(self):
        array = self.ak.Array([[[1.0, 2.0], [3.0, 4.0]], [], [[5.0, 6.0]]])
        rows = self.ak.to_regular(array, axis=2)
        for same in (array, rows, rows[:, ::-1][:, ::-1]):
            assert [a.tolist() for a in Sequences.from_awkward(same)] == [[[1, 2], [3, 4]], [], [[5, 6]]]
        assert Sequences.from_awkward(rows[:0]).values.shape == (0, 2)

    def test_jagged_numbers_are_one_variable(self):
        assert Sequences.from_awkward(self.ak.Array([[1.0], [], [2.0, 3.0]])).values.tolist() == [
            [1],
            [2],
            [3],
        ]

    def test_lengths_that_disagree(self):
        columns = {"pt": self.ak.Array([[1.0], [1.0, 2.0]]), "eta": self.ak.Array([[1.0], [1.0]])}
        with pytest.raises(DataError, match="event 1: 'pt' has 2 steps, 'eta' has 1"):
            Sequences.from_awkward(columns)

    def test_a_number_per_event_is_not_a_sequence(self):
        with pytest.raises(DataError, match="column 'pt' has type 2"):
            Sequences.from_awkward({"pt": self.ak.Array([1.0, 2.0])})

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            ({"pt": [[1.0, None], [2.0]]}, "column 'pt': event 0, step 1 has no value"),
            ({"pt": [[1.0], None]}, "column 'pt': event 1 has no value"),
            ([[{"pt": 1.0}], [{"pt": 1.0}, None]], "column 'pt': event 1, step 1 has no value"),
            ({"pt": [["a"], []]}, "column 'pt' holds strings"),
            ({"pt": [[[1.0]]]}, "column 'pt' holds lists of lists"),
            ([1.0, 2.0], "the array has type 2"),
            (
                [[[1.0, 2.0]], [], [[3.0, 4.0], [5.0]]],
                "sequence 2, step 1 has 1 variables, the first step has 2",
            ),
            ([[[1.0, 2.0]], None], "the array: event 1 has no value"),
            ([[[1.0, 2.0], None]], "the array: event 0, step 1 has no value"),
            ([[[1.0, 2.0], [3.0, None]]], "the array, its sequences in one,: event 1, step 1 has no value"),
        ],
    )
    def test_what_is_not_a_number_is_named(self, array, message):
        with pytest.raises(DataError, match=message):
            Sequences.from_awkward(array if isinstance(array, dict) else self.ak.Array(array))


class TestTorch:
    torch = pytest.importorskip("torch")

    @given(batches(least=1))
    def test_there_and_back(self, s):
        tensor = s.to_torch_jagged()
        assert tensor.layout == self.torch.jagged
        assert_same(Sequences.from_torch_jagged(tensor), s)

    def test_read_only_rows(self):
        s = batch()
        s.values.flags.writeable = False
        assert_same(Sequences.from_torch_jagged(s.to_torch_jagged()), s)

    def test_a_tensor_with_holes(self):
        values = self.torch.arange(12.0).reshape(6, 2)
        tensor = self.torch.nested.nested_tensor_from_jagged(
            values, offsets=self.torch.tensor([0, 3, 6]), lengths=self.torch.tensor([1, 2])
        )
        assert [a.tolist() for a in Sequences.from_torch_jagged(tensor)] == [[[0, 1]], [[6, 7], [8, 9]]]

    def test_gradients_stay_behind(self):
        values = self.torch.ones(3, 2, requires_grad=True)
        tensor = self.torch.nested.nested_tensor_from_jagged(values * 2, offsets=self.torch.tensor([0, 3]))
        assert Sequences.from_torch_jagged(tensor).values.sum() == 12

    def test_a_plain_tensor(self):
        with pytest.raises(DataError, match=r"not one of torch\.strided"):
            Sequences.from_torch_jagged(self.torch.zeros(2, 3, 4))


class TestRagged:
    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5))))
    def test_gather(self, pieces):
        starts = np.array([p[0] for p in pieces], dtype=np.int64)
        lengths = np.array([p[1] for p in pieces], dtype=np.int64)
        rows, offsets = gather(starts, lengths)
        assert rows.tolist() == [a + t for a, n in pieces for t in range(n)]
        assert np.diff(offsets).tolist() == lengths.tolist()

    def test_lengths_that_disagree(self):
        with pytest.raises(DataError, match=r"^f\.root: event 101: 'a' has 2 steps, 'b' has 3$"):
            check_same_lengths("a", [1, 2], "b", [1, 3], where="f.root", entries=np.array([7, 101]))
        with pytest.raises(DataError, match="'a' has 2 events, 'b' has 1"):
            check_same_lengths("a", [1, 2], "b", [1])
        check_same_lengths("a", [1, 2], "b", [1, 2])

    def test_integers(self):
        assert integers("n", []).dtype == np.int64
        with pytest.raises(DataError, match="n are bool"):
            integers("n", [True])
