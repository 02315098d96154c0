"""The native kernels: a whole recurrent layer over a whole batch, forward and backward, per call.

Use this when you have NumPy arrays and no PyTorch, or when you build a layer of your own; use
`timelike.nn` when you train with PyTorch. Buffers may be NumPy arrays or CPU tensors of PyTorch (which is
never imported here): shapes, types and memory layout are checked before addresses go to the native code.
(`timelike.autograd` makes or checks its buffers itself, and calls the native layer by address.)

Letters: ``B`` sequences, ``T`` steps of the longest, ``N`` rows (steps of all sequences), ``D`` inputs,
``H`` units, ``G`` gates, in the order of `torch.nn` (``i f g o`` for the LSTM).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from timelike import _core
from timelike.errors import TimelikeError, nearest

__all__ = [
    "Gradients",
    "LayerOutput",
    "Packed",
    "Rows",
    "available",
    "backward",
    "forward",
    "isa",
    "lstm",
    "lstm_backward",
]

Buffer = Any  # np.ndarray or torch.Tensor
Address = int

_GATES = {"lstm": 4}
_CODES = {"float32": "f32", "float64": "f64"}


def available() -> tuple[str, ...]:
    """Instruction sets that are compiled in and that this processor runs, the fastest last.

    Examples
    --------
    >>> available()[0]
    'baseline'
    """
    return tuple(_core.instruction_sets())


@lru_cache(maxsize=1)
def isa() -> str:
    """Name of the active instruction set, chosen at its first use.

    The fastest one that the processor runs, or the one that the environment variable ``TIMELIKE_ISA``
    names.

    Raises
    ------
    TimelikeError
        If ``TIMELIKE_ISA`` names an instruction set that is not available.
    """
    known = available()
    asked = os.environ.get("TIMELIKE_ISA")
    if not asked:
        return known[-1]
    if asked not in known:
        raise TimelikeError(
            f"TIMELIKE_ISA={asked!r}: no such kernels on this machine; {nearest(asked, known)}"
        )
    return asked


@lru_cache(maxsize=32)
def _layer(cell: str, dtype: str, name: str) -> Any:
    if cell not in _GATES:
        raise ValueError(f"no kernel for cell {cell!r}; {nearest(cell, _GATES)}")
    if dtype not in _CODES:
        raise TypeError(f"no kernel for dtype {dtype}; possible: float32, float64")
    return getattr(_core, f"{cell}_{_CODES[dtype]}")(name)


@lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _address(name: str, buffer: Buffer | None, dtype: str, *shape: int, out: bool = False) -> Address:
    """Address of a contiguous buffer of exactly this type and shape; 0 for None."""
    if buffer is None:
        return 0
    address, stride = _rows_address(name, buffer, dtype, *shape, out=out)
    if len(shape) == 2 and shape[0] > 1 and stride != shape[1]:
        raise ValueError(f"{name}: must be contiguous")
    return address


def _rows_address(
    name: str, buffer: Buffer, dtype: str, *shape: int, out: bool = False
) -> tuple[Address, int]:
    """Address and row stride of a buffer whose rows are contiguous; the rows may lie apart.

    A buffer that is written to (`out`) must be writeable, and its rows must not overlap.
    """
    # Ten of these stand before each native call, so that every lookup here counts.
    if _name(buffer.dtype) != dtype:
        raise TypeError(f"{name}: dtype {_name(buffer.dtype)}, but the weights are {dtype}")
    if buffer.shape != shape:
        raise ValueError(f"{name}: shape {tuple(buffer.shape)}, expected {shape}")
    if isinstance(buffer, np.ndarray):
        address, read_only = buffer.__array_interface__["data"]
        if out and read_only:
            raise ValueError(f"{name}: is read-only, but is written to")
        size = buffer.itemsize
        if address % size or any(s % size for s in buffer.strides):
            raise ValueError(f"{name}: its numbers must lie at multiples of {size} bytes")
        strides = tuple(s // size for s in buffer.strides)
    else:
        if not buffer.is_cpu:
            raise ValueError(f"{name}: on device {buffer.device}, but these kernels run on the CPU")
        if buffer.is_neg():
            raise ValueError(f"{name}: is a view that negates its memory; give resolve_neg() of it")
        address = buffer.data_ptr()
        strides = buffer.stride()
    if 0 in shape:
        return address, shape[-1]
    if address == 0:
        raise ValueError(f"{name}: has no memory (a FakeTensor, as in tracing?)")
    if shape[-1] > 1 and strides[-1] != 1:
        raise ValueError(f"{name}: the last dimension must be contiguous")
    stride = strides[0] if len(shape) == 2 and shape[0] > 1 else shape[-1]
    if out and abs(stride) < shape[-1]:
        raise ValueError(f"{name}: its rows overlap, but are written to")
    return address, stride


def _aligned_empty(count: int, dtype: str) -> np.ndarray:
    """Memory that starts at a cache line, so that no register load crosses two."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(count + 64 // itemsize, dtype)
    start = -raw.__array_interface__["data"][0] % 64 // itemsize
    return raw[start : start + count]


