"""Networks, prepared: transforms, recurrent layers, pooling and head on NumPy arrays.

Sizes: `B` sequences, `N` rows (the steps of all of them), `D` variables, `S` streams, `L` layers of a stack,
`R` numbers of the hidden state, `W` numbers of each step that are pooled, `C` scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.cells import CELLS
from timelike.description import Description, Layer
from timelike.errors import DataError, ModelFileError, nearest
from timelike.ragged import cuts
from timelike.runtime import Recurrent
from timelike.scorer.head import Head

__all__ = ["POOLINGS", "Carried", "Prepared", "Together", "pool"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Offsets = npt.NDArray[np.int64]
Carried = list[Array]  # what streams carry from step to step, each [.., S, ..]: see `Prepared.begin`

POOLINGS = ("last", "mean", "max", "flatten", "none")
_ROWS_AT_ONCE = 1 << 16  # enough to keep the kernels busy, a few MB of hidden states


class Prepared:
    """A network, ready to run; nothing in it changes, so any number of threads may run it at a time.

    Parameters
    ----------
    description : Description

    Raises
    ------
    ModelFileError
        If it holds what is not known here.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.transforms = description.transforms
        self.pooling, self._steps = description.pooling, description.steps
        if self.pooling not in POOLINGS:
            raise ModelFileError(
                f"network: no pooling {self.pooling!r}; {nearest(str(self.pooling), POOLINGS)}"
            )
        if self.pooling == "last" and not description.layers:
            raise ModelFileError("network: no recurrent layers, and pooling 'last'")
        if (self.pooling == "flatten") != (self._steps is not None):
            raise ModelFileError(f"network: pooling {self.pooling!r} with steps {self._steps!r}")
        self.stacks = _stacks(description.layers)
        self._head = Head(description.dense, description.output)
        self._dtype = description.dtype
        self._unchanged = self.transforms.identity and not self.transforms.indicators
        self._with_cells = tuple((stack, CELLS[stack.cell].has_cell_state) for stack in self.stacks)
        self._width = description.layers[-1].output_size if description.layers else len(description.inputs)
        self.carried_names = tuple(
            f"{name}.{k}"
            for k, (_, with_cells) in enumerate(self._with_cells)
            for name in ("h", "c")[: 1 + with_cells]
        ) + ((f"pooled.{self.pooling}",) if self.pooling in ("mean", "max") else ())

    # Whole sequences

    def scores(self, values: Array, offsets: Offsets | None, threads: int | None = None) -> Floats:
        """Give the scores [B, C] of sequences, or of their steps [N, C] without pooling.

        The last bits of a sequence do not depend on its company. One by itself goes a quicker way, that of a
        stream, and may have others.

        Parameters
        ----------
        values : array [N, D]
            Not transformed.
        offsets : array [B+1], or None
            None for one sequence, whose scores are then [C].
        threads : int, optional
        """
        if offsets is None:
            return self._head(self._pooled(values, None, threads))
        parts = []
        for start, stop in cuts(offsets, _ROWS_AT_ONCE):
            own = offsets[start : stop + 1]
            parts.append(self._head.alike(self._pooled(values[own[0] : own[-1]], own - own[0], threads)))
        return np.concatenate(parts) if parts else np.empty((0, len(self.description.names)))

    def _pooled(self, values: Array, offsets: Offsets | None, threads: int | None) -> Array:
        x = self._read(values)
        *below, top = self.stacks or (None,)
        for stack in below:
            x, _ = stack.run(x, offsets=offsets, threads=threads)
        if self.pooling == "last":
            assert top is not None
            return _final(top.last_state(x, offsets=offsets, threads=threads), top.bidirectional)
        if top is not None:
            x, _ = top.run(x, offsets=offsets, threads=threads)
        if self.pooling == "none":
            return x
        if offsets is not None:
            return pool(x, offsets, self.pooling, self._steps)
        alone: Array = pool(x, np.array((0, len(x))), self.pooling, self._steps)[0]
        return alone

    def _read(self, values: Array) -> Array:
        """Transform the variables, in the type that they have, and give them in that of the weights."""
        x = values if self._unchanged else self.transforms.rows(values)
        return x if x.dtype is self._dtype else x.astype(self._dtype)

    # One step at a time

    def begin(self, n: int) -> Carried:
        """Give what `n` streams carry before their first step.

        Returns
        -------
        list of array
            Of each stack h [L, S, R], and c [L, S, H] where the cell has it; and with the pooling ``mean``
            the sum [1, S, W] of the steps in float64, with ``max`` the highest [1, S, W] so far.
        """
        carried: Carried = []
        for stack, with_cells in self._with_cells:
            carried.append(np.zeros((stack.num_layers, n, stack.state_size), self._dtype))
            if with_cells:
                carried.append(np.zeros((stack.num_layers, n, stack.hidden_size), self._dtype))
        if self.pooling == "mean":
            carried.append(np.zeros((1, n, self._width)))
        if self.pooling == "max":
            carried.append(np.full((1, n, self._width), -np.inf, self._dtype))
        return carried

    def step(
        self, values: Array, carried: Carried, n_steps: Array, threads: int | None = None
    ) -> tuple[Floats, Carried]:
        """Take one step of each stream.

        Parameters
        ----------
        values : array [S, D], or [D] of one stream
            Not transformed.
        carried : list of array
            As `begin` gives it; left as it is.
        n_steps : array [S]
            Number of steps of each, this one included.
        threads : int, optional

        Returns
        -------
        scores : array [S, C], or [C]
            Those of the steps so far; without pooling, of this step.
        carried : list of array
            What is carried to the next step.
        """
        x = self._read(values)
        one = x.ndim == 1
        if one:
            x = x[None]
        now: Carried = []
        for stack, with_cells in self._with_cells:
            at = len(now)
            if with_cells:
                h, c = stack.last_state(x[None], state=(carried[at], carried[at + 1]), threads=threads)
                now += (h, c)
            else:
                h = stack.last_state(x[None], state=carried[at], threads=threads)
                now.append(h)
            x = h[-1]
        if self.pooling == "mean":
            now.append(carried[-1] + x)
            x = (now[-1][0] / n_steps[:, None]).astype(self._dtype)
        elif self.pooling == "max":
            now.append(np.maximum(carried[-1], x))
            x = now[-1][0]
        return self._head(x[0] if one else x), now


