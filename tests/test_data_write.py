"""Tables of scores: written whole, read back as they were."""

import os

import numpy as np
import pyarrow.parquet
import pytest
import uproot

from timelike.data.sources import open_table
from timelike.data.table import Column
from timelike.data.write import write_pieces, write_table
from timelike.errors import ConfigError, DataError

COLUMNS = {
    "event_number": np.array([2**60, 5, -1], dtype=np.int64),
    "score_top": np.array([0.25, 0.5, 1.0]),
    "jet_pt": np.array([1, 2, 3], dtype=np.float32),
    "charge": np.array([-1, 0, 1], dtype=np.int8),
    "hash": np.array([2**64 - 1, 0, 1], dtype=np.uint64),
    "good": np.array([True, False, True]),
    "jet_pt / 2": np.array([0.5, 1.0, 1.5]),
}


NAMED = {name: column for name, column in COLUMNS.items() if "/" not in name}  # HDF5 has no such names
OFFSETS = np.array([0, 2, 2, 5])
STEPS = {
    "score_a": Column(np.arange(5.0), OFFSETS),
    "score_b": Column(np.array([np.nan, 1, 2, 3, np.inf]), OFFSETS),
}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        np.testing.assert_array_equal(got[name], want[name])


def test_root(tmp_path):
    write_table(tmp_path / "s.root", COLUMNS, "tagged")
    with uproot.open(tmp_path / "s.root") as file:
        assert file.classnames() == {"tagged;1": "TTree"}
        assert_same(file["tagged"].arrays(list(COLUMNS), library="np"), COLUMNS)


def test_parquet(tmp_path):
    write_table(tmp_path / "s.parquet", COLUMNS)
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet")
    assert_same({n: table[n].to_numpy() for n in table.column_names}, COLUMNS)


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".h5", ".npz"])
class TestEach:
    def test_no_rows(self, tmp_path, suffix):
        write_table(tmp_path / f"s{suffix}", {"score": np.zeros(0)})
        assert (tmp_path / f"s{suffix}").stat().st_size > 0

    def test_pieces_are_one_behind_the_other(self, tmp_path, suffix):
        path = tmp_path / f"s{suffix}"
        write_pieces(path, ({n: c[k : k + 1] for n, c in NAMED.items()} for k in range(3)))
        with open_table(path, None, None) as table:
            assert set(table.names) == set(NAMED)
            assert_same({n: table.read(n).values for n in NAMED}, NAMED)

    def test_steps_are_read_back(self, tmp_path, suffix):
        path = tmp_path / f"s{suffix}"
        empty = {n: Column(c.values[:0], np.array([0, 0, 0, 0])) for n, c in STEPS.items()}
        write_pieces(path, [NAMED | STEPS, NAMED | empty, NAMED | STEPS])
        with open_table(path, None, None) as table:
            assert table.n_events == 9
            for name, column in STEPS.items():
                read = table.read(name)
                np.testing.assert_array_equal(read.values, np.tile(column.values, 2))
                np.testing.assert_array_equal(np.diff(read.offsets), [2, 0, 3, 0, 0, 0, 2, 0, 3])
            np.testing.assert_array_equal(table.read("hash").values, np.tile(NAMED["hash"], 3))

    @pytest.mark.parametrize(
        ("piece", "message"),
        [
            ({"a": np.zeros(2, np.float32)}, "a piece has the columns"),
            ({"b": np.zeros(2)}, "a piece has the columns"),
            ({"a": Column(np.zeros(2), np.array([0, 2]))}, "a piece has the columns"),
        ],
    )
    def test_a_piece_of_other_columns(self, tmp_path, suffix, piece, message):
        with pytest.raises(DataError, match=message):
            write_pieces(tmp_path / f"s{suffix}", [{"a": np.zeros(2)}, piece])
        assert os.listdir(tmp_path) == []

    def test_no_pieces(self, tmp_path, suffix):
        with pytest.raises(DataError, match="no columns"):
            write_pieces(tmp_path / f"s{suffix}", [])

    def test_columns_that_are_not_contiguous(self, tmp_path, suffix):
        scores = np.arange(12.0).reshape(4, 3)
        write_table(str(tmp_path / f"s{suffix}"), {f"score_{c}": scores[:, c] for c in range(3)})
        with open_table(tmp_path / f"s{suffix}", None, None) as table:
            np.testing.assert_array_equal(table.read("score_1").values, scores[:, 1])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({}, "no columns"),
            ({"a": np.zeros(2), "b": np.zeros(3)}, "'a' has 2 rows, 'b' has 3"),
            ({"a": np.array(["x"])}, "column 'a' is <U1"),
            ({"a": np.zeros((2, 2))}, r"column 'a' is float64 of shape \(2, 2\)"),
            ({"a": np.zeros(2), "b": STEPS["score_a"]}, "'a' has 2 rows, 'b' has 3"),
            (
                {"a": STEPS["score_a"], "b": Column(np.arange(5.0), np.array([0, 1, 2, 5]))},
                "'b' has other steps",
            ),
        ],
    )
    def test_columns_that_do_not_fit(self, tmp_path, suffix, columns, message):
        with pytest.raises(DataError, match=message):
            write_table(tmp_path / f"s{suffix}", columns)
        assert os.listdir(tmp_path) == []

    def test_a_failure_leaves_the_old_file(self, tmp_path, suffix):
        path = tmp_path / f"s{suffix}"
        path.write_text("old")

        def pieces():
            yield NAMED
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            write_pieces(path, pieces())
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == [path.name]


def test_a_suffix_of_neither_format(tmp_path):
    with pytest.raises(
        ConfigError, match=r"the suffix '.csv' is none of .root, .parquet, .pq, .h5, .hdf5, .npz"
    ):
        write_table(tmp_path / "s.csv", COLUMNS)


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match="there is no directory"):
        write_table(tmp_path / "none" / "s.root", COLUMNS)


def test_a_directory(tmp_path):
    (tmp_path / "s.root").mkdir()
    with pytest.raises(ConfigError, match="it is a directory"):
        write_table(tmp_path / "s.root", COLUMNS)


@pytest.mark.parametrize(
    ("suffix", "columns", "message"),
    [
        (".h5", {"a / b": np.zeros(3)}, "'a / b': HDF5 takes no '/' in a name"),
        (".h5", STEPS | {"offsets": np.zeros(3)}, "'offsets': the steps are written under that name"),
        (".npz", STEPS | {"names": np.zeros(3)}, "'names': the steps are written under that name"),
    ],
)
def test_names_that_a_format_has_no_place_for(tmp_path, suffix, columns, message):
    with pytest.raises(DataError, match=message):
        write_table(tmp_path / f"s{suffix}", columns)
    assert os.listdir(tmp_path) == []


def test_root_counts_all_steps_by_one_branch(tmp_path):
    write_table(tmp_path / "s.root", STEPS)
    with uproot.open(tmp_path / "s.root") as file:
        assert file["scores"].keys() == ["n_steps", "score_a", "score_b"]
        np.testing.assert_array_equal(file["scores/n_steps"].array(library="np"), [2, 0, 3])
