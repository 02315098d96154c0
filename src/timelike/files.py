"""Writing a file so that it is either there whole or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timelike.errors import ConfigError

__all__ = ["replacing", "shown"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` if the block ends well.

    Whoever opens `path` sees the old file or the whole new one, never a half of it. On an error the
    temporary file is removed and the old file stays as it was.

    Parameters
    ----------
    path : str or path
        The file to write. Its folder must exist.

    Yields
    ------
    pathlib.Path
        ``path`` with ``.part`` added; nothing is there yet. The block must write it.

    Raises
    ------
    ConfigError
        If a file cannot be written there, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "numbers.txt") as part:
    ...     _ = part.write_text("1 2 3")
    >>> [entry.name for entry in folder.iterdir()]
    ['numbers.txt']
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a directory")
    part = path.with_name(path.name + ".part")
    # Asked before the work, not after: the block may have minutes of it.
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def shown(path: Path) -> Path:
    """Give a path as seen from here where that is shorter."""
    relative = Path(os.path.relpath(path))
    return relative if len(str(relative)) < len(str(path)) else path
