"""The command line. `main` turns what went wrong into one line and an exit code.

Exit codes: 0 done, 2 an error that the user can mend, 130 interrupted. Anything else that is raised is a
defect of ours and keeps its traceback. The commands are in `timelike.commands`; each is a plain Python
function too: `timelike.train.train`, `timelike.runs.evaluate_run`, `timelike.apply.apply`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from timelike.errors import TimelikeError, printable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process when not given.

    Returns
    -------
    int
        The exit code.
    """
    try:
        from timelike.commands import run

        return run(list(sys.argv[1:] if argv is None else argv))
    except TimelikeError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "timelike"):
            raise
        return _failed(f"this needs {missing}, which is not installed: pip install 'timelike[train]'")
    except BrokenPipeError:
        # whoever read our output has closed; keep the interpreter from complaining as it flushes
        sys.stdout = None
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{(error.strerror or str(error)).lower()}")
    except KeyboardInterrupt as interrupt:
        print(f"timelike: interrupted{': ' if str(interrupt) else ''}{interrupt}", file=sys.stderr)
        return 130


def _failed(message: str) -> int:
    print(f"timelike: error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
