"""From files to sequences: every format gives the same events, and each key of the config does its part."""

import awkward as ak
import numpy as np
import pytest

from event_files import (
    ETA,
    EVENTS,
    LENGTHS,
    OFFSETS,
    PT,
    WRITERS,
    N,
    columns,
    jagged,
    read_events,
    ttree,
)
from timelike.errors import DataError


@pytest.fixture
def base(tmp_path):
    ttree(tmp_path / "events.root", columns())
    return tmp_path


@pytest.mark.parametrize("kind", WRITERS)
class TestEveryFormat:
    def test_the_same_events_come_out(self, tmp_path, kind):
        write, name = WRITERS[kind]
        write(tmp_path / name, columns())
        s = read_events(
            tmp_path,
            {"sort_by": "part_pt", "keep_first": 2},
            files=[name],
            selection="passed && jet_pt > 15",
            new_variables={"part_logpt": "log(part_pt / jet_pt)"},
            variables=["part_logpt", "part_pid", "jet_pt"],
            weights="weight",
            event_number="eventNumber",
            observers=["jet_pt", "label + 1"],
        )
        assert s.names == ("part_logpt", "part_pid", "jet_pt")
        assert s.values.dtype == np.float32
        assert s.events.tolist() == [101, 103, 104, 105]
        assert s.lengths.tolist() == [0, 1, 2, 2]
        assert s.labels.tolist() == [1, 1, 1, 0]
        assert s.weights.tolist() == [-0.5, 1, 1, 0.25]
        assert s.observers["jet_pt"].tolist() == [20, 40, 50, 60]
        assert s.observers["label + 1"].tolist() == [2, 2, 2, 1]
        pt = np.array([7, 6, 6, 9, 8])
        jet = np.array([40, 50, 50, 60, 60])
        np.testing.assert_array_equal(s.values[:, 0], np.log(pt / jet).astype(np.float32))
        assert s.values[:, 1].tolist() == [22, 211, 11, 130, 13]
        np.testing.assert_array_equal(s.values[:, 2], jet)

    def test_fixed_size_arrays_are_steps(self, tmp_path, kind):
        write, name = WRITERS[kind]
        fixed = np.arange(N * 4, dtype=np.float32).reshape(N, 4)
        write(tmp_path / name, columns(fixed=fixed, part_pt=jagged(PT) if kind == "numpy" else None))
        s = read_events(tmp_path, files=[name], variables=["fixed", "fixed * 2"])
        assert s.lengths.tolist() == [4] * N
        np.testing.assert_array_equal(s.values[:, 1], 2 * fixed.ravel())


@pytest.mark.parametrize("kind", ["ttree", "rntuple", "parquet", "hdf5"])  # .npz holds all steps in one array
def test_only_what_is_needed_is_read(tmp_path, kind):
    write, name = WRITERS[kind]
    write(tmp_path / name, columns(part_eta=jagged(ETA[:-1], [*LENGTHS[:-1], 1])))
    assert read_events(tmp_path, files=[name], variables=["part_pt"]).n_rows == len(PT)


