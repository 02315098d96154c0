"""Bad input: each gives one line that says what was given, what is possible, and where."""

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

from event_files import (
    EVENTS,
    LENGTHS,
    PT,
    WRITERS,
    N,
    columns,
    jagged,
    npz,
    parquet,
    read_events,
    rntuple,
    ttree,
)
from timelike.errors import DataError


@pytest.fixture
def base(tmp_path):
    ttree(tmp_path / "events.root", columns())
    return tmp_path


def refused(base, *parts, sequence=None, options=None, **data):
    """Read, and check that the error is one line that has all of these parts."""
    with pytest.raises(DataError) as caught:
        read_events(base, sequence, options=options, **data)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


class TestFiles:
    @pytest.mark.parametrize(
        "name", ["event.root", "events.parquet", "events.h5", "events.npz", "none/events.root"]
    )
    def test_missing(self, base, name):
        refused(base, f"{base / name}: no such file", files=[name])

    def test_missing_with_one_that_is_near(self, base):
        refused(base, "nearest: 'events.root'", files=["evnts.root"])

    def test_a_directory(self, base):
        (base / "folder.root").mkdir()
        refused(base, "folder.root: is a directory; a glob such as", files=["folder.root"])

    @pytest.mark.parametrize("glob", ["*.parquet", "none/*.root", "fold*"])
    def test_a_glob_without_a_match(self, base, glob):
        (base / "folder").mkdir()
        refused(base, f"{base / glob}: matches no file", files=[glob])

    def test_a_file_given_twice(self, base):
        refused(base, "events.root: given twice", files=["events.root", "ev*.root"])

    def test_a_suffix_of_no_format(self, base):
        (base / "events.csv").write_text("a,b\n")
        refused(
            base, "events.csv: the suffix '.csv' is of no known format (.root, .parquet", files=["events.csv"]
        )

    @pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5", ".npz", ".npy"])
    @pytest.mark.parametrize(
        "content", [b"", b"r", b"root", b"some text that is no data\n" * 40, b"\0" * 5000]
    )
    def test_not_of_that_format(self, tmp_path, suffix, content):
        path = tmp_path / f"events{suffix}"
        path.write_bytes(content)
        refused(tmp_path, str(path), files=[path.name])

    @pytest.mark.parametrize("kind", WRITERS)
    def test_truncated_anywhere(self, tmp_path, kind):
        write, name = WRITERS[kind]
        path = write(tmp_path / name, columns())
        whole = path.read_bytes()
        for length in {*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
            path.write_bytes(whole[:length])
            message = refused(tmp_path, str(path), files=[name])
            if kind in ("ttree", "rntuple") and length >= 20:
                assert f"truncated, its header speaks of {len(whole)} bytes and it has {length}" in message

    # Not HDF5: its library believes what a damaged file says of sizes, and allocates for minutes.
    @pytest.mark.parametrize("kind", ["ttree", "rntuple", "parquet", "numpy"])
    def test_damaged_anywhere(self, tmp_path, kind):
        write, name = WRITERS[kind]
        path = write(tmp_path / name, columns())
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        places = np.flatnonzero(np.frombuffer(whole, dtype=np.uint8))  # the rest is padding
        refusals = []
        for at in rng.choice(places[(places > 20) & (places < len(whole) - 4)], 60):
            path.write_bytes(whole[:at] + rng.bytes(4) + whole[at + 4 :])
            # Any other exception ends the test; what happens to be readable is no error.
            try:
                read_events(tmp_path, files=[name])
            except DataError as error:
                refusals.append(str(error))
        assert len(refusals) > 2
        assert all(str(path) in message and "\n" not in message for message in refusals)

    def test_no_entries(self, tmp_path):
        ttree(tmp_path / "events.root", {n: c[:0] for n, c in columns().items()})
        refused(tmp_path, "events.root: no events")

    def test_no_entries_in_several(self, tmp_path):
        for i in range(3):
            ttree(tmp_path / f"e{i}.root", {n: c[:0] for n, c in columns().items()})
        refused(tmp_path, "e0.root and 2 more files: no events", files=["e*.root"])


class TestTrees:
    def test_a_wrong_name(self, base):
        refused(base, "events.root: no tree 'jet'; nearest: 'jets'", treename="jet")

    def test_not_a_tree(self, base):
        with uproot.update(base / "events.root") as file:
            file["histogram"] = np.histogram([1.0])
        refused(base, "'histogram' is a TH1D, not a TTree or RNTuple", treename="histogram")
        assert len(read_events(base)) == N  # the only tree is still found

    def test_several_and_none_named(self, base):
        with uproot.update(base / "events.root") as file:
            file.mktree("more", {"x": np.float32}).extend({"x": np.zeros(1)})
        refused(base, "events.root: holds 2 trees ('jets', 'more'); say which one by treename")

    def test_none(self, tmp_path):
        with uproot.recreate(tmp_path / "events.root") as file:
            file["histogram"] = np.histogram([1.0])
        refused(tmp_path, "events.root: holds no TTree and no RNTuple")

    def test_a_group_that_is_not_there(self, tmp_path):
        with h5py.File(tmp_path / "events.h5", "w") as file:
            file["jets/pt"] = np.zeros(3)
        refused(tmp_path, "events.h5: no group 'jet'; nearest: 'jets'", files=["events.h5"], treename="jet")
        refused(tmp_path, "'jets/pt' is a dataset, not a group", files=["events.h5"], treename="jets/pt")

    @pytest.mark.parametrize(("write", "name"), [(parquet, "events.parquet"), (npz, "events.npz")])
    def test_a_tree_where_there_are_none(self, tmp_path, write, name):
        write(tmp_path / name, columns())
        refused(tmp_path, name, "treename 'jets' has no meaning", files=[name], treename="jets")


class TestBranches:
    @pytest.mark.parametrize("kind", WRITERS)
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("variables", ["part_tp"]),
            ("variables", ["log(part_tp)"]),
            ("selection", "num(part_tp) > 1"),
            ("weights", "part_tp"),
            ("observers", ["part_tp"]),
            ("event_number", "part_tp"),
        ],
    )
    def test_missing(self, tmp_path, kind, key, value):
        write, name = WRITERS[kind]
        write(tmp_path / name, columns())
        refused(
            tmp_path, name, f"data.{key}: no ", " 'part_tp'; nearest: 'part_pt'", files=[name], **{key: value}
        )

    def test_missing_for_a_label_and_for_sorting(self, base):
        refused(
            base, "data.labels.a: no branch 'labl'; nearest: 'label'", labels={"a": "labl == 0", "b": "label"}
        )
        refused(base, "sequence.sort_by: no branch 'part_tp'", sequence={"sort_by": "part_tp"})

    def test_missing_for_a_new_variable(self, base):
        new = {"x": "part_tp + 1"}
        message = refused(
            base, "data.variables: new variable 'x': no branch 'part_tp'", new_variables=new, variables=["x"]
        )
        assert "nearest: 'part_pt'" in message

    @pytest.mark.parametrize("jag", [False, True])
    @pytest.mark.parametrize(("write", "name"), [(rntuple, "events.root"), (parquet, "events.parquet")])
    def test_strings(self, tmp_path, write, name, jag):
        text = ak.Array([["a"] * n for n in LENGTHS]) if jag else ak.Array(["a"] * N)
        write(tmp_path / name, columns(text=text))
        refused(
            tmp_path,
            name,
            "'text' holds strings; numbers are needed",
            files=[name],
            variables=["part_pt", "text"],
        )

    @pytest.mark.parametrize("name", ["events.h5", "events.npz"])
    def test_strings_in_arrays(self, tmp_path, name):
        if name.endswith("h5"):
            with h5py.File(tmp_path / name, "w") as file:
                file["text"] = np.array(["a"] * 3, dtype=h5py.string_dtype())
        else:
            np.savez(tmp_path / name, text=np.array(["a"] * 3))
        refused(tmp_path, name, "'text' holds strings; numbers are needed", files=[name], variables=["text"])

    def test_records(self, tmp_path):
        records = ak.zip({"x": jagged(PT), "y": jagged(PT)})
        parquet(tmp_path / "events.parquet", columns(records=records))
        refused(
            tmp_path, "'records' holds records of 'x', 'y'", files=["events.parquet"], variables=["records"]
        )

    def test_lists_of_lists(self, tmp_path):
        lists = ak.Array([[[1.0], [2.0]]] * N)
        parquet(tmp_path / "events.parquet", columns(lists=lists))
        refused(tmp_path, "'lists' holds lists of lists", files=["events.parquet"], variables=["lists"])

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (ak.Array([1.0, None, 3.0, 4.0, 5.0, 6.0]), "column 'x': event 1 has no value"),
            (ak.Array([[1.0], None, [], [], [], []]), "column 'x': event 1 has no value"),
            (ak.Array([[1.0], [], [1.0, 2.0, None], [], [], []]), "column 'x': event 2, step 2 has no value"),
        ],
    )
    def test_values_that_are_missing(self, tmp_path, column, message):
        parquet(tmp_path / "events.parquet", columns(x=column))
        refused(
            tmp_path, "events.parquet: data.variables: " + message, files=["events.parquet"], variables=["x"]
        )