def _integers(name: str, array: Any) -> np.ndarray:
    """Copy as int64 that nobody can write to: the native code trusts what was checked."""
    given = np.asarray(array)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name}: dtype {given.dtype}; integers are needed")
    copy = np.asarray(given, np.int64).copy()  # the caller may write to theirs
    copy.flags.writeable = False
    return copy


class Rows:
    """Where step ``t`` of sequence ``b`` lives: row ``start[b] + step[t]`` of the row buffers.

    Parameters
    ----------
    start : array_like of int, shape (B,)
    step : array_like of int, shape (T,)
        ``T`` may exceed the longest sequence.
    lengths : array_like of int, shape (B,)
        Number of steps of each sequence, zero included.
    n_rows : int
        Rows of the buffers that this describes.

    Raises
    ------
    TypeError
        If the numbers are not integers.
    ValueError
        If a step would lie outside the buffers.

    Examples
    --------
    >>> Rows.ragged([0, 3, 3, 5]).lengths
    array([3, 0, 2])
    """

    __slots__ = ("complete", "lengths", "n_rows", "native", "start", "step")

    def __init__(self, start: Any, step: Any, lengths: Any, n_rows: int) -> None:
        self.start = _integers("start", start)
        self.step = _integers("step", step)
        self.lengths = _integers("lengths", lengths)
        self.n_rows = int(n_rows)
        if self.start.ndim != 1 or self.step.ndim != 1 or self.start.shape != self.lengths.shape:
            raise ValueError(
                f"start {self.start.shape} and lengths {self.lengths.shape} must be 1-D and equally long, "
                f"step {self.step.shape} 1-D"
            )
        self.complete = int(self.lengths.sum()) == self.n_rows
        if len(self.lengths):
            longest = int(self.lengths.max())
            if int(self.lengths.min()) < 0 or longest > len(self.step):
                raise ValueError(
                    f"lengths must lie in 0..{len(self.step)}, got {self.lengths.min()}..{longest}"
                )
            if longest:
                used = self.lengths > 0
                reach = np.maximum.accumulate(self.step)[self.lengths[used] - 1] + self.start[used]
                lowest = int(self.step[:longest].min()) + int(self.start[used].min())
                # A sum beyond int64 wraps: from below 0 it is caught as an int, from above it is negative.
                if lowest < 0 or int(reach.min()) < 0 or int(reach.max()) >= self.n_rows:
                    raise ValueError(
                        f"steps lie in rows {lowest}..{int(reach.max())}, but there are {self.n_rows} rows"
                    )
        self._bind()

    def _bind(self) -> None:
        addresses = [a.__array_interface__["data"][0] for a in (self.start, self.step, self.lengths)]
        self.native = _core.Rows(addresses[0], addresses[1], addresses[2], len(self.start))

    @property
    def n_sequences(self) -> int:
        """Number of sequences ``B``."""
        return len(self.start)

    @classmethod
    def ragged(cls, offsets: Any) -> Rows:
        """Sequences one after another: sequence ``b`` is rows ``offsets[b]`` to ``offsets[b + 1]``.

        Raises
        ------
        TypeError, ValueError
            If the offsets are not integers, do not start at 0, or fall.
        """
        offsets = _integers("offsets", offsets)
        if offsets.ndim != 1 or len(offsets) < 1:
            raise ValueError(f"offsets: shape {offsets.shape}, expected (B + 1,)")
        lengths = offsets[1:] - offsets[:-1]
        longest = int(lengths.max(initial=0))
        if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
            raise ValueError(f"offsets must start at 0 and never fall, got {offsets[:10].tolist()}...")
        # Made for every batch of a training, so the general checks of __init__ are left out.
        rows = cls.__new__(cls)
        rows.start, rows.step, rows.lengths = offsets[:-1], np.arange(longest), lengths
        rows.step.flags.writeable = rows.lengths.flags.writeable = False
        rows.n_rows, rows.complete = int(offsets[-1]), True
        rows._bind()
        return rows

    @classmethod
    @lru_cache(maxsize=64)
    def time_major(cls, n_steps: int, n_sequences: int) -> Rows:
        """Full sequences in an array [T, B, ...]."""
        return cls(
            np.arange(n_sequences),
            np.arange(n_steps) * n_sequences,
            np.full(n_sequences, n_steps),
            n_steps * n_sequences,
        )

    @classmethod
    @lru_cache(maxsize=64)
    def batch_major(cls, n_sequences: int, n_steps: int) -> Rows:
        """Full sequences in an array [B, T, ...]."""
        return cls(
            np.arange(n_sequences) * n_steps,
            np.arange(n_steps),
            np.full(n_sequences, n_steps),
            n_steps * n_sequences,
        )

    @classmethod
    def packed(cls, batch_sizes: Any) -> Rows:
        """`torch.nn.utils.rnn.PackedSequence`: at each step the rows of the sequences that are left.

        Raises
        ------
        TypeError, ValueError
            If the batch sizes are not integers, or rise, or are not positive.
        """
        sizes = _integers("batch sizes", batch_sizes)
        if sizes.ndim != 1 or (sizes < 1).any() or (sizes[1:] > sizes[:-1]).any():
            raise ValueError(f"batch sizes must be positive and never rise, got {sizes[:10].tolist()}...")
        n = int(sizes[0]) if len(sizes) else 0
        lengths = np.searchsorted(-sizes, -np.arange(n), side="left")
        step = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
        return cls(np.arange(n), step, lengths, int(sizes.sum()))


