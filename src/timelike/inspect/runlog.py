"""Where the looks into a training go: a file of the run's folder, and event files of TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from timelike.config import InspectConfig
from timelike.errors import ConfigError, DataError, require
from timelike.files import replacing
from timelike.inspect.watch import Look, TensorBoard, Watch

__all__ = ["EVENTS", "INSPECTION", "LOGS", "RunLog", "read_looks"]

INSPECTION, EVENTS = "inspection.jsonl", "tensorboard"
LOGS = (INSPECTION, f"{EVENTS}/events.out.tfevents.*")
"""Patterns of all files that a training's looks leave in its folder."""


class RunLog:
    """Watch a network, and keep what is seen in the folder of its run.

    Parameters
    ----------
    folder : path
        Nothing is written to it before `begin`.
    network : torch.nn.Module
    asked : InspectConfig

    Raises
    ------
    MissingExtraError
        If event files are asked for, and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, network: nn.Module, asked: InspectConfig) -> None:
        if asked.tensorboard:
            require("tensorboard", "inspect")
        self.folder, self._asked, self._begun = folder, asked, False
        self.watch = Watch(network, every=asked.every, sequences=asked.sequences, to=[self._take])
        self._waiting: list[Look] = []
        self._events: TensorBoard | None = None

    def begin(self) -> None:
        """Write from now on."""
        self._open()
        self._write()

    def resume(self) -> None:
        """Go on behind the steps that the watch has taken: what was seen later will be seen again."""
        kept = [look for look in read_looks(self.folder) if look.step <= self.watch.steps]
        with replacing(self.folder / INSPECTION) as part:
            part.write_text("".join(map(_line, kept)), encoding="utf-8")
        self._open()

    def _open(self) -> None:
        if self._asked.tensorboard:
            self._events = TensorBoard(self.folder / EVENTS, after=self.watch.steps)
        self._begun = True

    def epoch(self, numbers: Mapping[str, float | None]) -> None:
        """Put the numbers that an epoch has beside the looks, at the step that the training has reached."""
        if self._events is not None:
            tagged = {f"epoch/{name}": value for name, value in numbers.items() if value is not None}
            self._events.scalars(self.watch.steps, tagged)

    def close(self) -> None:
        """Close the event files."""
        if self._events is not None:
            self._events.close()

    def _take(self, look: Look) -> None:
        self._waiting.append(look)
        if self._begun:
            self._write()

    def _write(self) -> None:
        path = self.folder / INSPECTION
        try:
            with path.open("a", encoding="utf-8") as file:
                for look in self._waiting:
                    file.write(_line(look))
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
        if self._events is not None:
            for look in self._waiting:
                self._events(look)
        self._waiting.clear()


def _line(look: Look) -> str:
    return json.dumps(look.to_dict(), allow_nan=False) + "\n"


def read_looks(folder: Path) -> list[Look]:
    """Read what a run's training left; nothing where nobody looked.

    A last line that is not whole, as a training that was killed leaves it, is left out.

    Raises
    ------
    DataError
        If another line is not a look; the message names it.
    """
    path = folder / INSPECTION
    if not path.is_file():
        return []
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None
    looks = []
    for number, line in enumerate(lines, 1):
        try:
            looks.append(Look.from_dict(json.loads(line)))
        except (ValueError, RecursionError, DataError) as error:
            raise DataError(f"{path}:{number}: not a look into a training ({error})") from None
    return looks