class TestLengths:
    """Event 2 has two steps of part_pt and three of other; event 4 has four and three."""

    @pytest.fixture
    def base(self, tmp_path):
        ttree(tmp_path / "events.root", columns(other=jagged(PT, [3, 0, 3, 1, 3, 2])))
        return tmp_path

    def test_of_two_variables(self, base):
        where = "events.root: tree 'jets': data.variables: "
        refused(
            base,
            where + "event 2: 'part_pt' has 2 steps, 'other' has 3",
            variables=["jet_pt", "part_pt", "other"],
        )

    def test_in_an_expression(self, base):
        refused(
            base, "event 2: 'log(other)' has 3 steps, 'part_pt' has 2", variables=["log(other) / part_pt"]
        )

    def test_in_a_selection(self, base):
        refused(
            base,
            "data.selection: event 2: 'part_pt' has 2 steps, 'other' has 3",
            selection="any(part_pt > other)",
        )

    def test_of_the_key_that_is_sorted_by(self, base):
        message = "sequence.sort_by: event 2: 'part_pt' has 2 steps, 'other' has 3"
        refused(base, message, sequence={"sort_by": "other"})

    def test_the_event_is_counted_in_the_file(self, base):
        refused(
            base,
            "event 4: 'part_pt' has 4 steps, 'other' has 3",
            selection="jet_pt > 35",
            variables=["part_pt", "other"],
        )
        assert (
            read_events(base, selection="jet_pt > 55 || jet_pt < 25", variables=["part_pt", "other"]).n_rows
            == 5
        )