class TestVariables:
    def test_a_branch_comes_as_it_is(self, base):
        s = read_events(base)
        np.testing.assert_array_equal(s.values, np.stack([PT, ETA], axis=1))
        np.testing.assert_array_equal(s.offsets, OFFSETS)
        assert s.weights is None
        assert s.observers == {}

    def test_float64_on_request(self, base):
        s = read_events(base, variables=["part_pt / 3"], options={"dtype": "float64"})
        np.testing.assert_array_equal(s.values[:, 0], PT.astype(np.float64) / 3)

    def test_derived_variables_are_computed_in_float64(self, base):
        s = read_events(base, variables=["(part_pt + 1e8) - 1e8"])
        np.testing.assert_array_equal(s.values[:, 0], PT)

    def test_new_variables_may_use_each_other(self, base):
        new = {"c": "b + 1", "b": "a * 2", "a": "part_pt - jet_pt"}
        s = read_events(base, new_variables=new, variables=["c"])
        np.testing.assert_array_equal(s.values[:, 0], (PT - np.repeat(EVENTS["jet_pt"], LENGTHS)) * 2 + 1)

    def test_constants_and_numbers_per_event_are_the_same_for_all_steps(self, base):
        s = read_events(base, variables=["part_pt", "pi", "num(part_pt)"])
        np.testing.assert_array_equal(s.values[:, 1], np.float32(np.pi))
        np.testing.assert_array_equal(s.values[:, 2], np.repeat(LENGTHS, LENGTHS))

    def test_a_name_of_odd_characters(self, tmp_path):
        ttree(tmp_path / "events.root", columns(**{"part.d-0": jagged(PT)}))
        s = read_events(tmp_path, variables=["part.d-0", "`part.d-0` * 2"])
        np.testing.assert_array_equal(s.values, np.stack([PT, 2 * PT], axis=1))

    def test_reducers_see_all_steps_whatever_is_kept(self, base):
        s = read_events(base, {"sort_by": "part_pt", "keep_first": 1}, variables=["part_pt / sum(part_pt)"])
        np.testing.assert_allclose(s.values[:, 0], [3 / 6, 5 / 9, 1, 6 / 16, 9 / 17], rtol=1e-7)

    def test_a_new_variable_is_no_branch(self, base):
        with pytest.raises(DataError, match=r"data\.new_variables: 'part_pt' is already a branch"):
            read_events(base, new_variables={"part_pt": "part_eta"})

    def test_new_variables_in_a_circle(self, base):
        with pytest.raises(DataError, match="new variables need each other: a -> b -> a"):
            read_events(base, new_variables={"a": "b", "b": "a + 1"}, variables=["a"])


class TestEvents:
    def test_the_running_index_counts_all_entries(self, base):
        ttree(base / "more.root", columns())
        s = read_events(base, files=["events.root", "more.root"], selection="label == 1 || jet_pt > 55")
        assert s.events.tolist() == [1, 3, 4, 5, 7, 9, 10, 11]

    @pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.uint8])
    def test_event_numbers_of_any_integer_type(self, tmp_path, dtype):
        numbers = np.arange(N).astype(dtype) + dtype(200)
        ttree(tmp_path / "events.root", columns(eventNumber=numbers))
        s = read_events(tmp_path, event_number="eventNumber")
        assert s.events.dtype == np.int64
        assert s.events.tolist() == list(range(200, 200 + N))

    def test_event_numbers_by_expression_are_exact(self, tmp_path):
        ttree(tmp_path / "events.root", columns(eventNumber=np.arange(N) + 2**60))
        assert read_events(tmp_path, event_number="eventNumber + 1").events.tolist() == [
            2**60 + 1 + i for i in range(N)
        ]

    def test_events_without_steps_stay(self, base):
        assert len(read_events(base)[1]) == 0

    def test_observers_keep_their_type(self, base):
        s = read_events(base, observers=["eventNumber", "passed", "label"])
        assert [s.observers[n].dtype.name for n in ("eventNumber", "passed", "label")] == [
            "int64",
            "bool",
            "int32",
        ]

    def test_three_labels(self, base):
        labels = {"a": "jet_pt < 25", "b": "25 < jet_pt < 45", "c": "jet_pt > 45"}
        assert read_events(base, labels=labels).labels.tolist() == [0, 0, 1, 1, 2, 2]

    def test_without_labels(self, tmp_path):
        ttree(tmp_path / "events.root", columns(label=None, weight=None))
        s = read_events(tmp_path, weights="weight", observers=["jet_pt"], options={"labelled": False})
        assert s.labels is None
        assert s.weights is None
        assert len(s) == N
        assert s.observers["jet_pt"].tolist() == EVENTS["jet_pt"].tolist()


class TestSequence:
    @pytest.mark.parametrize(
        ("sequence", "first", "last"),
        [
            ({}, [3, 1, 2], [2, 6, 2, 6]),
            ({"sort_by": "part_pt"}, [3, 2, 1], [6, 6, 2, 2]),
            ({"sort_by": "part_pt", "order": "ascending"}, [1, 2, 3], [2, 2, 6, 6]),
            ({"keep_first": 2}, [3, 1], [2, 6]),
            ({"keep_last": 2}, [1, 2], [2, 6]),
            ({"direction": "backward"}, [2, 1, 3], [6, 2, 6, 2]),
            ({"sort_by": "-part_pt", "keep_first": 2, "direction": "backward"}, [2, 1], [2, 2]),
            ({"sort_by": "part_pt", "keep_last": 3, "direction": "backward"}, [1, 2, 3], [2, 2, 6]),
        ],
    )
    def test_order_and_truncation(self, base, sequence, first, last):
        s = read_events(base, sequence)
        assert s[0][:, 0].tolist() == first
        assert s[4][:, 0].tolist() == last

    def test_steps_of_equal_key_stay_in_order(self, base):
        s = read_events(base, {"sort_by": "part_pt"}, variables=["part_pt", "part_pid"])
        assert s[4][:, 1].tolist() == [211, 11, 22, -211]


