"""Apply, and be killed at the n-th thing that happens: ``python applied_killed.py N MODEL OUT FILE...``.

Things that happen: a file is renamed, and an array of a part of which one half is written.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import numpy as np

from timelike.apply import apply

left = 0


def one_more(before_the_end: Any = lambda: None) -> None:
    """Count, and at the last be killed as by a batch system."""
    global left
    left -= 1
    if left == 0:
        before_the_end()
        os.kill(os.getpid(), signal.SIGKILL)


replace, savez = os.replace, np.savez


def renamed(*given: Any) -> None:
    one_more()
    replace(*given)


def half(file: Any, **arrays: Any) -> None:
    one_more(lambda: (file.write(b"half"), file.flush()))
    savez(file, **arrays)


if __name__ == "__main__":
    left = int(sys.argv[1])
    os.replace, np.savez = renamed, half  # type: ignore[assignment]
    done = apply(sys.argv[2], sys.argv[4:], sys.argv[3], piece=10)
    print(done.n_pieces, done.n_resumed)
