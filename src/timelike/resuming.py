"""Of which config a checkpoint is, and whether a training may go on from it with another.

What the weights do not depend on, but for rounding (threads, how ranks sum gradients, inspection, how often
checkpoints are written), may always change.
Of the rest these may if one says so, since what a checkpoint holds still fits:

- ``training.epochs``, ``training.schedule``, ``training.optimiser.learning_rate`` and ``weight_decay``;
- ``training.early_stopping``, but for its metric, by which the best epoch so far was chosen;
- ``training.clip_norm``; and ``training.then``, by phases behind those that there were.

All else may never: another network or kind of optimiser has other weights and state, other events, batches,
seeds or losses make another training of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from timelike.config import Config

__all__ = ["Change", "completed", "decisive", "differences"]

_CHANGEABLE = (
    "training.epochs",
    "training.schedule",
    "training.optimiser.learning_rate",
    "training.optimiser.weight_decay",
    "training.early_stopping",
    "training.clip_norm",
)


@dataclass(frozen=True)
class Change:
    """A key of the config with two values; None where there is no such key."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {json.dumps(self.before)} before, {json.dumps(self.now)} now"

    @property
    def possible(self) -> bool:
        """Whether a training can go on with it."""
        if self.key == "training.early_stopping":  # None on one side: then it is the loss that chooses
            return {(side or {}).get("metric", "loss") for side in (self.before, self.now)} == {"loss"}
        if self.key == "training.early_stopping.metric":
            return False
        if self.key == "training.then":
            return bool(self.now[: len(self.before)] == self.before)
        return any(self.key == key or self.key.startswith(key + ".") for key in _CHANGEABLE)


def decisive(config: Config) -> dict[str, Any]:
    """Give what of a config the weights depend on, in plain values."""
    values = config.model_dump(mode="json", exclude={"output", "evaluation", "scan"})
    for key in ("threads", "backend", "inspect", "checkpoint_every"):
        del values["training"][key]
    for key in ("read_ahead", "on_error", "spool") if values["data"]["stream"] else ():
        del values["data"]["stream"][key]
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def completed(before: Any) -> Any:
    """Give a config as `decisive` gave it, with the defaults of keys that there were not yet."""
    try:
        return decisive(Config.model_validate_json(json.dumps(before)))
    except ValidationError:
        return before


def differences(before: Any, now: Any, path: str = "") -> Iterator[Change]:
    """Give all keys in which two configs differ.

    Examples
    --------
    >>> for change in differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}}):
    ...     print(change)
    b.c: 2 before, 4 now
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif before != now:
        yield Change(path, before, now)
