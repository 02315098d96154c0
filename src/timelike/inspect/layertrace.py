"""One layer in one direction, as it was traced: what stands on its tape, and what follows from that.

Gradients of the inputs and of the gates' values, and each step's own contribution to the gradients of the
weights, are worked out when they are asked for.

Letters: ``B`` sequences, ``T`` steps of one, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units,
``R`` numbers of the hidden state (``H``, but for a projection), ``G`` gates. Rows are those of a ragged batch
whatever the layout of the input: sequence ``b`` has the rows ``offsets[b]:offsets[b + 1]``, in the order of
time in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike.cells import CELLS
from timelike.errors import DataError

__all__ = ["LayerTrace"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One layer in one direction: values and gradients at every step.

    Gradients are of the loss of the trace, and have the shape of what they belong to. Those of gates come
    twice, as in `timelike.reference`: ``dgates`` with respect to the argument of sigmoid or tanh,
    ``dgate_values`` with respect to its value.

    Attributes
    ----------
    name : str
        Name of the module, behind a colon the number of the layer where it has several, and behind ``#`` that
        of the run where it ran more than once.
    direction : {"forward", "reverse"}
    cell : str
        One of `timelike.cells.CELLS`.
    offsets : ndarray of int, shape (B + 1,)
    h0, c0 : ndarray, shapes (B, R) and (B, H)
        States before the first step; c0 is None where the cell has no cell state, as all that is about it.
    weights : dict of str to ndarray
        ``W`` [G H, D], ``U`` [G H, R], and where there are any ``b_ih``, ``b_hh`` [G H], ``peephole`` [3 H],
        ``projection`` [R, H].
    dh0, dc0 : ndarray, shapes (B, R) and (B, H)
    dweights : dict of str to ndarray
        Gradients of the weights, by the same names.
    recorded : dict of str to ndarray
        What the layer left, its rows in the layout of its input: ``x``, ``h``, ``c``, ``gates`` (the tape's
        [N, A H]), and the gradients ``dh``, ``dc``, ``dgates`` [N, G H].
    order : ndarray of int, shape (N,), or None
        Where there the rows of a ragged batch lie; None where they are those.
    """

    name: str
    direction: str
    cell: str
    offsets: npt.NDArray[np.int64]
    h0: Array
    c0: Array | None
    weights: dict[str, Array]
    dh0: Array
    dc0: Array | None
    dweights: dict[str, Array]
    recorded: dict[str, Array]
    order: npt.NDArray[np.int64] | None

    def __repr__(self) -> str:
        return (
            f"LayerTrace({self.name!r}, {self.direction}, {self.cell}: {self.n_sequences} sequences, "
            f"{self.n_steps} steps, {self.weights['W'].shape[1]} inputs, {self.units} units)"
        )

    @property
    def n_sequences(self) -> int:
        """Number of sequences B."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps of each sequence [B]."""
        return np.diff(self.offsets)

    @property
    def n_steps(self) -> int:
        """Steps of all sequences N."""
        return int(self.offsets[-1])

    @property
    def units(self) -> int:
        """Number of units H."""
        return len(self.weights["W"]) // len(CELLS[self.cell].gates)

    @property
    def reverse(self) -> bool:
        """Whether the layer walks from the last step to the first."""
        return self.direction == "reverse"

    def rows(self, sequence: int) -> slice:
        """Give the rows of a sequence.

        Raises
        ------
        DataError
            If there is no such sequence.
        """
        B = self.n_sequences
        if not -B <= sequence < B:
            raise DataError(f"sequence {sequence}: the trace has the sequences 0..{B - 1}")
        b = sequence % B
        return slice(int(self.offsets[b]), int(self.offsets[b + 1]))

    # What was recorded, in the order of a ragged batch

    def _rows(self, name: str) -> Array:
        values = self.recorded[name]
        return values if self.order is None else values.take(self.order, axis=0)

    @cached_property
    def x(self) -> Array:
        """What the layer read at each step [N, D]."""
        return self._rows("x")

    @cached_property
    def h(self) -> Array:
        """Hidden state after each step [N, R]."""
        return self._rows("h")

    @cached_property
    def c(self) -> Array | None:
        """Cell state after each step [N, H]."""
        return None if self.c0 is None else self._rows("c")

    @cached_property
    def gates(self) -> dict[str, Array]:
        """Values of each gate [N, H] by its letter: ``i f g o``, ``i g o`` (coupled), ``r z n``, or ``h``."""
        if "gates" not in self.recorded:
            return {"h": self.h}
        return dict(zip(CELLS[self.cell].gates, self._tape, strict=False))

    @cached_property
    def _tape(self) -> list[Array]:
        """Gate values [N, H], and of a GRU with reset after behind them ``U_n h' + b_hn``."""
        return _blocks(self._rows("gates"), self.units)

    @cached_property
    def dh(self) -> Array:
        """Gradient of h after each step [N, R]: from its output and from the step after."""
        return self._rows("dh")

    @cached_property
    def dc(self) -> Array | None:
        """Gradient of c after each step [N, H]: through h of its own step, and from the step after."""
        return None if self.c0 is None else self._rows("dc")

    @cached_property
    def dgates_stacked(self) -> Array:
        """Gradients of all gates before their activation [N, G H], in the order of W's rows."""
        return self._rows("dgates")

    @cached_property
    def dgates(self) -> dict[str, Array]:
        """The same by the gate's letter, each [N, H]."""
        return dict(zip(CELLS[self.cell].gates, _blocks(self.dgates_stacked, self.units), strict=True))

    # What the step before left

    @cached_property
    def h_prev(self) -> Array:
        """Hidden state before each step [N, R]."""
        return self._before(self.h, self.h0)

    @cached_property
    def c_prev(self) -> Array | None:
        """Cell state before each step [N, H]."""
        return None if self.c is None or self.c0 is None else self._before(self.c, self.c0)

    def _before(self, states: Array, first: Array) -> Array:
        before = np.empty_like(states)
        there = self.lengths > 0
        if self.reverse:
            before[:-1] = states[1:]
            before[self.offsets[1:][there] - 1] = first[there]
        else:
            before[1:] = states[:-1]
            before[self.offsets[:-1][there]] = first[there]
        return before

    @cached_property
    def distance(self) -> npt.NDArray[np.int64]:
        """Steps from each row to the end of its walk [N]: 0 at the last step that the layer takes."""
        step = np.arange(self.n_steps) - np.repeat(self.offsets[:-1], self.lengths)
        return step if self.reverse else np.repeat(self.lengths, self.lengths) - 1 - step

    # Gradients that follow from those that the kernels give

    @cached_property
    def dx(self) -> Array:
        """Gradient of the input by this direction [N, D]: ``dx = W^T da``."""
        return self.dgates_stacked @ self.weights["W"]

    @cached_property
    def dgates_of_state(self) -> Array:
        """The same beside ``U h'`` [N, G H]: of a GRU with reset after, the candidate's is times r."""
        if self.cell != "gru":
            return self.dgates_stacked
        d = self.dgates
        return np.concatenate([d["r"], d["z"], d["n"] * self.gates["r"]], axis=1)

    @cached_property
    def dgate_values(self) -> dict[str, Array]:
        """Gradients of the gates' values by letter, each [N, H]."""
        return _VALUES[self.cell](self)

    # Each step's own contribution to the gradients of the weights

    def contribution_norms(self) -> dict[str, Array]:
        """Euclidean norm of each step's own contribution to the gradient of each weight.

        The contributions of a step are outer products, so their norms are products of norms: nothing of the
        size of the weights is computed.

        Returns
        -------
        dict of str to ndarray, shape (N,)
            By the names of `weights`.
        """
        found: dict[str, Array] = {}
        for name, terms in self._contributions().items():
            squares = [_squares(left) * (1 if right is None else _squares(right)) for left, right in terms]
            found[name] = np.sqrt(np.sum(squares, axis=0))
        return found

    def contributions(self, sequence: int) -> dict[str, Array]:
        """Each step's own contribution to the gradient of each weight, in full, for one sequence.

        Summed over the steps of all sequences they are `dweights`.

        Parameters
        ----------
        sequence : int
            Which; ``T`` numbers for each weight and each step can be many.

        Returns
        -------
        dict of str to ndarray, shape (T, *shape of the weight)
            By the names of `weights`.

        Raises
        ------
        DataError
            If there is no such sequence.
        """
        rows = self.rows(sequence)
        found: dict[str, Array] = {}
        for name, terms in self._contributions().items():
            blocks = [
                left[rows] if right is None else left[rows, :, None] * right[rows, None, :]
                for left, right in terms
            ]
            found[name] = np.concatenate(blocks, axis=1)
        return found

    def _contributions(self) -> dict[str, list[tuple[Array, Array | None]]]:
        """For each weight blocks of rows: left factor [N, rows], right factor [N, columns] or none."""
        da, da_state, found = self.dgates_stacked, self.dgates_of_state, {}
        H = self.units
        for name in self.weights:
            terms: list[tuple[Array, Array | None]]
            if name == "W":
                terms = [(da, self.x)]
            elif name == "U" and self.cell == "gru_reset_before":
                inner = self.gates["r"] * self.h_prev
                terms = [(da[:, : 2 * H], self.h_prev), (da[:, 2 * H :], inner)]
            elif name == "U":
                terms = [(da_state, self.h_prev)]
            elif name == "b_ih":
                terms = [(da, None)]
            elif name == "b_hh":
                terms = [(da_state, None)]
            elif name == "projection":
                assert self.c is not None
                terms = [(self.dh, self.gates["o"] * np.tanh(self.c))]
            else:  # peephole
                assert self.c is not None
                assert self.c_prev is not None
                d = self.dgates
                terms = [(d["i"] * self.c_prev, None), (d["f"] * self.c_prev, None), (d["o"] * self.c, None)]
            found[name] = terms
        return found

    # Out of here

    def arrays(self) -> dict[str, Array]:
        """Give all that there is at every step, by name: ``x``, ``h``, ``gate_i``, ``dgate_i`` and so on.

        Returns
        -------
        dict of str to ndarray, shape (N, ...)
            ``dgate_i`` is with respect to the gate's argument, ``dgate_value_i`` to its value; the last are
            norms of contributions, ``norm_dW`` [N] and so on.
        """
        found: dict[str, Array | None] = {"x": self.x, "h": self.h, "c": self.c}
        found |= {f"gate_{letter}": values for letter, values in self.gates.items()}
        found |= {"dx": self.dx, "dh": self.dh, "dc": self.dc}
        found |= {f"dgate_{letter}": values for letter, values in self.dgates.items()}
        found |= {f"dgate_value_{letter}": values for letter, values in self.dgate_values.items()}
        found |= {f"norm_d{name}": norms for name, norms in self.contribution_norms().items()}
        return {name: values for name, values in found.items() if values is not None}