class TestNumbers:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_in_a_variable(self, tmp_path, bad):
        pt = PT.copy()
        pt[7] = bad  # event 4, step 1
        ttree(tmp_path / "events.root", columns(part_pt=jagged(pt)))
        refused(
            tmp_path,
            f"events.root: tree 'jets': data.variables: event 4, step 1: variable 'part_pt' is {bad}",
        )
        sequence = {"sort_by": "part_eta", "direction": "backward"}
        refused(
            tmp_path,
            "event 4, step 1: variable 'part_pt * 2' is",
            sequence=sequence,
            variables=["part_pt * 2"],
            selection="jet_pt > 35",
        )

    def test_the_step_is_counted_in_the_file(self, base):
        # Of the pt 2 6 2 6 of event 4, the two sixes are kept: steps 1 and 3, the latter is read first.
        sequence = {"sort_by": "part_pt", "keep_first": 2, "direction": "backward"}
        message = "event 4, step 3: variable '1 / (part_pid - 11)' is inf"
        refused(base, message, sequence=sequence, variables=["1 / (part_pid - 11)"], selection="jet_pt > 35")

    def test_in_a_number_per_event(self, base):
        refused(
            base,
            "event 2, step 0: variable '1 / (jet_pt - 30)' is inf",
            variables=["part_pt", "1 / (jet_pt - 30)"],
        )

    def test_events_that_are_dropped_may_have_them(self, base):
        assert read_events(base, variables=["part_pt / (jet_pt - 30)"], selection="jet_pt != 30").n_rows == 10

    def test_a_spread_that_float32_does_not_resolve(self, base):
        refused(
            base,
            "variable 'part_pt / 100 + 1600000000': values up to 1.6e+09 that spread by",
            variables=["part_pt", "part_pt / 100 + 1600000000"],
        )
        constant = read_events(base, variables=["part_pt", "0 * part_pt + 1600000000"])
        assert (constant.values[:, 1] == np.float32(1.6e9)).all()

    def test_beyond_the_type(self, base):
        refused(
            base,
            "event 0, step 0: variable 'part_pt * 1e300' is 3e+300, beyond the range of float32",
            variables=["part_pt * 1e300"],
        )

    def test_in_the_key_that_is_sorted_by(self, base):
        message = "sequence.sort_by: event 0, step 0: 'log(part_eta)' is nan"
        refused(base, message, sequence={"sort_by": "log(part_eta)"})

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_in_a_weight(self, tmp_path, bad):
        weight = EVENTS["weight"].copy()
        weight[3] = bad
        ttree(tmp_path / "events.root", columns(weight=weight))
        refused(
            tmp_path,
            f"data.weights: event 3: the weight 'weight' is {bad}",
            weights="weight",
            selection="jet_pt > 15",
        )

    def test_weights_that_are_all_zero(self, base):
        refused(base, "events.root: the weights of all events are 0", weights="0 * weight")
        refused(base, "the weights of all events of class 'top' are 0", weights="weight * (label == 0)")

    def test_weights_per_step(self, base):
        refused(
            base, "data.weights: 'part_pt' has a value per step; one per event is needed", weights="part_pt"
        )

    @pytest.mark.parametrize("text", ["jet_pt", "eventNumber / 1", "passed"])
    def test_event_numbers_that_are_no_integers(self, base, text):
        refused(
            base, f"data.event_number: numbers of '{text}' are ", "; integers are needed", event_number=text
        )

    def test_event_numbers_beyond_int64(self, tmp_path):
        ttree(tmp_path / "events.root", columns(eventNumber=np.full(N, 2**63, dtype=np.uint64)))
        refused(tmp_path, "reach 9223372036854775808, which does not fit", event_number="eventNumber")


