"""Recurrent layers without PyTorch, prepared: their weights are packed once, on NumPy arrays.

- `Recurrent.run` takes a whole batch: padded (with or without lengths), ragged, or one sequence.
- `Recurrent.stream` takes one step at a time and carries the state: for an event loop, or for samples as
  they come.
- `Recurrent.vjp` takes a whole batch there and back: gradients of all that goes in, for a training loop of
  your own, with `Recurrent.update` for the next weights.

The results are those of `timelike.nn`, to the last bit, whichever way the steps come. Inputs are checked in
native code, so that a call for a short sequence takes microseconds. For networks, use `timelike.nn` or
``timelike train``; for gates and their gradients, `timelike.kernels`.

Letters: ``B`` sequences, ``T`` steps, ``N`` rows (steps of all sequences), ``D`` inputs, ``H`` units, ``R``
numbers of the hidden state (``H``, but for a projection), ``L`` layers, ``K`` directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike import _core
from timelike.cells import CELLS, parameter_shapes
from timelike.errors import DataError, nearest
from timelike.kernels import isa
from timelike.threads import get_num_threads

__all__ = ["Gradients", "Pullback", "Recurrent", "Stream"]

Array: TypeAlias = npt.NDArray[Any]  # of float32 or float64, as the weights
State: TypeAlias = Any  # h, or (h, c) of a cell that has both
Integers: TypeAlias = npt.ArrayLike

_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr|weight_peephole)_l(\d+)(_reverse)?")
_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr")  # for native code
_VARIANTS = {"weight_hr": "lstm_projected", "weight_peephole": "lstm_peephole"}
_TORCH = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru"}


class Recurrent:
    """Recurrent layers one upon the other, in one direction or both, ready to run.

    What a layer computes stands in `timelike.nn`. The weights are copied and packed here, and by `update`;
    what happens to the arrays afterwards does not matter. Any number of threads may run one session at a
    time, and it may be pickled. It keeps the memory that its largest batch took, for the next.

    Parameters
    ----------
    weights : mapping of str to array
        Parameters by the names of `torch.nn`, a ``state_dict()`` for example: ``weight_ih_l0`` is W [G H, D],
        ``weight_hh_l0`` is U [G H, R], then ``bias_ih_l0`` and ``bias_hh_l0`` [G H] if there are biases,
        ``weight_hr_l0`` [R, H] of a projection, ``weight_peephole_l0`` [3 H]; the same with ``_l1`` for the
        second layer, and with ``_reverse`` for the other direction. All in float32, or all in float64.
    cell : str
        One of `timelike.cells.CELLS`. A ``"lstm"`` whose weights have a projection or peepholes is taken as
        such.
    batch_first : bool
        Whether padded batches are (B, T, D) instead of (T, B, D). States are (L K, B, R) all the same.
    prefix : str
        What stands before each name; names that begin otherwise are left out.
    threads : int, optional
        Use at most so many, by default as many as `timelike.get_num_threads` says; small batches use fewer.
        The results do not depend on it.
    instruction_set : str, optional
        One of `timelike.kernels.available`, by default the active one.

    Attributes
    ----------
    cell, dtype : str
    input_size, hidden_size, state_size, output_size : int
        D, H, R and K R.
    num_layers : int
    bidirectional, batch_first : bool
    threads : int or None

    Raises
    ------
    ValueError
        For an unknown cell.
    DataError
        For weights that are missing, unknown, or of a shape or type that does not fit.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> shapes = {"weight_ih_l0": (80, 6), "weight_hh_l0": (80, 20), "bias_ih_l0": 80, "bias_hh_l0": 80}
    >>> weights = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    >>> session = Recurrent(weights, "lstm")
    >>> x = rng.normal(size=(7, 6)).astype("float32")
    >>> y, (h, c) = session.run(x)
    >>> y.shape, h.shape
    ((7, 20), (1, 20))

    One step at a time the same numbers come:

    >>> stream = session.stream()
    >>> bool((y == [stream.step(step) for step in x]).all())
    True
    """

    def __init__(
        self,
        weights: Mapping[str, Any],
        cell: str = "lstm",
        *,
        batch_first: bool = False,
        prefix: str = "",
        threads: int | None = None,
        instruction_set: str | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"no cell {cell!r}; {nearest(cell, CELLS)}")
        read = _read(weights, prefix)
        for name, variant in _VARIANTS.items():
            if cell == "lstm" and f"{name}_l0" in read:
                cell = variant
        self.cell, self.batch_first = cell, bool(batch_first)
        self._prefix, self._instruction_set = prefix, instruction_set
        self.input_size, self.hidden_size, self.state_size = _sizes(read, cell, prefix)
        self.dtype = str(read["weight_ih_l0"].dtype)
        self.num_layers, suffixes = _checked(read, cell, prefix)
        self.bidirectional = len(suffixes) == 2
        self.output_size = len(suffixes) * self.state_size
        if threads is not None and threads < 1:
            raise ValueError(f"threads: {threads}; at least 1, or None for timelike.get_num_threads()")
        self.threads = threads
        ends = [f"_l{layer}{suffix}" for layer in range(self.num_layers) for suffix in suffixes]
        slots = [kind + end if kind + end in read else None for end in ends for kind in _KINDS]
        self._names = [name for name in slots if name is not None]
        columns = [self.input_size] + [self.output_size] * (self.num_layers - 1)
        self._native = _core.session(
            instruction_set or isa(),
            cell,
            self.dtype,
            CELLS[cell].has_cell_state,
            [(D, self.hidden_size, self.state_size) for D in columns],
            len(suffixes),
            slots,
            read,
            self.batch_first,
        )

    @classmethod
    def from_module(cls, module: Any, *, instruction_set: str | None = None) -> Recurrent:
        """Prepare a recurrent layer of `torch.nn` or `timelike.nn`, with the weights that it has now.

        Dropout is left out, as in evaluation. PyTorch is not imported here.

        Parameters
        ----------
        module : torch.nn.Module
            RNN, LSTM or GRU.
        instruction_set : str, optional
            As for the class.

        Raises
        ------
        TypeError
            For a module of another kind.

        Examples
        --------
        >>> from timelike.nn import GRU
        >>> Recurrent.from_module(GRU(3, 4, bidirectional=True))
        Recurrent('gru', 3, 4, bidirectional=True)
        """
        mode = getattr(module, "mode", None)
        if mode not in _TORCH:
            raise TypeError(f"{type(module).__name__}: expected RNN, LSTM or GRU of torch.nn or timelike.nn")
        cell = _TORCH[mode]
        if getattr(module, "coupled", False):
            cell = "lstm_coupled"
        if not getattr(module, "reset_after", True):
            cell = "gru_reset_before"
        return cls(module.state_dict(), cell, batch_first=module.batch_first, instruction_set=instruction_set)

    def run(
        self,
        x: Array,
        *,
        offsets: Integers | None = None,
        lengths: Integers | None = None,
        state: State = None,
        out: Array | None = None,
        threads: int | None = None,
    ) -> tuple[Array, State]:
        """Run all layers over a batch.

        Parameters
        ----------
        x : ndarray, shape (T, B, D), (B, T, D) with ``batch_first``, (T, D), or (N, D) with `offsets`
            Inputs, of the type of the weights. Rows may lie apart; what is not row by row is copied.
        offsets : array_like of int, shape (B + 1,), optional
            Sequence ``b`` is ``x[offsets[b]:offsets[b + 1]]``; it may have no steps.
        lengths : array_like of int, shape (B,), optional
            Steps of each sequence of a padded batch. What is behind them is not read, and zero in `y`.
        state : ndarray or tuple of two, optional
            Initial states, by default zeros: h (L K, B, R), or (h, c) of an LSTM, c (L K, B, H). Without the
            axis B for one sequence (T, D).
        out : ndarray, optional
            Gets `y`; contiguous.
        threads : int, optional
            In place of those of the session.

        Returns
        -------
        y : ndarray
            Hidden states of the last layer, K R numbers per step in the layout of `x`.
        state : ndarray or tuple of two
            Last states, as the initial ones.

        Raises
        ------
        TypeError, ValueError
            For an array of another type or shape, for offsets or lengths that do not fit `x`.
        """
        return self._native.run(x, offsets, lengths, state, out, True, threads or self._n_threads())  # type: ignore[no-any-return]

    def last_state(
        self,
        x: Array,
        *,
        offsets: Integers | None = None,
        lengths: Integers | None = None,
        state: State = None,
        threads: int | None = None,
    ) -> State:
        """Run all layers over a batch for the last states alone; the arguments are those of `run`.

        Examples
        --------
        >>> weights = {"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.ones((1, 1))}
        >>> adder = Recurrent(weights, "rnn_relu")
        >>> adder.last_state(np.array([[1.0], [2.0], [5.0]]), offsets=[0, 2, 3])
        array([[[3.],
                [5.]]])
        """
        return self._native.run(x, offsets, lengths, state, None, False, threads or self._n_threads())

    def vjp(
        self,
        x: Array,
        *,
        offsets: Integers | None = None,
        lengths: Integers | None = None,
        state: State = None,
        threads: int | None = None,
    ) -> tuple[tuple[Array, State], Pullback]:
        """Run all layers over a batch as `run` does, and give the way back beside the result.

        The arguments are those of `run`, but for `out`. Neither `x` nor ``y`` may be changed before the way
        back is taken: it reads them again. States and weights may be: those of the run are kept.

        Returns
        -------
        (y, state)
            As from `run`.
        pullback : Pullback
            Takes gradients of a loss by ``y`` and ``state``, and gives those by ``x``, by the initial state
            and by the weights: vector-Jacobian products.

        Raises
        ------
        TypeError, ValueError
            As `run`.

        References
        ----------
        Werbos, Proc. IEEE 78 (1990) 1550. The equations are derived in ``docs/equations.md``.

        Examples
        --------
        A training loop without PyTorch; the last state is to be the sum of the inputs:

        >>> rng = np.random.default_rng(1)
        >>> weights = {"weight_ih_l0": np.full((1, 1), 0.5), "weight_hh_l0": np.full((1, 1), 0.5)}
        >>> session, x = Recurrent(weights, "rnn_relu"), rng.uniform(size=(3, 100, 1))
        >>> for _ in range(500):
        ...     (_, h), pullback = session.vjp(x)
        ...     gradients = pullback(dstate=(h - x.sum(0)) / 100)
        ...     for name, gradient in gradients.weights.items():
        ...         weights[name] -= 0.1 * gradient
        ...     session.update(weights)
        >>> {name: round(weight.item(), 3) for name, weight in weights.items()}
        {'weight_ih_l0': 1.0, 'weight_hh_l0': 1.0}
        """
        outputs, native = self._native.vjp(x, offsets, lengths, state, threads or self._n_threads())
        return outputs, Pullback(native, threads or self._n_threads())

    def update(self, weights: Mapping[str, Any]) -> None:
        """Take other weights of the same layers.

        Parameters
        ----------
        weights : mapping of str to array
            As for the class: the same names, shapes and type.

        Raises
        ------
        DataError
            If one is missing.
        TypeError, ValueError
            For an array of another type or shape.
        """
        try:
            given = {name: _array(weights[self._prefix + name]) for name in self._names}
        except KeyError as error:
            raise DataError(f"{error.args[0]}: missing, of {self!r}") from None
        try:
            self._native.update(given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self._prefix}{error}") from None

    def stream(self, n_sequences: int | None = None) -> Stream:
        """Begin to run step by step, from states of zero.

        Parameters
        ----------
        n_sequences : int, optional
            Number B of sequences that walk in step; by default one, without an axis for it.

        Raises
        ------
        ValueError
            For layers in both directions, which need the last step first.
        """
        return Stream(self, n_sequences)

    def _n_threads(self) -> int:
        return get_num_threads() if self.threads is None else self.threads

    def __repr__(self) -> str:
        sizes = f"{self.cell!r}, {self.input_size}, {self.hidden_size}"
        if self.state_size != self.hidden_size:
            sizes += f", proj_size={self.state_size}"
        if self.num_layers > 1:
            sizes += f", num_layers={self.num_layers}"
        for name in ("bidirectional", "batch_first"):
            if getattr(self, name):
                sizes += f", {name}=True"
        return f"Recurrent({sizes})"

    def __reduce__(self) -> Any:
        # Packed weights are those of a machine: they are packed again where this arrives.
        weights = {self._prefix + name: array for name, array in self._native.weights().items()}
        options = (self.batch_first, self._prefix, self.threads, self._instruction_set)
        return _again, (weights, self.cell, *options)


class Gradients(NamedTuple):
    """Gradients of a loss by all that a session takes.

    Attributes
    ----------
    x : ndarray or None
        By the inputs; zero where no step is, None if not asked for.
    state : ndarray or tuple of two, or None
        By the initial state; None where none was given.
    weights : dict of str to ndarray
        By the names of the weights, without prefix.
    """

    x: Array | None
    state: State
    weights: dict[str, Array]


class Pullback:
    """The way back of one run of a session; made by `Recurrent.vjp`. It may be taken any number of times."""

    __slots__ = ("_native", "_threads")

    def __init__(self, native: Any, threads: int) -> None:
        self._native, self._threads = native, threads

    def __call__(
        self,
        dy: Array | None = None,
        dstate: State = None,
        *,
        wrt_input: bool = True,
        out: dict[str, Array] | None = None,
    ) -> Gradients:
        """Backpropagation through time.

        Parameters
        ----------
        dy : ndarray, optional
            Gradient of the loss by ``y``, shaped like it; by default zeros.
        dstate : ndarray or tuple of two, optional
            Gradient by the last state, shaped like it; by default zeros. Of (h, c) each may be None.
        wrt_input : bool
            Whether the gradient by the inputs is wanted.
        out : dict of str to ndarray, optional
            Get the gradients by the weights of these names; contiguous. Biases may be left out.

        Raises
        ------
        TypeError, ValueError
            For an array of another type or shape than what it belongs to, or if none is given.
        """
        return Gradients(*self._native.back(dy, dstate, wrt_input, out, self._threads))


class Stream:
    """A session one step at a time; made by `Recurrent.stream`.

    A stream serves one thread at a time. Several streams of one session are independent.
    """

    def __init__(self, session: Recurrent, n_sequences: int | None = None) -> None:
        if session.bidirectional:
            raise ValueError("a stream cannot walk back: these layers are bidirectional; use run")
        if n_sequences is not None and n_sequences < 0:
            raise ValueError(f"n_sequences: {n_sequences}; at least 0, or None for one without an axis")
        self._threads = session._n_threads()
        self._native = session._native.stream(-1 if n_sequences is None else n_sequences)

    def step(self, x: Array, out: Array | None = None) -> Array:
        """Take one step.

        Parameters
        ----------
        x : ndarray, shape (D,) or (B, D)
            Inputs, of the type of the weights.
        out : ndarray, shape (R,) or (B, R), optional
            Gets the hidden states; contiguous.

        Returns
        -------
        ndarray, shape (R,) or (B, R)
            Hidden states of the last layer: `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            For an array of another type or shape.
        RuntimeError
            While another thread takes a step.
        """
        return self._native.step(x, out, self._threads)

    @property
    def state(self) -> State:
        """States of all layers, a copy: h (L, B, R), or (h, c) of an LSTM; without B for one sequence."""
        return self._native.state()

    def reset(self, state: State = None) -> None:
        """Begin again from given states, shaped like `state`, or from zeros."""
        self._native.reset(state)


def _again(
    weights: dict[str, Array],
    cell: str,
    batch_first: bool,
    prefix: str,
    threads: int | None,
    instruction_set: str | None,
) -> Recurrent:
    return Recurrent(
        weights,
        cell,
        batch_first=batch_first,
        prefix=prefix,
        threads=threads,
        instruction_set=instruction_set,
    )


def _read(weights: Mapping[str, Any], prefix: str) -> dict[str, Array]:
    """Give the weights as arrays, by their names without the prefix."""
    read: dict[str, Array] = {}
    for name, values in weights.items():
        if not name.startswith(prefix):
            continue
        array = _array(values)
        if array.dtype not in (np.float32, np.float64):
            raise DataError(f"{name}: {array.dtype}; possible: float32, float64")
        read[name.removeprefix(prefix)] = array
    return read


def _array(values: Any) -> Array:
    if hasattr(values, "detach"):  # a tensor of PyTorch
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _checked(weights: Mapping[str, Array], cell: str, prefix: str) -> tuple[int, tuple[str, ...]]:
    """Check the weights, and give the number of layers and what ends the names of each direction."""
    matches = {name: _NAME.fullmatch(name) for name in weights}
    for name, match in matches.items():
        if match is None:
            raise DataError(f"{prefix}{name}: no parameter of a recurrent layer (is there a prefix to give?)")
    n_layers = 1 + max((int(match[2]) for match in matches.values() if match), default=0)
    suffixes = ("", "_reverse") if any(match and match[3] for match in matches.values()) else ("",)
    input_size, units, state_size = _sizes(weights, cell, prefix)
    n_biases = ("bias_ih_l0" in weights) + ("bias_hh_l0" in weights)

    wanted: dict[str, tuple[int, ...]] = {}
    for layer in range(n_layers):
        columns = state_size * len(suffixes) if layer else input_size
        shapes = parameter_shapes(cell, columns, units, proj_size=state_size, n_biases=n_biases)
        ends = [f"_l{layer}{suffix}" for suffix in suffixes]
        wanted |= {name + end: shape for end in ends for name, shape in shapes.items()}
    for name, shape in wanted.items():
        if name not in weights:
            raise DataError(f"{prefix}{name}: missing, of {n_layers} layers of {cell}")
        if weights[name].shape != shape:
            raise DataError(f"{prefix}{name}: shape {weights[name].shape}, expected {shape}")
        if weights[name].dtype != weights["weight_ih_l0"].dtype:
            raise DataError(
                f"{prefix}{name}: {weights[name].dtype}, but weight_ih_l0 is {weights['weight_ih_l0'].dtype}"
            )
    for name in weights:
        if name not in wanted:
            raise DataError(
                f"{prefix}{name}: no parameter of {n_layers} layers of {cell}; {nearest(name, wanted)}"
            )
    return n_layers, suffixes


def _sizes(weights: Mapping[str, Array], cell: str, prefix: str) -> tuple[int, int, int]:
    """Give D, H and R, as the first layer has them."""
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in weights:
            raise DataError(f"{prefix}{name}: missing; given are {', '.join(weights) or 'no weights'}")
        if weights[name].ndim != 2:
            raise DataError(f"{prefix}{name}: shape {weights[name].shape}, expected two axes")
    gates = len(CELLS[cell].gates)
    rows, input_size = weights["weight_ih_l0"].shape
    if rows % gates:
        raise DataError(
            f"{prefix}weight_ih_l0: {rows} rows, expected a multiple of the {gates} gates of {cell}"
        )
    return input_size, rows // gates, weights["weight_hh_l0"].shape[1]