class Together:
    """Networks that score together, by the mean of their scores; otherwise like one `Prepared`.

    Parameters
    ----------
    members : sequence of Prepared
        All read the same variables.
    """

    def __init__(self, members: Sequence[Prepared]) -> None:
        self.members = tuple(members)
        self.carried_names = tuple(
            f"fold.{fold}.{name}" for fold, member in enumerate(members) for name in member.carried_names
        )

    def scores(self, values: Array, offsets: Offsets | None, threads: int | None = None) -> Floats:
        """As `Prepared.scores`."""
        return _mean([member.scores(values, offsets, threads) for member in self.members])

    def begin(self, n: int) -> Carried:
        """As `Prepared.begin`, that of all members."""
        return [array for member in self.members for array in member.begin(n)]

    def step(
        self, values: Array, carried: Carried, n_steps: Array, threads: int | None = None
    ) -> tuple[Floats, Carried]:
        """As `Prepared.step`."""
        found: list[Floats] = []
        now: Carried = []
        for member in self.members:
            own = carried[len(now) : len(now) + len(member.carried_names)]
            scores, after = member.step(values, own, n_steps, threads)
            found.append(scores)
            now += after
        return _mean(found), now


def _mean(scores: list[Floats]) -> Floats:
    found: Floats = np.mean(scores, axis=0)
    return found


def pool(values: Array, offsets: Offsets, how: str, steps: int | None = None) -> Array:
    """Reduce the hidden states of each sequence to one vector; zeros for a sequence without steps.

    What `timelike.network.pool` does with PyTorch; the final states, for "last", come from the layers
    themselves.

    Parameters
    ----------
    values : array [N, W]
    offsets : array [B+1]
    how : {"mean", "max", "flatten"}
    steps : int, optional
        With "flatten" the number T of steps that every sequence must have.

    Returns
    -------
    array [B, W], with "flatten" [B, T W]
        A mean is summed in float64.

    Raises
    ------
    DataError
        With "flatten", if a sequence has another number of steps.

    Examples
    --------
    >>> pool(np.array([[1.0], [3.0], [-4.0]]), np.array([0, 2, 2, 3]), "mean")
    array([[ 2.],
           [ 0.],
           [-4.]])
    """
    lengths = np.diff(offsets)
    if how == "flatten":
        wrong = np.flatnonzero(lengths != steps)
        if len(wrong):
            raise DataError(
                f"sequence {wrong[0]} has {lengths[wrong[0]]} steps; the network takes {steps}, not more, "
                "not less (pooling: flatten)"
            )
        return values.reshape(len(lengths), -1)
    pooled = np.zeros((len(lengths), values.shape[1]), values.dtype)
    filled = lengths > 0  # what `reduceat` gives for a piece without rows is the next row
    starts = offsets[:-1][filled]
    if len(starts) and how == "mean":
        pooled[filled] = np.add.reduceat(values, starts, dtype=np.float64) / lengths[filled][:, None]
    elif len(starts):
        pooled[filled] = np.maximum.reduceat(values, starts)
    return pooled


def _final(state: Any, bidirectional: bool) -> Array:
    """Give the last states [B, W] or [W] of the uppermost layer, both directions side by side."""
    h: Array = state[0] if isinstance(state, tuple) else state
    return np.concatenate((h[-2], h[-1]), axis=-1) if bidirectional else h[-1]


def _stacks(layers: tuple[Layer, ...]) -> tuple[Recurrent, ...]:
    """Prepare the layers; those that are alike in one call."""

    def kind(layer: Layer) -> tuple[Any, ...]:
        return layer.cell, layer.units, layer.state_size, layer.bidirectional, tuple(layer.weights[0])

    made = []
    for (cell, *_), alike in groupby(layers, kind):
        weights = {
            f"{name}_l{depth}{end}": values
            for depth, layer in enumerate(alike)
            for end, direction in zip(("", "_reverse"), layer.weights, strict=False)
            for name, values in direction.items()
        }
        made.append(Recurrent(weights, cell))
    return tuple(made)
