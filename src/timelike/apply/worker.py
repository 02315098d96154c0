"""A process that scores pieces: ``python -m timelike.apply.worker``, started by `timelike.apply.workers`.

It reads lines of JSON from standard input and answers each with one, until its input ends. What libraries
print goes to the error stream.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from timelike.apply.pieces import Piece
from timelike.apply.scoring import PieceScorer
from timelike.errors import TimelikeError

__all__ = ["main"]


def main() -> None:
    """Answer requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when its parent does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    setup: dict[str, Any] = json.loads(sys.stdin.readline())
    scorer: PieceScorer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if scorer is None:
                scorer = PieceScorer.again(setup)
            part = scorer.score(Piece(**request["piece"]), Path(request["path"]))
            answer: dict[str, Any] = {"part": vars(part)}
        except TimelikeError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # the parent was killed; the part is there for the next run
            return


if __name__ == "__main__":
    main()
