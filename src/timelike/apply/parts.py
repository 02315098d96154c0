"""The folder of finished pieces beside the table that is made: what an interrupted run goes on from.

For the table ``scores.root`` it is ``scores.root.parts``. A part is an .npz file, called by a number that
changes with all that its columns depend on: the model, the version and instruction set of timelike, the
options, the file with its size and time of change, and the entries. What has another name is of another run,
and is removed. A part is there whole or not at all, and the folder goes when the table is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import __version__, kernels
from timelike.apply.pieces import Piece
from timelike.data.table import Column, reading
from timelike.data.write import Columns
from timelike.errors import ConfigError
from timelike.files import replacing

if sys.platform != "win32":
    import fcntl

__all__ = ["Part", "Parts", "file_digest", "piece_key", "read_part", "write_part"]

_LOCK = "in-use"
_MODEL = "model.safetensors"


@dataclass(frozen=True)
class Part:
    """What a part says of itself.

    Attributes
    ----------
    n_events, n_rows : int
        Events of the table, and steps that the network read of them.
    variables : tuple of str
    types : mapping of str to str
        Type of each column.
    """

    n_events: int
    n_rows: int
    variables: tuple[str, ...]
    types: Mapping[str, str]


def file_digest(path: Path) -> str:
    """Give a number that changes with any byte of a file."""
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def piece_key(piece: Piece, belongs_to: Mapping[str, Any]) -> str:
    """Give a number that changes with all that the columns of a piece depend on.

    Parameters
    ----------
    piece : Piece
    belongs_to : mapping
        Model and options.
    """
    file = Path(piece.file).resolve()
    about = file.stat()
    given = [__version__, kernels.isa(), dict(belongs_to), asdict(piece) | {"file": str(file)}]
    text = json.dumps([*given, about.st_size, about.st_mtime_ns], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_part(path: Path, columns: Columns, *, n_rows: int, variables: tuple[str, ...]) -> Part:
    """Write the columns of a piece.

    Parameters
    ----------
    path : pathlib.Path
    columns : Columns
    n_rows : int
        Steps that the network read.
    variables : tuple of str

    Raises
    ------
    ConfigError
        If it cannot be written there.
    """
    arrays: dict[str, npt.NDArray[Any]]
    arrays = {f"c{k}": c.values if isinstance(c, Column) else c for k, c in enumerate(columns.values())}
    jagged = [name for name, column in columns.items() if isinstance(column, Column)]
    offsets = next((c.offsets for c in columns.values() if isinstance(c, Column)), None)
    types = {name: array.dtype.str for name, array in zip(columns, arrays.values(), strict=True)}
    part = Part(len(arrays["c0"]), n_rows, variables, types)
    about = json.dumps({**asdict(part), "jagged": jagged})
    if offsets is not None:
        arrays["offsets"] = offsets
    # A name of this process's own: one whose parent was killed may still be at the same piece.
    own = path.with_name(f"{path.stem}-{os.getpid()}")
    arrays["about"] = np.array(about)
    with replacing(own) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    own.replace(path)
    return part


def read_part(path: Path) -> tuple[Part, Columns]:
    """Read what `write_part` wrote.

    Raises
    ------
    DataError
        If it is damaged.
    """
    with reading(path, "a part of a table"), np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        jagged, offsets = set(about.pop("jagged")), file.get("offsets")
        columns = {}
        for k, name in enumerate(about["types"]):
            columns[name] = Column(file[f"c{k}"], offsets) if name in jagged else file[f"c{k}"]
        part = Part(**(about | {"variables": tuple(about["variables"])}))
    return part, columns


class Parts:
    """The folder of the parts of a table.

    Parameters
    ----------
    folder : pathlib.Path
        Made by `opened`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextmanager
    def opened(cls, output: Path) -> Iterator[Parts]:
        """Make the folder for a table, or take the one that is there; in a block, for this run alone.

        Without finished parts it is removed at the end of the block.

        Raises
        ------
        ConfigError
            If it cannot be made there, is something else, or another run has it.
        """
        folder = output.with_name(output.name + ".parts")
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).exists()):
            raise ConfigError(
                f"cannot write {output}: its parts would go to {folder}, which is something else"
            )
        try:
            folder.mkdir(exist_ok=True)
            lock = (folder / _LOCK).open("w")
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {folder}: {error.strerror}") from error
        with lock:
            if sys.platform != "win32":
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigError(f"cannot write {output}: another run is at it ({folder})") from None
            parts = cls(folder)
            try:
                yield parts
            finally:
                if folder.is_dir() and not any(folder.glob("*.npz")):
                    parts.remove()

    @property
    def model(self) -> Path:
        """Where a model goes that has no file of its own."""
        return self.folder / _MODEL

    def path(self, key: str) -> Path:
        """Give the path of a part."""
        return self.folder / f"{key}.npz"

    def keep(self, paths: Iterable[Path]) -> None:
        """Remove all but these parts and the model."""
        wanted = {path.name for path in paths} | {_LOCK, _MODEL}
        for file in self.folder.iterdir():
            if file.name not in wanted:
                file.unlink()

    def remove(self) -> None:
        """Remove the folder and all that is ours in it."""
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()
