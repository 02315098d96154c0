"""ROOT files: TTree and RNTuple, read by uproot."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from timelike.data.table import Column, Table, column_from_awkward, reading
from timelike.errors import DataError, nearest, require

__all__ = ["open_root"]

_TABLES = ("TTree", "TNtuple", "TNtupleD", "TChain", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")


@contextmanager
def open_root(path: Path, treename: str | None) -> Iterator[Table]:
    """Open a TTree or an RNTuple of a ROOT file.

    Branches are called by their names as uproot shows them: ``part_pt``, ``Muon.pt``, and for RNTuples
    the path of a field, ``Muon.pt``.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    treename : str, optional
        Path of the tree in the file; may be left out where the file holds one only.

    Yields
    ------
    Table

    Raises
    ------
    DataError
        If the file is truncated or not a ROOT file, or has no such tree.
    """
    uproot = require("uproot", "data")
    _check_header(path)
    with reading(path, "ROOT"):
        # As a Path, not as text, in which a colon would part the file from the tree.
        file = uproot.open(path)
    with file:
        with reading(path, "ROOT"):
            classes = file.classnames(recursive=True, cycle=False)
        name = _chosen(path, classes, treename)
        with reading(path, "ROOT"):
            tree = file[name]
            branches = _branches(tree, is_rntuple="RNTuple" in classes[name])
            n_events = int(tree.num_entries)

        def fetch(branch: str) -> Column:
            with reading(f"branch '{branch}'", "ROOT"):
                array = branches[branch].array(library="ak")
            return column_from_awkward(array, f"branch '{branch}'")

        @cache
        def units() -> Sequence[int]:
            with reading(path, "ROOT"):
                return _units(tree, is_rntuple="RNTuple" in classes[name])

        held: dict[str, tuple[int, int, Any]] = {}  # of each branch what was unpacked beyond what was asked

        def fetch_part(branch: str, start: int, stop: int) -> Column:
            first, end, array = held.get(branch, (0, 0, None))
            if not first <= start < stop <= end:
                held.pop(branch, None)
                ends = [*units(), n_events]
                # A unit is unpacked as a whole, and once: what is asked for next is likely in it.
                first, end = start, max(stop, ends[bisect_right(ends, start)])
                with reading(f"branch '{branch}'", "ROOT"):
                    # No cache: uproot would keep 100 MB of what is not asked for again.
                    array = branches[branch].array(
                        entry_start=first, entry_stop=end, library="ak", array_cache=None
                    )
                if end > stop:
                    held[branch] = first, end, array
            with reading(f"branch '{branch}'", "ROOT"):
                part = array[start - first : stop - first]
            return column_from_awkward(part, f"branch '{branch}'", first=start)

        yield Table(
            f"{path}: tree '{name}'", tuple(branches), n_events, fetch, "branch", fetch_part, units=units
        )


def _branches(tree: Any, *, is_rntuple: bool) -> dict[str, Any]:
    """Give the branches or fields of a tree by name."""
    if is_rntuple:
        # Not keys(): its time grows with the square of the number of fields (8 s for the 1,772 of PHYSLITE).
        return {field.path: field for field in tree.all_fields if field.path}
    branches = dict(tree.items())
    # A branch within a branch is listed by its path; its own name will do where it is the only one of it.
    inner = [(path.rpartition("/")[2], branch) for path, branch in branches.items() if "/" in path]
    uses = Counter(name for name, _ in inner)
    branches.update({n: branch for n, branch in inner if uses[n] == 1 and n not in branches})
    return branches


def _units(tree: Any, *, is_rntuple: bool) -> list[int]:
    """Give where an RNTuple's clusters begin, or the baskets of that branch of a TTree that has the most."""
    if is_rntuple:
        return [int(cluster.num_first_entry) for cluster in tree.cluster_summaries]
    largest = max(tree.branches, key=lambda branch: branch.num_baskets, default=None)
    return [] if largest is None else [int(entry) for entry in largest.entry_offsets[:-1]]


def _check_header(path: Path) -> None:
    """Compare the size that the file's header gives with the one it has.

    Without this, what is said of a truncated file depends on what happened to stand at its end.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    if head[:4] != b"root":
        raise DataError(f"{path}: not a ROOT file (it begins with {head[:4]!r})")
    if len(head) < 20:
        raise DataError(f"{path}: truncated, it has {size} bytes")
    # TFile's header, big-endian: "root", fVersion, fBEGIN, fEND; fEND has 8 bytes in files past 2 GB.
    version: int = struct.unpack(">i", head[4:8])[0]
    end: int = (
        struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else struct.unpack(">i", head[12:16])[0]
    )
    if size < end:
        raise DataError(f"{path}: truncated, its header speaks of {end} bytes and it has {size}")


def _chosen(path: Path, classes: dict[str, str], treename: str | None) -> str:
    """Give the path of the tree that is asked for, or of the only one."""
    trees = [name for name, kind in classes.items() if kind in _TABLES]
    if treename is None:
        if len(trees) == 1:
            return trees[0]
        if not trees:
            raise DataError(f"{path}: holds no TTree and no RNTuple")
        listed = ", ".join(repr(t) for t in trees[:10]) + (", ..." if len(trees) > 10 else "")
        raise DataError(f"{path}: holds {len(trees)} trees ({listed}); say which one by treename")
    wanted = treename.strip("/").partition(";")[0]
    if wanted in trees:
        return wanted
    if wanted in classes:
        raise DataError(
            f"{path}: '{treename}' is a {classes[wanted]}, not a TTree or RNTuple; {nearest(wanted, trees)}"
        )
    raise DataError(f"{path}: no tree '{treename}'; {nearest(wanted, trees)}")