class Packed:
    """Weights of one layer and direction, laid out for the kernels.

    Pack once per change of the weights. The part for backward is packed at its first use, from the same
    arrays, which must still hold the same values then.

    Parameters
    ----------
    W : buffer, shape (G H, D)
        Input weights.
    U : buffer, shape (G H, H)
        State weights.
    b_ih, b_hh : buffer, shape (G H,), optional
        Biases; both are added.
    cell : {"lstm"}
    instruction_set : str, optional
        One of `available`, by default the active one.

    Raises
    ------
    TypeError
        For a dtype other than float32 and float64.
    ValueError
        For shapes that do not fit together.
    """

    __slots__ = ("U", "W", "_backward", "cell", "dtype", "forward", "input_size", "isa", "layer", "units")

    def __init__(
        self,
        W: Buffer,
        U: Buffer,
        b_ih: Buffer | None = None,
        b_hh: Buffer | None = None,
        *,
        cell: str = "lstm",
        instruction_set: str | None = None,
    ) -> None:
        self.cell, self.dtype, self.isa = cell, _name(W.dtype), instruction_set or isa()
        self.layer = _layer(cell, self.dtype, self.isa)
        rows, self.input_size = (int(n) for n in W.shape)
        gates = _GATES[cell]
        if rows % gates:
            raise ValueError(f"W: {rows} rows are not a multiple of {gates} gates")
        self.units = rows // gates
        D, H = self.input_size, self.units
        self.W, self.U = W, U
        self.forward = _aligned_empty(self.layer.forward_size(D, H), self.dtype)
        self._backward: np.ndarray | None = None
        self.layer.pack_forward(
            D,
            H,
            _address("W", W, self.dtype, rows, D),
            _address("U", U, self.dtype, rows, H),
            _address("b_ih", b_ih, self.dtype, rows),
            _address("b_hh", b_hh, self.dtype, rows),
            self.forward.__array_interface__["data"][0],
        )

    @property
    def n_gates(self) -> int:
        """Number of gates ``G``."""
        return _GATES[self.cell]

    @property
    def backward(self) -> np.ndarray:
        """The part for backward."""
        if self._backward is None:
            D, H, rows = self.input_size, self.units, self.n_gates * self.units
            packed = _aligned_empty(self.layer.backward_size(D, H), self.dtype)
            self.layer.pack_backward(
                D,
                H,
                _address("W", self.W, self.dtype, rows, D),
                _address("U", self.U, self.dtype, rows, H),
                packed.__array_interface__["data"][0],
            )
            self._backward = packed
        return self._backward