class TestFiles:
    def test_a_glob_in_natural_order(self, tmp_path):
        for i in (10, 9, 1):
            ttree(tmp_path / f"f{i}.root", columns(eventNumber=np.full(N, i)))
        s = read_events(tmp_path, files=["f*.root"], event_number="eventNumber")
        assert s.events[::N].tolist() == [1, 9, 10]

    def test_files_given_instead(self, base, tmp_path_factory, monkeypatch):
        other = tmp_path_factory.mktemp("other")
        ttree(other / "b.root", columns(eventNumber=np.full(N, 7)))
        monkeypatch.chdir(other)
        s = read_events(base, event_number="eventNumber", options={"files": ["b.root"]})
        assert s.events.tolist() == [7] * N

    def test_odd_file_names(self, tmp_path):
        ttree(tmp_path / "plain.root", columns())
        for name in ("a:b.root", "run[1].root", "mit Leerzeichen.root"):
            (tmp_path / "plain.root").rename(tmp_path / name)
            assert len(read_events(tmp_path, files=[name])) == N
            (tmp_path / name).rename(tmp_path / "plain.root")

    def test_a_format_in_place_of_the_suffix(self, tmp_path):
        ttree(tmp_path / "events.root", columns()).rename(tmp_path / "events.data")
        assert len(read_events(tmp_path, files=["events.data"], format="root")) == N

    def test_an_empty_file_among_others(self, base):
        nothing = {n: c[:0] for n, c in columns().items()}
        ttree(base / "empty.root", nothing)
        assert len(read_events(base, files=["empty.root", "events.root"])) == N


class TestTrees:
    def test_a_tree_by_name(self, tmp_path):
        import uproot

        with uproot.recreate(tmp_path / "events.root") as file:
            for name, i in (("jets", 1), ("folder/more", 2)):
                file.mktree(
                    name,
                    {n: c.type.content if isinstance(c, ak.Array) else c.dtype for n, c in columns().items()},
                )
                file[name].extend(columns(eventNumber=np.full(N, i)))
        for name, i in (("jets", 1), ("folder/more", 2), ("/jets;1", 1)):
            assert read_events(tmp_path, treename=name, event_number="eventNumber").events.tolist() == [i] * N


class TestClasses:
    @pytest.fixture
    def base(self, tmp_path):
        ttree(tmp_path / "sig.root", columns(label=None), "sgn")
        ttree(tmp_path / "bkg.root", columns(label=None, eventNumber=np.arange(N)), "bkg")
        return tmp_path

    def test_a_file_and_tree_each(self, base):
        s = read_events(
            base,
            files=None,
            labels=None,
            selection="jet_pt > 15",
            event_number="eventNumber",
            classes={
                "background": {"files": ["bkg.root"], "treename": "bkg", "selection": "jet_pt < 45"},
                "signal": {"files": ["sig.root"], "treename": "sgn", "weights": "weight * 2"},
            },
        )
        assert s.labels.tolist() == [0] * 3 + [1] * 5
        assert s.events.tolist() == [1, 2, 3, 101, 102, 103, 104, 105]
        assert s.weights.tolist() == [1, 1, 1, -1, 4, 2, 2, 0.5]

    def test_a_selection_each(self, base):
        classes = {"low": {"selection": "jet_pt < 35"}, "high": {"selection": "jet_pt > 35"}}
        s = read_events(base, files=["sig.root"], labels=None, classes=classes)
        assert s.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert s.events.tolist() == [0, 1, 2, 9, 10, 11]

    def test_without_labels_the_class_of_given_files_is_unknown(self, base):
        classes = {
            "b": {"files": ["bkg.root"], "treename": "bkg"},
            "s": {"files": ["sig.root"], "treename": "sgn"},
        }
        options = {"labelled": False, "files": [base / "sig.root"]}
        s = read_events(base, files=None, labels=None, classes=classes, options=options)
        assert s.labels is None
        assert len(s) == N

    def test_the_same_events_as_two_classes(self, base):
        classes = {"a": {}, "b": {"weights": "weight"}}
        with pytest.raises(DataError, match=r"sig\.root: would be read as class 'a' and as class 'b'"):
            read_events(base, files=["sig.root"], labels=None, classes=classes)


