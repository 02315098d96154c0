"""What each format has of its own: layouts of arrays in HDF5 and NumPy files, names in ROOT files."""

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import uproot

from event_files import ETA, EVENTS, LENGTHS, OFFSETS, PT, N, jagged, read_events
from timelike.data.root import _branches
from timelike.data.sources import open_table
from timelike.errors import DataError

MASK = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
PADDED = np.zeros((N, max(LENGTHS), 2), dtype=np.float32)
PADDED[MASK] = np.stack([PT, ETA], axis=1)
LABELS = {"labels": {"a": "y == 0", "b": "y == 1"}}
Y = EVENTS["label"]


def save(path, **arrays):
    """Save the same arrays in either format."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = list(map(str, array)) if array.dtype.kind == "U" else array


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
class TestArrays:
    """Steps that are ragged or padded, in NumPy files and in groups of HDF5 alike."""

    @pytest.mark.parametrize(
        "steps",
        [
            {"values": np.stack([PT, ETA], axis=1), "offsets": OFFSETS},
            {"values": np.stack([PT, ETA], axis=1).astype(">f8"), "offsets": OFFSETS.astype(np.uint32)},
            {"X": PADDED, "mask": MASK},
            {"X": PADDED.astype(np.float16).astype(np.float32), "lengths": np.array(LENGTHS, dtype=np.int16)},
        ],
    )
    @pytest.mark.parametrize("names", [None, np.array(["pt", "eta"])])
    def test_ragged_and_padded(self, tmp_path, suffix, steps, names):
        save(tmp_path / f"e{suffix}", **steps, y=Y, **({} if names is None else {"names": names}))
        variables = ["x0", "x1"] if names is None else ["pt", "eta"]
        s = read_events(tmp_path, files=[f"e{suffix}"], variables=variables, **LABELS)
        assert s.offsets.tolist() == OFFSETS.tolist()
        assert s.labels.tolist() == Y.tolist()
        np.testing.assert_array_equal(s.values[:, 0], PT)
        rounded = ETA.astype(np.float16) if "lengths" in steps else ETA
        np.testing.assert_array_equal(s.values[:, 1], rounded)

    def test_padded_without_a_mask(self, tmp_path, suffix):
        save(tmp_path / f"e{suffix}", X=PADDED, y=Y)
        s = read_events(tmp_path, files=[f"e{suffix}"], variables=["x0"], **LABELS)
        np.testing.assert_array_equal(s.values[:, 0], PADDED[:, :, 0].ravel())

    def test_integers(self, tmp_path, suffix):
        save(tmp_path / f"e{suffix}", X=np.arange(N * 2).reshape(N, 2, 1), y=Y.astype(">i2"))
        s = read_events(tmp_path, files=[f"e{suffix}"], variables=["x0"], observers=["y"], **LABELS)
        assert s.values.ravel().tolist() == list(range(N * 2))
        assert s.observers["y"].dtype == np.int16

    @pytest.mark.parametrize("dtype", [">u8", "<u8"])
    def test_unsigned_integers_of_either_byte_order(self, tmp_path, suffix, dtype):
        save(
            tmp_path / f"e{suffix}",
            X=PADDED,
            y=Y,
            n=(np.arange(N, dtype=np.uint64) + np.uint64(2**63 - 3)).astype(dtype),
        )
        with pytest.raises(DataError, match="reach 9223372036854775810, which does not fit in int64"):
            read_events(tmp_path, files=[f"e{suffix}"], variables=["x0"], event_number="n", **LABELS)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (
                {"values": np.ones((3, 1)), "offsets": np.array([0, 2])},
                "offsets end at 2, and there are 3 rows",
            ),
            ({"X": np.ones((2, 3, 1)), "lengths": np.array([1, 4])}, "sequence 1 has length 4"),
            ({"X": np.ones((2, 3, 1)), "mask": np.ones((2, 2), bool)}, "the mask has shape (2, 2)"),
            ({"X": np.ones((2, 3, 1)), "x0": np.ones(2)}, "'x0' is both an array and a variable"),
            ({"X": np.ones((2, 3, 1)), "names": np.array(["a", "b"])}, "2 names for 1 variables"),
            ({"X": np.ones((2, 3))}, "the padded array has shape (2, 3)"),
            ({"X": np.ones((2, 3, 1)), "y": np.ones(3)}, "'y' has 3 entries, the table has 2"),
            ({"X": np.ones((2, 3, 1)), "y": np.ones((2, 3, 4))}, "'y' has shape (2, 3, 4)"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path, suffix, arrays, message):
        path = tmp_path / f"e{suffix}"
        save(path, **arrays)
        with pytest.raises(DataError) as caught:
            read_events(tmp_path, files=[path.name], variables=["x0"], **LABELS)
        assert message in str(caught.value)
        assert str(path) in str(caught.value)

    def test_nothing_in_it(self, tmp_path, suffix):
        save(tmp_path / f"e{suffix}")
        with pytest.raises(DataError, match=rf"e\{suffix}: holds no "):
            read_events(tmp_path, files=[f"e{suffix}"], **LABELS)


class TestNumPy:
    def test_structured(self, tmp_path):
        table = np.zeros(4, dtype=[("t", np.float32, (3,)), ("y", np.int32)])
        table["t"], table["y"] = np.arange(12).reshape(4, 3), [0, 1, 0, 1]
        np.save(tmp_path / "e.npy", table)
        s = read_events(tmp_path, files=["e.npy"], variables=["t"], **LABELS)
        assert s.to_padded()[0][:, :, 0].tolist() == table["t"].tolist()

    def test_padded_alone(self, tmp_path):
        np.save(tmp_path / "e.npy", PADDED)
        s = read_events(tmp_path, files=["e.npy"], variables=["x1"], options={"labelled": False})
        np.testing.assert_array_equal(s.values[:, 0], PADDED[:, :, 1].ravel())

    def test_two_axes(self, tmp_path):
        np.save(tmp_path / "e.npy", PADDED[0])
        with pytest.raises(DataError, match=r"holds an array of shape \(4, 2\); a structured array"):
            read_events(tmp_path, files=["e.npy"], variables=["x1"])

    @pytest.mark.parametrize("name", ["e.npy", "e.npz"])
    def test_pickles_are_refused(self, tmp_path, name):
        array = np.array([{"a": 1}, None], dtype=object)
        np.save(tmp_path / name, array) if name.endswith("npy") else np.savez(tmp_path / name, x=array)
        with pytest.raises(DataError, match=r"cannot be read as NumPy.*allow_pickle=False"):
            read_events(tmp_path, files=[name], variables=["x"])


class TestHDF5:
    def test_a_group_of_steps_that_share_their_offsets(self, tmp_path):
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file["jets/y"] = Y
            file["jets/tracks/offsets"] = OFFSETS
            file["jets/tracks/pt"] = PT
            file["jets/tracks/eta"] = ETA
        s = read_events(tmp_path, files=["e.h5"], variables=["tracks.pt", "tracks.pt * tracks.eta"], **LABELS)
        np.testing.assert_array_equal(s.offsets, OFFSETS)
        np.testing.assert_array_equal(s.values[:, 1], (PT.astype(float) * ETA).astype(np.float32))

    def test_compound_datasets(self, tmp_path):
        """The layout of flavour tagging: jets [B], tracks [B, T] with a field `valid`."""
        jets = np.zeros(N, dtype=[("pt", np.float32), ("y", np.int32)])
        jets["pt"], jets["y"] = EVENTS["jet_pt"], Y
        tracks = np.zeros(MASK.shape, dtype=[("pt", np.float32), ("eta", np.float16), ("valid", bool)])
        tracks["pt"][MASK], tracks["valid"] = PT, MASK
        cells = np.zeros((N, 3), dtype=[("e", np.float32)])
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file["jets"], file["tracks"], file["cells"] = jets, tracks, cells
        labels = {"a": "jets.y == 0", "b": "jets.y == 1"}
        s = read_events(
            tmp_path, files=["e.h5"], variables=["tracks.pt / jets.pt", "tracks.eta"], labels=labels
        )
        np.testing.assert_array_equal(s.offsets, OFFSETS)
        want = PT / np.repeat(EVENTS["jet_pt"], LENGTHS).astype(np.float64)
        np.testing.assert_array_equal(s.values[:, 0], want.astype(np.float32))
        assert (
            read_events(tmp_path, files=["e.h5"], variables=["cells.e"], labels=labels).lengths.tolist()
            == [3] * N
        )

    def test_a_group_by_name(self, tmp_path):
        with h5py.File(tmp_path / "e.h5", "w") as file:
            for group in ("one", "two/deeper"):
                file[f"{group}/x"] = np.full((2, 1), len(group))
                file[f"{group}/y"] = np.arange(2)
        s = read_events(tmp_path, files=["e.h5"], treename="two/deeper", variables=["x"], **LABELS)
        assert s.values.ravel().tolist() == [10, 10]
        s = read_events(
            tmp_path, files=["e.h5"], variables=["one.x"], labels={"a": "one.y == 0", "b": "one.y == 1"}
        )
        assert s.values.ravel().tolist() == [3, 3]

    @pytest.mark.parametrize(
        ("offsets", "pt", "message"),
        [
            ([0, 2, 1, 3], np.ones(3), "'/g/pt': offsets fall from 2 to 1 at sequence 1"),
            ([0, 1, 2], np.ones((2, 2)), r"'/g/pt' has shape \(2, 2\)"),
        ],
    )
    def test_steps_that_do_not_fit(self, tmp_path, offsets, pt, message):
        with h5py.File(tmp_path / "e.h5", "w") as file:
            file["g/offsets"], file["g/pt"], file["y"] = offsets, pt, np.arange(len(offsets) - 1)
        with pytest.raises(DataError, match=message):
            read_events(tmp_path, files=["e.h5"], variables=["g.pt"], **LABELS)


class TestROOT:
    def test_names_are_those_that_uproot_shows(self, tmp_path):
        with uproot.recreate(tmp_path / "e.root") as file:
            file.mktree("t", {"pt": "var * float32", "y": np.int32}).extend({"pt": jagged(PT), "y": Y})
        with open_table(tmp_path / "e.root", None, None) as table:
            assert table.names == ("npt", "pt", "y")
            assert table.n_events == N
            assert table.where == f"{tmp_path / 'e.root'}: tree 't'"

    def test_a_branch_within_a_branch_by_its_own_name(self):
        # uproot cannot write such trees; this is what it lists of one.
        listed = {"Muon": 0, "Muon/Muon.pt": 1, "Jet/Jet.pt": 2, "Jet/id": 3, "Muon/id": 4, "Tau/Muon": 5}
        names = _branches(listed, is_rntuple=False)
        assert names == listed | {"Muon.pt": 1, "Jet.pt": 2}

    def test_all_baskets_are_read(self, tmp_path):
        with uproot.recreate(tmp_path / "e.root") as file:
            tree = file.mktree("t", {"pt": "var * float32", "y": np.int32})
            for _ in range(3):
                tree.extend({"pt": jagged(PT), "y": Y})
        s = read_events(tmp_path, files=["e.root"], variables=["pt"], **LABELS)
        np.testing.assert_array_equal(s.values[:, 0], np.tile(PT, 3))
        assert len(s) == 3 * N


def test_parts_of_a_parquet_file_in_any_order(tmp_path):
    """Rows of groups that are passed over, and of groups that a part begins or ends in."""
    lengths = np.random.default_rng(0).integers(0, 5, 1000)
    steps = jagged(np.arange(lengths.sum()), lengths)
    table = {"n": pa.array(np.arange(1000)), "steps": ak.to_arrow(steps, extensionarray=False)}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "e.parquet", row_group_size=70)
    parts = [(0, 3), (3, 70), (70, 71), (300, 500), (560, 561), (629, 1000), (5, 900), (999, 1000)]
    with open_table(tmp_path / "e.parquet", None, None) as read:
        for start, stop in parts:
            part = read.part(start, stop)
            np.testing.assert_array_equal(part.read("n").values, np.arange(start, stop))
            column, want = part.read("steps"), steps[start:stop]
            np.testing.assert_array_equal(column.values, ak.to_numpy(ak.flatten(want)))
            np.testing.assert_array_equal(np.diff(column.offsets), ak.num(want))
