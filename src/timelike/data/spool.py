"""A spool: transformed events on a local disk, so that files need to be unpacked in the first epoch only.

Reading a piece of a compressed file takes several times as long as learning from it. The first time that a
piece is read its arrays, transformed, go as they are to one file; later they come from there, the same to
the bit. The file has no name: it is gone when it is closed or the process ends, however that ends, and a
training that is resumed begins a new one.

A disk that gets full ends the spool and not the training: what was written is given back, and the files are
read anew in every epoch, as without a spool. What is in memory is the same with or without.

Where nobody has asked for a spool there is one if it is in nobody's way, which `refusal` decides: on a disk
of this machine, since memory is what a stream is to spare and what comes over a network may be as slow as the
files; and if one half of what is free remains for checkpoints and for others.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Hashable
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple

import numpy as np

from timelike.sequences import Sequences

__all__ = ["Spool", "described", "file_system", "refusal", "spool_folder"]

# What is not known to be a disk of this machine may be memory, or far away.
_LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "reiserfs", "xfs", "zfs")
)
_MOUNTINFO = Path("/proc/self/mountinfo")  # of Linux
_MOUNT = re.compile(r"^(?:[^ \n]+ ){4}([^ \n]+) .*? - ([^ \n]+)", re.MULTILINE)  # where, and of which type

_ARRAYS = ("values", "offsets", "labels", "weights", "targets", "step_labels", "step_targets")


class _Place(NamedTuple):
    """Where an array lies in the file."""

    at: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Spool:
    """Pieces of events in a file, by whatever key each was given.

    Used by one thread at a time.

    Parameters
    ----------
    folder : Path
        Where the file is.
    largest : int
        Bytes that it may become: where less is free, nothing is written.

    Raises
    ------
    OSError
        If no file can be made there.

    Examples
    --------
    >>> spool = Spool(Path(tempfile.gettempdir()), 1000)
    >>> spool.put("first", Sequences(np.ones((3, 2)), [0, 1, 3], names=["pt", "eta"], labels=[0, 1]))
    >>> "first" in spool, "second" in spool
    (True, False)
    >>> spool.get("first").labels
    array([0, 1])
    >>> spool.close()
    """

    def __init__(self, folder: Path, largest: int) -> None:
        self._folder, self._news = folder, ""
        self._pieces: dict[Hashable, tuple[tuple[str, ...], dict[str, _Place]]] = {}
        self._file: IO[bytes] | None = None
        self.size = 0  # bytes
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        free = shutil.disk_usage(folder).free
        if largest > free:
            self._end(f"only {described(free)} are free, {described(largest)} may be needed")

    def __contains__(self, key: Hashable) -> bool:
        return key in self._pieces

    def put(self, key: Hashable, events: Sequences) -> None:
        """Write events, if the spool has not ended."""
        if self._file is None:
            return
        places, size = {}, self.size
        try:
            self._file.seek(size)
            for name in _ARRAYS:
                array = getattr(events, name)
                if array is None:
                    continue
                places[name] = _Place(size, array.dtype, array.shape)
                size += self._file.write(np.ascontiguousarray(array).data.cast("B")) if array.size else 0
            self._file.flush()
        except OSError as error:
            self._end(f"{error.strerror}, after {described(self.size)}")
            return
        self._pieces[key], self.size = (events.names, places), size

    def get(self, key: Hashable) -> Sequences:
        """Read events."""
        names, places = self._pieces[key]
        assert self._file is not None
        found: dict[str, Any] = {}
        for name, (at, dtype, shape) in places.items():
            array = np.empty(shape, dtype)
            self._file.seek(at)
            if array.size and self._file.readinto(array.data.cast("B")) != array.nbytes:  # type: ignore[attr-defined]
                raise OSError(f"{self._folder}: the spool is shorter than what was written")
            found[name] = array
        return Sequences(names=names, **found)

    def news(self) -> str:
        """Say once why the spool has ended; nothing, where it has not."""
        news, self._news = self._news, ""
        return news

    def close(self) -> None:
        """Take the file away."""
        self._pieces = {}
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def __del__(self) -> None:
        self.close()

    def _end(self, why: str) -> None:
        self._news = f"spool in {self._folder}: {why}; the files are read anew in every epoch"
        try:
            self.close()
        except OSError:  # what is left in its buffer finds no room either; the file is closed nevertheless
            self._pieces = {}


def spool_folder(given: bool | str, base: Path, run_folder: Path) -> Path:
    """Give the folder of the spool of a config.

    Parameters
    ----------
    given : bool or str
        As in the config. With True or "auto" it is ``$TMPDIR``, which farms set to a disk of the machine,
        and without that the folder that has the run's: not that of `tempfile`, which may be memory.
    base : Path
        Where relative paths start.
    run_folder : Path
    """
    if isinstance(given, str) and given != "auto":
        return base / given
    if told := os.environ.get("TMPDIR"):
        return Path(told)
    return next(folder for folder in run_folder.absolute().parents if folder.is_dir())


def refusal(folder: Path, largest: int) -> str:
    """Say why a folder is to have no spool that nobody has asked for; nothing, where it may have one.

    Parameters
    ----------
    folder : Path
    largest : int
        Bytes that all spools of a training may become on this machine.

    Raises
    ------
    OSError
        If the folder is not there.
    """
    free = shutil.disk_usage(folder).free  # first, as what is mounted on demand is mounted by it
    kind = file_system(folder.resolve(), _mountinfo())
    if not kind:
        return f"this system does not tell whether {folder} is on a local disk"
    if kind not in _LOCAL:
        return f"{folder} is on {kind}, no local disk"
    if 2 * largest > free:
        return f"{described(largest)} may be needed, more than half of {described(free)} free in {folder}"
    return ""


def file_system(folder: PurePath, mountinfo: str) -> str:
    r"""Give the type of the file system that a folder is in.

    Parameters
    ----------
    folder : path
        Absolute, without links.
    mountinfo : str
        The mounts, as Linux lists them in ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).

    Returns
    -------
    str
        Nothing, where no mount has the folder.

    Examples
    --------
    >>> mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:9 / /my\\040jets rw - nfs4 server:/jets rw\n"
    >>> file_system(PurePath("/home/runs"), mounts), file_system(PurePath("/my jets/runs"), mounts)
    ('ext4', 'nfs4')
    """
    found, depth = "", 0
    for where, kind in _MOUNT.findall(mountinfo):
        mount = PurePath(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), where))
        # Of several at one place the last lies on top.
        if folder.is_relative_to(mount) and len(mount.parts) >= depth:
            found, depth = kind, len(mount.parts)
    return found


def _mountinfo() -> str:
    try:
        return os.fsdecode(_MOUNTINFO.read_bytes())
    except OSError:  # of another system
        return ""


def described(n_bytes: int) -> str:
    """Give a size for people.

    Examples
    --------
    >>> described(1234), described(56_789_000)
    ('1.2 kB', '57 MB')
    """
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.2g} {unit}" if size < 100 else f"{size:.0f} {unit}"
