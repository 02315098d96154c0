"""The recurrent nodes of ONNX, LSTM, GRU and RNN, as functions of NumPy arrays.

What ONNX can say of such a node is in a `RecurrentNode`. Where one of our cells computes the same, which is
so of all that PyTorch, Keras and most others write, the native kernels run it. What no cell of ours has
(``clip``, coupled gates together with peepholes, activations other than the usual ones) is computed by plain
NumPy in float64, one step at a time: right, and slow.

Where ONNX's text leaves room, this does what ONNX Runtime does: ``clip`` bounds the arguments of the gates'
activations and not that of ``h``; numbers of ``activation_alpha`` and ``activation_beta`` go in turn to the
activations that have such a parameter; the last states of a sequence without steps are zeros, whatever the
initial ones are.

Letters: ``T`` steps, ``B`` sequences, ``D`` inputs, ``H`` units, ``K`` directions, ``G`` gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, ModelFileError, nearest
from timelike.gates import reorder_gates
from timelike.interop.onnx_activations import USUAL, Activation, read_activations
from timelike.interop.onnx_file import shown
from timelike.interop.onnx_steps import Weights, step_of
from timelike.kernels import Packed, Rows, forward
from timelike.runtime import Recurrent
from timelike.threads import get_num_threads

__all__ = ["Prepared", "RecurrentNode"]

Array: TypeAlias = npt.NDArray[Any]

_N_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_CELL_OF = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}  # in `timelike.gates`
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@dataclass(frozen=True)
class RecurrentNode:
    """A recurrent node of ONNX without its weights.

    Attributes
    ----------
    op : {"LSTM", "GRU", "RNN"}
    direction : {"forward", "reverse", "bidirectional"}
    activations : tuple of tuple of Activation
        Of each direction ``f g h`` (LSTM), ``f g`` (GRU) or ``f`` (RNN), as the equations of ONNX name them.
    hidden_size : int, optional
        H, where the node says it; it must then be that of the weights.
    clip : float, optional
        The arguments of the gates' activations are kept within plus and minus this.
    input_forget : bool
        Of an LSTM: the forget gate is 1 minus the input gate.
    linear_before_reset : bool
        Of a GRU: the reset acts after the state weights, as in PyTorch.
    layout : {0, 1}
        0: x [T, B, D], y [T, K, B, H], states [K, B, H]; 1: x [B, T, D], y [B, T, K, H], states [B, K, H].
    """

    op: str
    direction: str
    activations: tuple[tuple[Activation, ...], ...]
    hidden_size: int | None = None
    clip: float | None = None
    input_forget: bool = False
    linear_before_reset: bool = False
    layout: int = 0

    @classmethod
    def from_attributes(cls, op: str, given: Mapping[str, Any]) -> RecurrentNode:
        """Read the attributes of a node.

        Raises
        ------
        ModelFileError
            For an attribute that is unknown, or has a value that ONNX does not know.
        """
        known = {"activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size"}
        known |= {"layout"} | {"LSTM": {"input_forget"}, "GRU": {"linear_before_reset"}, "RNN": set()}[op]
        for name in given:
            if name not in known:
                raise ModelFileError(f"{op} has no attribute {shown(name)}; {nearest(name, known)}")
        direction = given.get("direction", "forward")
        if not isinstance(direction, str) or direction not in _DIRECTIONS:
            raise ModelFileError(f"direction of {op}: {shown(str(direction))}; {nearest('', _DIRECTIONS)}")
        hidden_size = given.get("hidden_size")
        if hidden_size is not None and not (isinstance(hidden_size, int) and hidden_size > 0):
            raise ModelFileError(f"hidden_size of {op}: {shown(str(hidden_size))}; a whole number above 0")
        clip = given.get("clip")
        if clip is not None and not (isinstance(clip, float) and clip > 0):
            raise ModelFileError(f"clip of {op}: {shown(str(clip))}; a number above 0")
        flags = {}
        for name in ("input_forget", "linear_before_reset", "layout"):
            flags[name] = given.get(name, 0)
            if not isinstance(flags[name], int) or flags[name] not in (0, 1):
                raise ModelFileError(f"{name} of {op}: {shown(str(flags[name]))}; possible: 0, 1")
        activations = read_activations(op, len(_DIRECTIONS[direction]), given)
        coupled, after = bool(flags["input_forget"]), bool(flags["linear_before_reset"])
        return cls(op, direction, activations, hidden_size, clip, coupled, after, flags["layout"])

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Of each direction, whether it walks from the last step to the first."""
        return _DIRECTIONS[self.direction]

    def prepare(self, W: Array, R: Array, B: Array | None = None, P: Array | None = None) -> Prepared:
        """Check the weights and pack them, once.

        Parameters
        ----------
        W, R : ndarray, shapes [K, G H, D] and [K, G H, H], float32 or float64
        B : ndarray, shape [K, 2 G H], optional
        P : ndarray, shape [K, 3 H], optional
            Peepholes of an LSTM.

        Raises
        ------
        DataError
            If a shape or a type does not fit.
        """
        weights = _weights(self, W, R, B, P)
        cells = [_cell(self, *each) for each in zip(self.activations, weights, strict=True)]
        known = [(cell, w) for cell, w in zip(cells, weights, strict=True) if cell is not None]
        if len(known) < len(weights):
            return Prepared(self, weights)
        if self.direction == "reverse" or len(set(cells)) > 1:
            return Prepared(self, weights, kernels=tuple(_packed(cell, w) for cell, w in known))
        return Prepared(self, weights, session=_session(known, batch_first=bool(self.layout)))

    def __call__(
        self,
        X: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        P: Array | None = None,
    ) -> tuple[Array, ...]:
        """Run the node; the arguments are the inputs of the node in ONNX's order and shapes.

        Returns
        -------
        tuple of ndarray
            ``Y, Y_h`` and of an LSTM ``Y_c``. What is behind the last step of a sequence is zero in ``Y``.
            The last states are those after the last step read; zeros where there is none.

        Raises
        ------
        DataError
            If a shape or a type does not fit.
        """
        return self.prepare(W, R, B, P).run(X, sequence_lens, initial_h, initial_c)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recurrent node with its weights, ready to run; made by `RecurrentNode.prepare`.

    Attributes
    ----------
    session : Recurrent, or None
        All directions prepared together, which takes the least time per call.
    kernels : tuple of Packed, or None
        The weights of each direction, where `Recurrent` has no such layer: none that only walks back, none of
        two cells. Without either, plain NumPy runs the node.
    """

    node: RecurrentNode
    weights: tuple[Weights, ...]
    session: Recurrent | None = None
    kernels: tuple[Packed, ...] | None = None

    def run(
        self,
        X: Array,
        sequence_lens: Array | None = None,
        initial_h: Array | None = None,
        initial_c: Array | None = None,
        room: int | None = None,
    ) -> tuple[Array, ...]:
        """Run it; see `RecurrentNode.__call__`. If `room` is given, ``Y`` may take so many bytes."""
        node, first = self.node, self.weights[0]
        K, H, D, dtype = len(self.weights), first.U.shape[1], first.W.shape[1], first.W.dtype
        if X.ndim != 3 or X.shape[2] != D or X.dtype != dtype:
            raise DataError(f"X: {_what(X)}; expected {dtype} with three axes, the last of {D}")
        B, T = X.shape[:2] if node.layout else X.shape[1::-1]
        size = max(T, 1) * B * K * H * dtype.itemsize  # the states count where there are no steps
        if room is not None and size > room:
            raise DataError(f"Y would have {size} bytes, with {room} left (Limits.run_bytes)")
        lengths = np.full(B, T)
        if sequence_lens is not None:
            lengths = np.asarray(sequence_lens)
            if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
                raise DataError(f"sequence_lens: {_what(lengths)}; expected integers of shape {(B,)}")
            if B and not (lengths.min() >= 0 and lengths.max() <= T):
                raise DataError(f"sequence_lens: {lengths.min()} to {lengths.max()}; possible: 0 to {T}")
        names = ("initial_h", "initial_c") if node.op == "LSTM" else ("initial_h",)
        states = []
        for name, given in zip(names, (initial_h, initial_c), strict=False):
            shape = (B, K, H) if node.layout else (K, B, H)
            if given is not None and (given.shape != shape or given.dtype != dtype):
                raise DataError(f"{name}: {_what(given)}; expected {dtype} of shape {shape}")
            state = np.zeros((K, B, H), dtype)
            if given is not None:
                state[:] = given.swapaxes(0, 1) if node.layout else given
            states.append(state)
        if self.session is not None:
            y, states = self._by_session(self.session, X, lengths, states)
        elif self.kernels is not None:
            y, states = self._by_kernels(self.kernels, X, lengths, states)
        else:
            y, states = self._plainly(X, lengths, states)
        for state in states:
            state[:, lengths == 0] = 0
        if not node.layout:
            return (y.transpose(0, 2, 1, 3), *states)
        return (y, *(state.transpose(1, 0, 2) for state in states))

    def _by_session(
        self, session: Recurrent, X: Array, lengths: Array, states: list[Array]
    ) -> tuple[Array, list[Array]]:
        """Give y [T, B, K, H] or [B, T, K, H], and the last states [K, B, H]."""
        y, last = session.run(X, lengths=lengths, state=tuple(states) if len(states) == 2 else states[0])
        y = y.reshape(*X.shape[:2], len(self.weights), session.hidden_size)
        return y, list(last) if len(states) == 2 else [last]

    def _by_kernels(
        self, kernels: tuple[Packed, ...], X: Array, lengths: Array, states: list[Array]
    ) -> tuple[Array, list[Array]]:
        """Do the same, one direction after the other."""
        first, second = X.shape[:2]
        if self.node.layout:
            start, step = np.arange(first) * second, np.arange(second)
        else:
            start, step = np.arange(second), np.arange(first) * second
        rows = Rows(start, step, lengths, first * second)
        K, D, H = len(kernels), X.shape[2], states[0].shape[2]
        y = np.zeros((first * second, K, H), X.dtype)
        x = np.ascontiguousarray(X).reshape(first * second, D)
        last = [np.empty_like(state) for state in states]
        for k, (packed, reverse) in enumerate(zip(kernels, self.node.reverse, strict=True)):
            of_k = {name: state[k] for name, state in zip(("h0", "c0"), states, strict=False)}
            of_k |= {name: state[k] for name, state in zip(("hT", "cT"), last, strict=False)}
            forward(packed, rows, x, y[:, k], **of_k, reverse=reverse, threads=get_num_threads())
        return y.reshape(first, second, K, H), last

    def _plainly(self, X: Array, lengths: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        """Do the same in float64, one step at a time."""
        x = X.swapaxes(0, 1) if self.node.layout else X
        y = np.zeros((*x.shape[:2], len(self.weights), states[0].shape[2]))
        last = [state.astype(np.float64) for state in states]
        for k, w in enumerate(self.weights):
            step = step_of(
                self.node.op,
                self.node.activations[k],
                w.as_float64(),
                clip=self.node.clip,
                input_forget=self.node.input_forget,
                linear_before_reset=self.node.linear_before_reset,
            )
            for s in range(int(lengths.max(initial=0))):
                on = np.flatnonzero(lengths > s)
                t = lengths[on] - 1 - s if self.node.reverse[k] else np.full(len(on), s)
                new = step(x[t, on].astype(np.float64), *(state[k, on] for state in last))
                for state, values in zip(last, new, strict=True):
                    state[k, on] = values
                y[t, on, k] = new[0]
        y = y.astype(X.dtype)
        return y.swapaxes(0, 1) if self.node.layout else y, [state.astype(X.dtype) for state in last]


def _cell(node: RecurrentNode, activations: tuple[Activation, ...], w: Weights) -> str | None:
    """Name the cell of `timelike.cells` that computes the same, if there is one."""
    names = tuple(activation.name for activation in activations)
    if node.clip is not None:
        return None
    if node.op == "RNN":
        return f"rnn_{names[0]}" if names[0] in ("tanh", "relu") else None
    if names != USUAL[node.op]:
        return None
    if node.op == "GRU":
        return "gru" if node.linear_before_reset else "gru_reset_before"
    if node.input_forget:
        return "lstm_coupled" if w.peephole is None else None
    return "lstm" if w.peephole is None else "lstm_peephole"


def _parts(cell: str, w: Weights) -> list[Array]:
    """Give W, U and the biases as the cell has them."""
    if cell != "lstm_coupled":
        return list(w[:4])
    H = w.U.shape[1]  # what belongs to f is not used
    return [np.concatenate([part[:H], part[2 * H :]]) for part in w[:4]]


def _packed(cell: str, w: Weights) -> Packed:
    return Packed(*_parts(cell, w), cell=cell, peephole=w.peephole)


def _session(of_directions: list[tuple[str, Weights]], *, batch_first: bool) -> Recurrent:
    named: dict[str, Array] = {}
    for (cell, w), end in zip(of_directions, ("_l0", "_l0_reverse"), strict=False):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        named |= {name + end: part for name, part in zip(names, _parts(cell, w), strict=True)}
        if w.peephole is not None:
            named[f"weight_peephole{end}"] = w.peephole
    return Recurrent(named, of_directions[0][0], batch_first=batch_first)


def _weights(
    node: RecurrentNode, W: Array, R: Array, B: Array | None, P: Array | None
) -> tuple[Weights, ...]:
    """Check the weights, and give those of each direction in our order of gates."""
    G, K = _N_GATES[node.op], len(node.reverse)
    H = R.shape[-1] if R.ndim == 3 else 0
    if node.hidden_size not in (None, H):
        raise DataError(f"R: shape {R.shape}, but hidden_size is {node.hidden_size}")
    if W.dtype not in (np.float32, np.float64):
        raise DataError(f"W: {W.dtype}; possible: float32, float64")
    D = W.shape[-1] if W.ndim == 3 else 0
    if not H or not D:
        raise DataError(f"W: shape {W.shape}, R: shape {R.shape}; expected (K, G H, D) and (K, G H, H)")
    expected = {"W": (W, (K, G * H, D)), "R": (R, (K, G * H, H)), "B": (B, (K, 2 * G * H))}
    if node.op == "LSTM":
        expected["P"] = (P, (K, 3 * H))
    for name, (array, shape) in expected.items():
        if array is not None and (array.shape != shape or array.dtype != W.dtype):
            raise DataError(f"{name}: {_what(array)}; expected {W.dtype} of shape {shape}")
    cell = _CELL_OF[node.op]
    biases = np.zeros((K, 2 * G * H), W.dtype) if B is None else B
    of_directions = []
    for k in range(K):
        parts = (W[k], R[k], *np.split(biases[k], 2))
        w, u, b_ih, b_hh = (
            np.ascontiguousarray(reorder_gates(part, cell, source="onnx", target="timelike"))
            for part in parts
        )
        peephole = None
        if P is not None:
            peephole = reorder_gates(P[k], "lstm_peepholes", source="onnx", target="timelike")
        of_directions.append(Weights(w, u, b_ih, b_hh, peephole))
    return tuple(of_directions)


def _what(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
