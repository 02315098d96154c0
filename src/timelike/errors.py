"""Errors that are the user's to mend: one line, saying what was given, what is possible, and where.

The command line prints such an error as that one line and exits with code 2; anything else that is
raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "ConfigError",
    "DataError",
    "ExportError",
    "MissingExtraError",
    "ModelFileError",
    "TimelikeError",
    "nearest",
    "printable",
    "require",
]


class TimelikeError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(TimelikeError, ValueError):
    """A config, or an option given in its place, cannot be carried out."""


class DataError(TimelikeError, ValueError):
    """A file or an array does not hold what was asked of it."""


class ExportError(TimelikeError, ValueError):
    """A format cannot express a network, or what was made of it computes something else."""


class ModelFileError(TimelikeError, ValueError):
    """A model file is damaged, foreign, or from a newer version."""


class MissingExtraError(TimelikeError, ImportError):
    """A library is needed that the chosen install does not bring."""


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Say which known names are nearest to a name that is not known.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        What is possible.
    most : int
        How many names to give at most.

    Returns
    -------
    str
        "nearest: 'a', 'b'", or "known: ..." with the first ten names where none is near.

    Examples
    --------
    >>> nearest("part_tp", ["part_pt", "part_eta", "jet_mass"])
    "nearest: 'part_pt', 'part_eta'"
    """
    names = [str(k) for k in known]
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    if close:
        return "nearest: " + ", ".join(repr(c) for c in close)
    if not names:
        return "none exist"
    shown = ", ".join(repr(n) for n in names[:10])
    return f"known: {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def printable(text: str) -> str:
    r"""Write out what a terminal would obey; names come from files, and files from anyone.

    Parameters
    ----------
    text : str
        Of one or several lines.

    Examples
    --------
    >>> print(printable("m_\N{GREEK SMALL LETTER TAU}, \x1b[2J"))
    m_τ, \x1b[2J
    """
    return "".join(
        letter if letter == "\n" or letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )


def require(module: str, extra: str) -> ModuleType:
    """Import a library that an extra brings, or say which extra that is.

    Parameters
    ----------
    module : str
        Name of the module to import.
    extra : str
        Name of the extra, as in ``pip install timelike[extra]``.

    Raises
    ------
    MissingExtraError
        If the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module.partition('.')[0]}, which is not installed: "
            f"pip install 'timelike[{extra}]' ({error})"
        ) from error