def _blocks(stacked: Array, width: int) -> list[Array]:
    return [stacked[:, at : at + width] for at in range(0, stacked.shape[1], width)]


def _squares(array: Array) -> Array:
    squares: Array = np.einsum("ni,ni->n", array, array)
    return squares


# Gradients of the gates' values: the lines of backward in `timelike.reference`, for all steps at once.


def _values_rnn(t: LayerTrace) -> dict[str, Array]:
    return {"h": t.dh}


def _values_lstm(t: LayerTrace) -> dict[str, Array]:
    assert t.c is not None
    assert t.dc is not None
    assert t.c_prev is not None
    dm = t.dh if "projection" not in t.weights else t.dh @ t.weights["projection"]
    return {
        "i": t.dc * t.gates["g"],
        "f": t.dc * t.c_prev,
        "g": t.dc * t.gates["i"],
        "o": dm * np.tanh(t.c),
    }


def _values_coupled(t: LayerTrace) -> dict[str, Array]:
    assert t.c is not None
    assert t.dc is not None
    assert t.c_prev is not None
    return {"i": t.dc * (t.gates["g"] - t.c_prev), "g": t.dc * t.gates["i"], "o": t.dh * np.tanh(t.c)}


def _values_gru(t: LayerTrace) -> dict[str, Array]:
    if t.cell == "gru":
        dr = t.dgates["n"] * t._tape[3]
    else:  # reset before: n = tanh(W_n x + U_n (r h'))
        dr = t.dgates["n"] @ t.weights["U"][2 * t.units :] * t.h_prev
    return {"r": dr, "z": t.dh * (t.h_prev - t.gates["n"]), "n": t.dh * (1 - t.gates["z"])}


_VALUES: dict[str, Callable[[LayerTrace], dict[str, Array]]] = {
    "rnn_tanh": _values_rnn,
    "rnn_relu": _values_rnn,
    "lstm": _values_lstm,
    "lstm_peephole": _values_lstm,
    "lstm_projected": _values_lstm,
    "lstm_coupled": _values_coupled,
    "gru": _values_gru,
    "gru_reset_before": _values_gru,
}
