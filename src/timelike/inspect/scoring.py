"""What is attributed: the score of a class, of a model or of any torch module, and its gradient.

Shared by `timelike.inspect.attribution` and `timelike.inspect.importance`.

The score ``of="logit"`` is ``z_target - z_other`` of two classes, of which the probability is the sigmoid:
what raises it raises the probability. Of more classes it is the logit of the target alone. The score
``of="probability"`` is the target's probability. A module with a single output stands for two classes with
the logits ``(0, z)``.

Sizes: ``B`` sequences, ``N`` rows, ``D`` variables, ``C`` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.errors import ConfigError, DataError, nearest
from timelike.model import Model
from timelike.network import evaluating
from timelike.nn import Ragged
from timelike.ragged import cuts
from timelike.sequences import Sequences

__all__ = ["KINDS", "ROWS_AT_ONCE", "Subject", "subject_of"]

Floats = npt.NDArray[np.float64]

KINDS = ("logit", "probability")
# Rows of a batch forward and backward: enough to keep the kernels busy, a tape of some ten MB.
ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, the batch that it looks at, and what it says of it."""

    module: nn.Module
    ready: Sequences  # transformed already, variables in the network's order
    class_names: tuple[str, ...]
    signal: int
    dtype: torch.dtype
    outputs: Floats  # logits [B, C]

    def target(self, given: str | int | None) -> int:
        """Give the column of a class: by name or number, by default that of the signal.

        Raises
        ------
        ConfigError
            If there is no such class.
        """
        if given is None:
            return self.signal
        C = len(self.class_names)
        if isinstance(given, int) and not isinstance(given, bool):
            if not 0 <= given < C:
                raise ConfigError(f"target {given}: there are the classes 0..{C - 1}")
            return given
        if given not in self.class_names:
            raise ConfigError(f"target {given!r}: no such class; {nearest(str(given), self.class_names)}")
        return self.class_names.index(given)

    def scores(self, outputs: Floats, target: int, of: str) -> Floats:
        """Give the score [B] of logits [B, C]."""
        found: Floats = _score(torch.from_numpy(outputs), target, of).numpy()
        return found

    def logits(self, values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> Floats:
        """Compute logits [B, C] of other rows, without gradients, in one batch."""
        batch = Ragged(torch.from_numpy(values).to(self.dtype), torch.from_numpy(offsets))
        with torch.no_grad():
            found: Floats = _outputs(self.module, batch).numpy()
        return found

    def all_logits(self, values: npt.NDArray[Any]) -> Floats:
        """Compute logits [B, C] for rows [N, D] in place of the batch's own, in batches of many rows."""
        return _all_logits(self.module, values, self.ready.offsets, self.dtype)

    def gradient(self, values: Tensor, offsets: npt.NDArray[np.int64], target: int, of: str) -> Tensor:
        """Differentiate the score of each sequence with respect to its rows.

        Parameters
        ----------
        values : Tensor [N, D], float64
        offsets : array [B + 1]
        target, of
            What the score is.

        Returns
        -------
        Tensor [N, D], float64
            Only this is computed for whoever asks: no parameter's ``.grad`` is written.

        Raises
        ------
        DataError
            If the score was computed without a graph.
        """
        rows = values.to(self.dtype).requires_grad_(True)
        with torch.enable_grad():
            score = _score(_outputs(self.module, Ragged(rows, torch.from_numpy(offsets))), target, of)
            if not score.requires_grad:
                raise DataError("the score does not depend on the inputs: it was computed without a graph")
            # Sequences do not know of each other: the gradient of the sum is that of each.
            (gradient,) = torch.autograd.grad(score.sum(), rows, materialize_grads=True)
        return gradient.double()


def _outputs(module: nn.Module, batch: Ragged) -> Tensor:
    found = module(batch)
    B = len(batch.offsets) - 1
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != B or found.shape[1] < 1:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"{type(module).__name__} gave {what}; logits [sequences, classes] are needed")
    found = found.double()
    return torch.cat([torch.zeros_like(found), found], dim=1) if found.shape[1] == 1 else found


def _score(logits: Tensor, target: int, of: str) -> Tensor:
    if of == "probability":
        return logits.softmax(dim=1)[:, target]
    if logits.shape[1] == 2:
        return logits[:, target] - logits[:, 1 - target]
    return logits[:, target]


def _all_logits(
    module: nn.Module, values: npt.NDArray[Any], offsets: npt.NDArray[np.int64], dtype: torch.dtype
) -> Floats:
    parts = []
    with torch.no_grad():
        for start, stop in cuts(offsets, 4 * ROWS_AT_ONCE):
            own = offsets[start : stop + 1]
            rows = torch.tensor(values[own[0] : own[-1]]).to(dtype)
            parts.append(_outputs(module, Ragged(rows, torch.from_numpy(own - own[0]))))
    found: Floats = torch.cat(parts).numpy()
    return found


def subject_of(model: Model | nn.Module, sequences: Sequences, of: str = "logit") -> Subject:
    """Bring model and sequences together, and run the one over the other.

    Parameters
    ----------
    model : timelike.model.Model or torch.nn.Module
        A module takes a `timelike.nn.Ragged` and gives logits [B, C].
    sequences : Sequences
        As read for a model, which transforms them; as they are for a module.
    of : {"logit", "probability"}
        Checked here.

    Raises
    ------
    ConfigError
        If the model is something else, its output has another shape, or `of` is not one of the two.
    DataError
        If there are no sequences, a variable is missing, or a value or weight is not finite.
    """
    if of not in KINDS:
        raise ConfigError(f"of={of!r}: possible are {', '.join(map(repr, KINDS))}")
    if not isinstance(sequences, Sequences):
        raise ConfigError(f"Sequences are needed, got {type(sequences).__name__}")
    if len(sequences) == 0:
        raise DataError("there are no sequences to look at")
    names: tuple[str, ...] = ()
    module: nn.Module
    if isinstance(model, Model):
        module, ready, names = model.network, model.transforms.apply(sequences), model.class_names
    elif isinstance(model, nn.Module):
        module, ready = model, sequences
    else:
        what = type(model).__name__
        raise ConfigError(f"a {what} cannot be looked into; possible: a timelike.model.Model, a torch module")
    ready.check_finite()
    parameter = next(module.parameters(), None)
    dtype = torch.from_numpy(np.empty(0, ready.values.dtype)).dtype if parameter is None else parameter.dtype
    with evaluating(module):
        outputs = _all_logits(module, ready.values, ready.offsets, dtype)
    C = outputs.shape[1]
    signal = names.index(model.signal) if isinstance(model, Model) else C - 1
    return Subject(module, ready, names or tuple(str(c) for c in range(C)), signal, dtype, outputs)