TWO_TREES = {
    "files": None,
    "labels": None,
    "variables": None,
    "classes": {"background": {"files": ["bkg.root"]}, "signal": {"files": ["sgn.root"]}},
}


class TestSteps:
    """The layout of TMVA's tutorial: a branch per time step."""

    T, D = 11, 3

    @pytest.fixture
    def base(self, tmp_path):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(N, self.T, self.D)).astype(np.float32)
        for tree in ("bkg", "sgn"):
            steps = {f"vars_time{t}": jagged(self.x[:, t].ravel(), [self.D] * N) for t in range(self.T)}
            ttree(tmp_path / f"{tree}.root", steps, tree)
        return tmp_path

    def test_steps_in_natural_order(self, base):
        s = read_events(base, **TWO_TREES, steps=["vars_time*"])
        assert s.names == ("x0", "x1", "x2")
        np.testing.assert_array_equal(s.to_padded()[0], np.concatenate([self.x, self.x]))

    def test_a_list_of_steps(self, base):
        s = read_events(
            base,
            {"keep_last": 2, "direction": "backward"},
            **TWO_TREES,
            steps=["vars_time3", "vars_time1", "-vars_time1"],
        )
        np.testing.assert_array_equal(s.to_padded()[0][:N], np.stack([-self.x[:, 1], self.x[:, 1]], axis=1))

    def test_a_number_per_event_is_one_variable(self, tmp_path):
        ttree(
            tmp_path / "events.root", {"t1": np.arange(4.0), "t0": np.arange(4.0) + 10, "y": np.arange(4) % 2}
        )
        s = read_events(tmp_path, variables=None, steps=["t*"], labels={"a": "y == 0", "b": "y == 1"})
        assert s[1].tolist() == [[11], [1]]

    def test_no_branch_matches(self, base):
        with pytest.raises(
            DataError, match=r"data\.steps: no branch matches 'vars_tim_\*'; nearest: 'vars_time"
        ):
            read_events(base, **TWO_TREES, steps=["vars_tim_*"])

    def test_steps_cannot_be_sorted(self, base):
        with pytest.raises(DataError, match="cannot be sorted"):
            read_events(base, {"sort_by": "vars_time0"}, **TWO_TREES, steps=["vars_time*"])

    @pytest.mark.parametrize(
        ("lengths", "message"),
        [
            ({"a": [2, 2], "b": [2, 3]}, "event 1: 'a' has 2 steps, 'b' has 3"),
            ({"a": [2, 3], "b": [2, 3]}, "'a' has 2 entries in event 0 and 3 in event 1"),
            ({"a": [0, 0], "b": [0, 0]}, "'a' has no entries"),
        ],
    )
    def test_entries_that_do_not_fit(self, tmp_path, lengths, message):
        steps = {n: jagged(np.ones(sum(k)), k) for n, k in lengths.items()}
        ttree(tmp_path / "events.root", steps | {"y": np.arange(2)})
        with pytest.raises(DataError, match=message):
            read_events(tmp_path, variables=None, steps=["a", "b"], labels={"a": "y == 0", "b": "y == 1"})

    def test_files_of_different_width(self, tmp_path):
        for width in (2, 3):
            ttree(tmp_path / f"f{width}.root", {"a": np.ones((4, width)), "y": np.arange(4) % 2})
        with pytest.raises(DataError, match=r"f3\.root: data\.steps: a step has 3 entries, before it had 2"):
            read_events(
                tmp_path,
                files=["f*.root"],
                variables=None,
                steps=["a"],
                labels={"a": "y == 0", "b": "y == 1"},
            )
