"""Tables of scores: written whole, read back as they were."""

import os

import numpy as np
import pyarrow.parquet
import pytest
import uproot

from timelike.data.sources import open_table
from timelike.data.write import write_table
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


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
class TestEither:
    def test_no_rows(self, tmp_path, suffix):
        write_table(tmp_path / f"s{suffix}", {"score": np.zeros(0)})
        assert (tmp_path / f"s{suffix}").stat().st_size > 0

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
        ],
    )
    def test_columns_that_do_not_fit(self, tmp_path, suffix, columns, message):
        with pytest.raises(DataError, match=message):
            write_table(tmp_path / f"s{suffix}", columns)
        assert os.listdir(tmp_path) == []

    def test_a_failure_leaves_the_old_file(self, tmp_path, suffix, monkeypatch):
        path = tmp_path / f"s{suffix}"
        path.write_text("old")

        def fails(*_):
            raise RuntimeError("half way")

        monkeypatch.setattr(f"timelike.data.write._write_{suffix[1:]}", fails)
        with pytest.raises(RuntimeError, match="half way"):
            write_table(path, COLUMNS)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == [path.name]


def test_a_suffix_of_neither_format(tmp_path):
    with pytest.raises(ConfigError, match=r"the suffix '.csv' is neither .root nor .parquet"):
        write_table(tmp_path / "s.csv", COLUMNS)


def test_no_such_folder(tmp_path):
    with pytest.raises(ConfigError, match="there is no directory"):
        write_table(tmp_path / "none" / "s.root", COLUMNS)


def test_a_directory(tmp_path):
    (tmp_path / "s.root").mkdir()
    with pytest.raises(ConfigError, match="it is a directory"):
        write_table(tmp_path / "s.root", COLUMNS)