def forward(
    weights: Packed,
    rows: Rows,
    x: Buffer,
    y: Buffer,
    *,
    h0: Buffer | None = None,
    c0: Buffer | None = None,
    hT: Buffer | None = None,
    cT: Buffer | None = None,
    gates: Buffer | None = None,
    cells: Buffer | None = None,
    reverse: bool = False,
) -> None:
    """Run a layer forward over a batch, into given buffers.

    Rows that belong to no step are neither read nor written. `x` and `y` may have rows that lie apart
    (columns of a wider array), all else is contiguous.

    Parameters
    ----------
    weights : Packed
    rows : Rows
    x : buffer, shape (N, D)
        Inputs.
    y : buffer, shape (N, H)
        Gets the hidden states.
    h0, c0 : buffer, shape (B, H), optional
        Initial hidden and cell states, by default zeros.
    hT, cT : buffer, shape (B, H), optional
        Get the last states.
    gates : buffer, shape (N, G H), optional
        Gets the gate values; with `cells` the tape that `backward` needs.
    cells : buffer, shape (N, H), optional
        Gets the cell states.
    reverse : bool
        Walk each sequence from its last step to its first.

    Raises
    ------
    TypeError, ValueError
        For a buffer of another type, shape or layout.
    """
    N, B, D, H, t = rows.n_rows, rows.n_sequences, weights.input_size, weights.units, weights.dtype
    if (gates is None) != (cells is None):
        raise ValueError("gates and cells are given together or not at all")
    weights.layer.forward(
        rows.native,
        reverse,
        D,
        H,
        weights.forward.__array_interface__["data"][0],
        *_rows_address("x", x, t, N, D),
        _address("h0", h0, t, B, H),
        _address("c0", c0, t, B, H),
        *_rows_address("y", y, t, N, H, out=True),
        _address("hT", hT, t, B, H, out=True),
        _address("cT", cT, t, B, H, out=True),
        _address("gates", gates, t, N, weights.n_gates * H, out=True),
        _address("cells", cells, t, N, H, out=True),
    )


def backward(
    weights: Packed,
    rows: Rows,
    x: Buffer,
    y: Buffer,
    gates: Buffer,
    cells: Buffer,
    *,
    h0: Buffer | None = None,
    c0: Buffer | None = None,
    dy: Buffer | None = None,
    dhT: Buffer | None = None,
    dcT: Buffer | None = None,
    dx: Buffer | None = None,
    add_dx: bool = False,
    dW: Buffer | None = None,
    dU: Buffer | None = None,
    db: Buffer | None = None,
    dh0: Buffer | None = None,
    dc0: Buffer | None = None,
    dgates: Buffer | None = None,
    reverse: bool = False,
) -> None:
    """Backpropagation through time over a batch, into given buffers; what is not given is not computed.

    The tape is not changed, so that a second call gives the same result.

    Parameters
    ----------
    weights, rows, x, y, gates, cells, h0, c0, reverse
        As in `forward`, which wrote `y`, `gates` and `cells`.
    dy : buffer, shape (N, H), optional
        Gradient with respect to `y`, by default zeros.
    dhT, dcT : buffer, shape (B, H), optional
        Gradients with respect to the last states, by default zeros.
    dx : buffer, shape (N, D), optional
        Gets the gradient of the inputs; rows that belong to no step are not touched.
    add_dx : bool
        Add to `dx` instead of writing it.
    dW, dU, db : buffer, shapes (G H, D), (G H, H), (G H,), optional
        Get the gradients of the weights and of either bias; all three or none.
    dh0, dc0 : buffer, shape (B, H), optional
        Get the gradients of the initial states.
    dgates : buffer, shape (N, G H), optional
        Gets the gradient of every gate before its activation, at every step.

    Raises
    ------
    TypeError, ValueError
        For a buffer of another type, shape or layout.
    """
    N, B, D, H, t = rows.n_rows, rows.n_sequences, weights.input_size, weights.units, weights.dtype
    GH = weights.n_gates * H
    if len({dW is None, dU is None, db is None}) > 1:
        raise ValueError("dW, dU and db are given together or not at all")
    packed = weights.backward  # held here: another thread may put its own in place
    weights.layer.backward(
        rows.native,
        reverse,
        D,
        H,
        packed.__array_interface__["data"][0],
        *_rows_address("x", x, t, N, D),
        _address("h0", h0, t, B, H),
        _address("c0", c0, t, B, H),
        *_rows_address("y", y, t, N, H),
        _address("gates", gates, t, N, GH),
        _address("cells", cells, t, N, H),
        *((0, 0) if dy is None else _rows_address("dy", dy, t, N, H)),
        _address("dhT", dhT, t, B, H),
        _address("dcT", dcT, t, B, H),
        *((0, 0) if dx is None else _rows_address("dx", dx, t, N, D, out=True)),
        add_dx,
        _address("dW", dW, t, GH, D, out=True),
        _address("dU", dU, t, GH, H, out=True),
        _address("db", db, t, GH, out=True),
        _address("dh0", dh0, t, B, H, out=True),
        _address("dc0", dc0, t, B, H, out=True),
        _address("dgates", dgates, t, N, GH, out=True),
    )


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What a layer gives for a ragged batch, with the tape that backward needs.

    Attributes
    ----------
    y : ndarray, shape (N, H)
        Hidden states.
    hT, cT : ndarray, shape (B, H)
        Last hidden and cell state of each sequence.
    gates : ndarray, shape (N, 4 H)
        Gate values ``i f g o`` at every step.
    cells : ndarray, shape (N, H)
        Cell states.
    """

    y: np.ndarray
    hT: np.ndarray
    cT: np.ndarray
    gates: np.ndarray
    cells: np.ndarray
    weights: Packed
    rows: Rows
    x: np.ndarray
    h0: np.ndarray | None
    c0: np.ndarray | None
    reverse: bool


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a layer over a ragged batch; ``dx`` has the shape of ``x``, and so on.

    ``db`` is the gradient of either bias; ``dgates`` [N, 4 H] that of each gate before its activation.
    """

    dx: np.ndarray
    dW: np.ndarray
    dU: np.ndarray
    db: np.ndarray
    dh0: np.ndarray
    dc0: np.ndarray
    dgates: np.ndarray


