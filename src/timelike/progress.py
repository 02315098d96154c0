"""Showing how a training goes: a live bar on a terminal, plain lines elsewhere, or nothing.

`on(stream)` chooses. Whatever implements `Progress` can be given to `timelike.train.train`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from timelike.errors import require

__all__ = ["Bar", "Lines", "Progress", "Silent", "on"]


class Progress(Protocol):
    """What a training tells while it runs."""

    def say(self, text: str) -> None:
        """Take a line about the data or the network."""

    def start(self, epochs: int, batches: int, *, first: int = 1) -> None:
        """Take the numbers of the last epoch and of the first, and how many batches each has."""

    def batch(self) -> None:
        """Take note of one more batch done."""

    def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
        """Take the numbers of an epoch, and whether it is the best so far."""

    def stop(self) -> None:
        """Take note of the end, also of one that came early."""


class Silent:
    """Show nothing."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def start(self, epochs: int, batches: int, *, first: int = 1) -> None:
        """Do nothing."""

    def batch(self) -> None:
        """Do nothing."""

    def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class Lines(Silent):
    """One plain line per epoch, for log files and pipes.

    Parameters
    ----------
    stream : text stream
        Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.epochs = 0

    def say(self, text: str) -> None:
        """Write the line."""
        print(text, file=self.stream, flush=True)

    def start(self, epochs: int, batches: int, *, first: int = 1) -> None:
        """Remember how many epochs there are at most."""
        self.epochs = epochs

    def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
        """Write the epoch's line."""
        self.say(epoch_line(record, self.epochs, improved=improved))


class Bar(Lines):
    """A live bar with the time left, below one line per epoch.

    Parameters
    ----------
    stream : text stream
        A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        console = require("rich.console", "train").Console(file=stream, highlight=False)
        bars = require("rich.progress", "train")
        self._bar: Any = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            bars.TaskProgressColumn(),
            bars.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None

    def say(self, text: str) -> None:
        """Write the line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def start(self, epochs: int, batches: int, *, first: int = 1) -> None:
        """Show the bar."""
        super().start(epochs, batches, first=first)
        total = (epochs - first + 1) * batches
        self._task = self._bar.add_task(f"epoch {first}/{epochs}", total=total)
        self._bar.start()

    def batch(self) -> None:
        """Move the bar."""
        self._bar.advance(self._task)

    def epoch(self, record: Mapping[str, float], *, improved: bool) -> None:
        """Write the epoch's line above the bar."""
        super().epoch(record, improved=improved)
        following = min(int(record["epoch"]) + 1, self.epochs)
        self._bar.update(self._task, description=f"epoch {following}/{self.epochs}")

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def epoch_line(record: Mapping[str, float], epochs: int, *, improved: bool) -> str:
    """Put the numbers of an epoch in a line; a star marks the best so far.

    Examples
    --------
    >>> record = {"epoch": 3, "train_loss": 0.31, "validation_loss": 0.29, "validation_auc": 0.951,
    ...           "learning_rate": 0.003, "seconds": 1.26}
    >>> epoch_line(record, 12, improved=True)
    'epoch  3/12  loss 0.3100  validation 0.2900  AUC 0.9510  rate 3.0e-03  1.3 s  *'
    """
    count = str(int(record["epoch"])).rjust(len(str(epochs)))
    auc, metric = record["validation_auc"], record.get("validation_metric")  # not all trainings have them
    return (
        f"epoch {count}/{epochs}  loss {record['train_loss']:.4f}  "
        f"validation {record['validation_loss']:.4f}  {'' if auc is None else f'AUC {auc:.4f}  '}"
        f"{'' if metric is None else f'metric {metric:.4g}  '}"
        f"rate {record['learning_rate']:.1e}  {record['seconds']:.1f} s{'  *' if improved else ''}"
    )


def on(stream: TextIO | None = None) -> Progress:
    """Choose how to show progress on a stream: a bar on a terminal, lines elsewhere.

    Parameters
    ----------
    stream : text stream, optional
        The error stream when not given, so that results on the output stream stay clean.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # so Python starts where the terminal's side is closed
        return Silent()
    return Bar(stream) if stream.isatty() else Lines(stream)
