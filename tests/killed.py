"""Train a config, and be killed at the n-th thing that happens: ``python killed.py CONFIG N``.

Things that happen: a step, a file of which one half is written, and a file that is renamed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from timelike.train import train
from timelike.trainingstep import TrainingStep

left = 0


def one_more(before_the_end: Any = lambda: None) -> None:
    """Count, and at the last be killed as by a batch system."""
    global left
    left -= 1
    if left == 0:
        before_the_end()
        os.kill(os.getpid(), signal.SIGKILL)


def counted(function: Any) -> Any:
    def wrapped(*given: Any, **named: Any) -> Any:
        one_more()
        return function(*given, **named)

    return wrapped


write_bytes = Path.write_bytes


def half(path: Path, content: bytes) -> int:
    one_more(lambda: write_bytes(path, content[: len(content) // 2]))
    return write_bytes(path, content)


if __name__ == "__main__":
    left = int(sys.argv[2])
    TrainingStep.take = counted(TrainingStep.take)  # type: ignore[method-assign]
    os.replace = counted(os.replace)
    Path.write_bytes = half  # type: ignore[method-assign, assignment]
    train(sys.argv[1], resume=True)
