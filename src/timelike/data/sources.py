"""Which files are read, as what, and which class their events belong to."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from timelike.data.hdf5 import open_hdf5
from timelike.data.numpy import open_numpy
from timelike.data.parquet import open_parquet
from timelike.data.root import open_root
from timelike.data.table import Table
from timelike.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from timelike.config import DataConfig

__all__ = [
    "Source",
    "check_not_an_input",
    "find_files",
    "format_of",
    "has_known_suffix",
    "natural_order",
    "open_table",
    "sources_of",
    "tree_of",
]

_READERS = {"root": open_root, "parquet": open_parquet, "hdf5": open_hdf5, "numpy": open_numpy}
_FORMATS = {
    ".root": "root",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "numpy",
    ".npy": "numpy",
}
_ONE_TABLE = (".parquet", ".pq", ".npz", ".npy")  # such a file has no trees to choose from


@dataclass(frozen=True)
class Source:
    """Files that are read in the same way.

    Parameters
    ----------
    files : tuple of Path
        In the order they are read in.
    treename : str, optional
        The table in each.
    selections : tuple of (key, expression)
        Conditions that an event must meet, all of them, and where in the config they stand.
    weights : (key, expression), optional
        The event weight.
    label : int, optional
        The class index of all its events; without it, the labels are in the files.
    """

    files: tuple[Path, ...]
    treename: str | None
    selections: tuple[tuple[str, str], ...]
    weights: tuple[str, str] | None
    label: int | None = None


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names so that numbers in them count as numbers.

    Examples
    --------
    >>> natural_order(["t10", "t9", "t1"])
    ['t1', 't9', 't10']
    """
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


def find_files(patterns: Iterable[str | Path], base: Path) -> tuple[Path, ...]:
    """Find the files of paths and globs.

    Parameters
    ----------
    patterns : iterable of str or path
        Paths, or globs (``*``, ``?``, ``[...]``, ``**``), whose files come in natural order.
    base : pathlib.Path
        What relative ones are relative to.

    Returns
    -------
    tuple of Path

    Raises
    ------
    DataError
        If a file does not exist or is a directory, a glob matches no file, or a file is given twice.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        path = base / Path(pattern).expanduser()
        for file in [path] if path.exists() or not glob.has_magic(str(path)) else _matches(path):
            if file.is_dir():
                raise DataError(
                    f"{file}: is a directory; a glob such as {file / '*.root'} gives the files in it"
                )
            if not file.exists():
                raise DataError(f"{file}: no such file{_near_files(file)}")
            if found.setdefault(file.resolve(), file) is not file:
                raise DataError(f"{file}: given twice; its events would count twice")
    return tuple(found.values())


def _matches(pattern: Path) -> Iterator[Path]:
    files = [f for f in natural_order(glob.glob(str(pattern), recursive=True)) if not Path(f).is_dir()]
    if not files:
        raise DataError(f"{pattern}: matches no file")
    return map(Path, files)


def _near_files(file: Path) -> str:
    if not file.parent.is_dir():
        return f" (there is no directory {file.parent})"
    others = [other.name for other in file.parent.iterdir() if other.suffix in _FORMATS]
    return f"; {nearest(file.name, others)}" if others else ""


def has_known_suffix(path: Path) -> bool:
    """Whether the suffix of a file tells its format."""
    return path.suffix.lower() in _FORMATS


def open_table(path: Path, kind: str | None, treename: str | None) -> AbstractContextManager[Table]:
    """Open a file with the reader of its format.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    kind : str, optional
        "root", "parquet", "hdf5" or "numpy"; by the suffix when not given.
    treename : str, optional
        The table in it.

    Raises
    ------
    DataError
        If the suffix is of no format, or the file cannot be read.
    """
    return _READERS[format_of(path, kind)](path, treename)


def format_of(path: Path, kind: str | None) -> str:
    """Give the format of a file: the one that is given, else that of its suffix.

    Raises
    ------
    DataError
        If the suffix is of no format.
    """
    if kind is not None:
        return kind
    if not has_known_suffix(path):
        known = ", ".join(_FORMATS)
        raise DataError(
            f"{path}: the suffix '{path.suffix}' is of no known format ({known}); say it by data.format"
        )
    return _FORMATS[path.suffix.lower()]


def tree_of(data: DataConfig, files: Sequence[Path], given: str | None) -> str | None:
    """Tell which tree is read of files that are given in place of the training's.

    Parameters
    ----------
    data : DataConfig
        Section `data` of the training's config.
    files : sequence of Path
        The files.
    given : str, optional
        The tree that was asked for; by default it is the training's, and none where no file has trees.
    """
    if given is None and not all(path.suffix.lower() in _ONE_TABLE for path in files):
        return data.treename
    return given


def sources_of(
    data: DataConfig, *, files: Sequence[Path] | None, base: Path, labelled: bool
) -> tuple[Source, ...]:
    """Give what is read for a config.

    Parameters
    ----------
    data : DataConfig
        Section `data` of a config.
    files : sequence of Path, optional
        Files in place of those of the config, relative to the current folder.
    base : pathlib.Path
        What the files of the config are relative to.
    labelled : bool
        Whether classes and weights are needed.

    Returns
    -------
    tuple of Source
        One for each class, where each has its own; else one.

    Raises
    ------
    DataError
        If files are not found, or would be read as more than one class.
    """
    instead = None if files is None else find_files(files, Path())
    common = [("data.selection", data.selection)] if data.selection else []
    weights = ("data.weights", data.weights) if data.weights and labelled else None
    if not data.classes or (not labelled and instead is not None):
        # Files of unknown class are read as one source: no class's own tree or selection is meant for them.
        own = instead if instead is not None else find_files(data.files, base)
        return (Source(own, data.treename, tuple(common), weights),)
    sources = []
    for label, (name, given) in enumerate(data.classes.items()):
        key = f"data.classes.{name}"
        selection = [(f"{key}.selection", given.selection)] if given.selection else []
        sources.append(
            Source(
                instead if instead is not None else find_files(given.files or data.files, base),
                given.treename or data.treename,
                tuple(common + selection),
                (f"{key}.weights", given.weights) if given.weights and labelled else weights,
                label if labelled else None,
            )
        )
    _check_distinct(sources, list(data.classes))
    return tuple(sources)


def _check_distinct(sources: Sequence[Source], names: Sequence[str]) -> None:
    """Refuse that one and the same events are read as two classes."""
    seen: dict[object, str] = {}
    for source, name in zip(sources, names, strict=True):
        for file in source.files:
            events = (file.resolve(), source.treename, source.selections)
            other = seen.setdefault(events, name)
            if other != name:
                raise DataError(
                    f"{file}: would be read as class '{other}' and as class '{name}'; "
                    "give them different files, treename or selection"
                )


def check_not_an_input(output: Path, files: Sequence[Path]) -> None:
    """Refuse to replace a file of events by what is made of it: the events would be lost.

    Raises
    ------
    ConfigError
    """
    for file in files:
        if output.exists() and output.samefile(file):
            raise ConfigError(f"cannot write {output}: it is an input file; give the output another name")