class TestEvents:
    def test_a_selection_that_keeps_nothing(self, base):
        refused(base, "events.root: the selection keeps none of 6 events", selection="jet_pt > 1000")

    def test_a_selection_that_is_no_condition(self, base):
        refused(
            base,
            "data.selection: 'label' is int32, not a condition; compare it, as in label != 0",
            selection="label",
        )

    def test_a_selection_of_steps(self, base):
        refused(base, "data.selection: 'part_pt > 1' has a value per step", selection="part_pt > 1")

    def test_all_without_steps(self, base):
        refused(base, "events.root: none of 1 events has a step", selection="num(part_pt) == 0")

    def test_variables_without_steps(self, base):
        refused(base, "data.variables: none of the variables has steps", variables=["jet_pt", "1"])

    def test_one_class_only(self, base):
        refused(base, "class 'top' has no events; there are 3 of 'qcd'", selection="label == 0")

    def test_no_label_holds(self, base):
        labels = {"a": "label == 0", "b": "jet_pt > 45"}
        refused(base, "data.labels: event 1: none of the labels holds", labels=labels)

    def test_two_labels_hold(self, base):
        labels = {"a": "label == 0", "b": "label == 1", "c": "jet_pt == 40"}
        refused(
            base,
            "event 3: the labels 'b' and 'c' all hold; exactly one is needed",
            labels=labels,
            selection="jet_pt > 15",
        )

    def test_a_label_that_is_no_condition(self, base):
        refused(
            base, "data.labels.b: 'label' is int32, not a condition", labels={"a": "label == 0", "b": "label"}
        )

    def test_a_label_of_steps(self, base):
        refused(
            base,
            "data.labels.a: 'part_pt > 0' has a value per step",
            labels={"a": "part_pt > 0", "b": "label == 1"},
        )

    def test_an_expression_that_is_none(self, base):
        refused(base, "data.selection: 'jet_pt >': character ", "syntax error", selection="jet_pt >")
        refused(
            base,
            "data.variables: 'lgo(part_pt)': character 1: no function 'lgo'; nearest: 'log'",
            variables=["lgo(part_pt)"],
        )