def lstm(
    x: np.ndarray,
    offsets: Any,
    W: np.ndarray,
    U: np.ndarray,
    b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> LayerOutput:
    """LSTM over a ragged batch: ``c_t = f c_{t-1} + i g``, ``h_t = o tanh(c_t)``.

    Parameters
    ----------
    x : ndarray, shape (N, D), float32 or float64
        Steps of all sequences, one sequence after another.
    offsets : array_like of int, shape (B + 1,)
        Sequence ``b`` is ``x[offsets[b]:offsets[b + 1]]``.
    W, U : ndarray, shapes (4 H, D) and (4 H, H)
        Weights, gates in the order ``i f g o``.
    b_ih, b_hh : ndarray, shape (4 H,), optional
    h0, c0 : ndarray, shape (B, H), optional
    reverse : bool
        Walk each sequence from its last step to its first.

    Returns
    -------
    LayerOutput

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735; Gers, Schmidhuber & Cummins, Neural
    Computation 12 (2000) 2451.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> W, U = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    >>> out = lstm(rng.normal(size=(5, 3)), [0, 2, 5], W, U)
    >>> bool((out.hT == out.y[[1, 4]]).all())
    True
    """
    weights = Packed(W, U, b_ih, b_hh)
    rows = Rows.ragged(offsets)
    N, B, H, t = rows.n_rows, rows.n_sequences, weights.units, weights.dtype
    y, cells, gates = np.empty((N, H), t), np.empty((N, H), t), np.empty((N, 4 * H), t)
    hT, cT = np.empty((B, H), t), np.empty((B, H), t)
    forward(weights, rows, x, y, h0=h0, c0=c0, hT=hT, cT=cT, gates=gates, cells=cells, reverse=reverse)
    return LayerOutput(y, hT, cT, gates, cells, weights, rows, x, h0, c0, reverse)


def lstm_backward(
    output: LayerOutput,
    dy: np.ndarray | None = None,
    dhT: np.ndarray | None = None,
    dcT: np.ndarray | None = None,
) -> Gradients:
    """Backpropagation through time of `lstm`.

    Parameters
    ----------
    output : LayerOutput
        What `lstm` returned.
    dy : ndarray, shape (N, H), optional
        Gradient of the loss with respect to all hidden states.
    dhT, dcT : ndarray, shape (B, H), optional
        Gradients with respect to the last states.

    Returns
    -------
    Gradients

    References
    ----------
    Werbos, Proc. IEEE 78 (1990) 1550. The equations are derived in ``docs/equations.md``.
    """
    w, rows = output.weights, output.rows
    N, B, D, H, t = rows.n_rows, rows.n_sequences, w.input_size, w.units, w.dtype
    shapes = ((N, D), (4 * H, D), (4 * H, H), (4 * H,), (B, H), (B, H), (N, 4 * H))
    gradients = Gradients(*(np.empty(shape, t) for shape in shapes))
    backward(
        w,
        rows,
        output.x,
        output.y,
        output.gates,
        output.cells,
        h0=output.h0,
        c0=output.c0,
        dy=dy,
        dhT=dhT,
        dcT=dcT,
        reverse=output.reverse,
        **vars(gradients),
    )
    return gradients
