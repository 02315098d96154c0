"""The native kernels: a whole recurrent layer over a whole batch, forward and backward, per call.

Use this when you have NumPy arrays and no PyTorch, or when you build a layer of your own; use
`timelike.nn` when you train with PyTorch. Buffers may be NumPy arrays or CPU tensors of PyTorch (which is
never imported here): shapes, types and memory layout are checked before addresses go to the native code.
(`timelike.autograd` makes or checks its buffers itself, and calls the native layer by address.)

Letters: ``B`` sequences, ``T`` steps of the longest, ``N`` rows (steps of all sequences), ``D`` inputs,
``H`` units, ``R`` numbers of the hidden state (``H``, but fewer with a projection), ``G`` gates of the
parameters in the order of `torch.nn` (``i f g o``, ``r z n``), ``A`` numbers per unit on the tape.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from timelike import _core
from timelike.cells import CELLS
from timelike.errors import TimelikeError, nearest

__all__ = [
    "Gradients",
    "LayerOutput",
    "Packed",
    "Rows",
    "aligned_empty",
    "available",
    "backward",
    "forward",
    "held_weights",
    "isa",
    "native_layer",
    "run",
    "run_backward",
]

Buffer = Any  # np.ndarray or torch.Tensor
Address = int

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


@lru_cache(maxsize=64)
def native_layer(cell: str, dtype: str, name: str, D: int, H: int, R: int) -> Any:
    """Give the native functions of a cell, for layers of one size on one instruction set."""
    return getattr(_core, f"layer_{_CODES[dtype]}")(name, cell, D, H, R)


def held_weights(dtype: str) -> Any:
    """Give the native class that holds the weights of layers, copied and packed."""
    return _core.WeightsF32 if dtype == "float32" else _core.WeightsF64


def _known(cell: str, dtype: str) -> None:
    if cell not in CELLS:
        raise ValueError(f"no kernel for cell {cell!r}; {nearest(cell, CELLS)}")
    if dtype not in _CODES:
        raise TypeError(f"no kernel for dtype {dtype}; possible: float32, float64")


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


def aligned_empty(count: int, dtype: str) -> np.ndarray:
    """Memory that starts at a cache line, so that no register load crosses two."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(count + 64 // itemsize, dtype)
    start = -_core.address(raw) % 64 // itemsize
    return raw[start : start + count]


def _integers(name: str, array: Any) -> np.ndarray:
    """Copy as int64 that nobody can write to: the native code trusts what was checked."""
    given = np.asarray(array)
    base: object = given.base
    if given.dtype == np.int64 and isinstance(base, bytes):
        return given
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"{name}: dtype {given.dtype}; integers are needed")
    copy = np.asarray(given, np.int64).copy()  # the caller may write to theirs
    copy.flags.writeable = False
    return copy


class Rows:
    """Where step ``t`` of sequence ``b`` lives: row ``start[b] + step[t]`` of the row buffers.

    Where steps follow no such rule, the sum is a place in a list of rows, ``index``; see `indexed`.

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

    __slots__ = (
        "_tape",
        "complete",
        "index",
        "lengths",
        "n_rows",
        "n_tape_rows",
        "native",
        "start",
        "step",
        "tape_steps",
    )

    def __init__(self, start: Any, step: Any, lengths: Any, n_rows: int) -> None:
        self.start = _integers("start", start)
        self.step = _integers("step", step)
        self.lengths = _integers("lengths", lengths)
        self.n_rows = int(n_rows)
        self.index: np.ndarray | None = None
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
        self._bind_tape(self.start, self.step, self.n_rows, len(self.step), self.index)

    def _bind_tape(
        self, start: np.ndarray, step: np.ndarray, n_rows: int, n_steps: int, index: np.ndarray | None = None
    ) -> None:
        self._tape, self.n_tape_rows, self.tape_steps = (start, step), n_rows, n_steps
        at = _core.address
        a, c = at(self.start), at(self.step)
        tape_a, tape_c = (a, c) if start is self.start and step is self.step else (at(start), at(step))
        at_index, at_tape_index = (0 if given is None else at(given) for given in (self.index, index))
        self.native = _core.Rows(
            a, c, at(self.lengths), tape_a, tape_c, len(self.start), at_index, at_tape_index
        )

    def ring(self, n_steps: int) -> Rows:
        """Give the same sequences with a tape of ``n_steps B`` rows, which serves any so many steps in a row.

        Step ``t`` of sequence ``b`` is row ``b + (t mod n_steps) B`` of the tape: gates, cells and hidden
        states that forward keeps for backward.

        Raises
        ------
        ValueError
            If `n_steps` is not positive.
        """
        if n_steps < 1:
            raise ValueError(f"a tape of {n_steps} steps; at least 1 is needed")
        B = self.n_sequences
        rows = Rows.__new__(Rows)
        rows.start, rows.step, rows.lengths = self.start, self.step, self.lengths
        rows.n_rows, rows.complete, rows.index = self.n_rows, self.complete, self.index
        rows._bind_tape(np.arange(B), np.arange(len(self.step)) % n_steps * B, n_steps * B, n_steps)
        return rows

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
        lengths = np.empty(len(offsets) - 1, np.int64)
        longest = _core.lengths_between(_core.address(offsets), len(lengths), _core.address(lengths))
        if longest < 0:
            raise ValueError(f"offsets must start at 0 and never fall, got {offsets[:10].tolist()}...")
        # Made for every batch of a training, so the general checks of __init__ are left out.
        rows = cls.__new__(cls)
        rows.start, rows.step, rows.lengths = offsets[:-1], np.arange(longest), lengths
        rows.step.flags.writeable = rows.lengths.flags.writeable = False
        rows.n_rows, rows.complete, rows.index = int(offsets[-1]), True, None
        rows._bind()
        return rows

    @classmethod
    def indexed(cls, index: Any, offsets: Any, n_rows: int) -> Rows:
        """Sequences that follow no rule: sequence ``b`` is rows ``index[offsets[b]:offsets[b + 1]]``.

        Raises
        ------
        TypeError, ValueError
            If the numbers are not integers, the offsets do not go from 0 to the end of `index` without
            falling, or a row lies outside the buffers.
        """
        rows = cls.ragged(offsets)
        rows.index = _integers("index", index)
        if rows.index.shape != (rows.n_rows,):
            raise ValueError(f"index: shape {rows.index.shape}, but the offsets end at {rows.n_rows}")
        rows.n_rows = int(n_rows)
        if len(rows.index) and not (rows.index.min() >= 0 and rows.index.max() < n_rows):
            raise ValueError(
                f"index: rows {rows.index.min()}..{rows.index.max()}, but there are {n_rows} rows"
            )
        rows.complete = len(rows.index) == rows.n_rows
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
    U : buffer, shape (G H, R)
        State weights.
    b_ih, b_hh : buffer, shape (G H,), optional
        Biases beside ``W x`` and beside ``U h``.
    cell : str
        One of `timelike.cells.CELLS`.
    peephole : buffer, shape (3 H,), optional
        Of ``"lstm_peephole"``: weights from the cell state to i, f and o, by default zeros.
    projection : buffer, shape (R, H)
        Of ``"lstm_projected"``.
    instruction_set : str, optional
        One of `available`, by default the active one.

    Attributes
    ----------
    input_size, units, state_size : int
        D, H and R.
    n_gates, n_tape_gates : int
        G and A.
    has_cell_state : bool
        Whether there is a c beside h.
    forward : ndarray
        The part for forward.

    Raises
    ------
    TypeError
        For a dtype other than float32 and float64.
    ValueError
        For an unknown cell, for shapes that do not fit together, and for weights that the cell does not have.
    """

    __slots__ = (
        "_backward",
        "_weights",
        "cell",
        "dtype",
        "forward",
        "has_cell_state",
        "input_size",
        "isa",
        "layer",
        "n_gates",
        "n_tape_gates",
        "state_size",
        "units",
    )

    def __init__(
        self,
        W: Buffer,
        U: Buffer,
        b_ih: Buffer | None = None,
        b_hh: Buffer | None = None,
        *,
        cell: str = "lstm",
        peephole: Buffer | None = None,
        projection: Buffer | None = None,
        instruction_set: str | None = None,
    ) -> None:
        self.cell, self.dtype, self.isa = cell, _name(W.dtype), instruction_set or isa()
        _known(cell, self.dtype)
        kind = CELLS[cell]
        if peephole is not None and not kind.has_peephole:
            raise ValueError(f"{cell} has no peephole weights; lstm_peephole has")
        if (projection is not None) != kind.has_projection:
            raise ValueError("a projection is given to lstm_projected, and to no other cell")
        self.n_gates, self.has_cell_state = len(kind.gates), kind.has_cell_state
        for name, matrix in (("W", W), ("U", U)):
            if len(matrix.shape) != 2:
                raise ValueError(f"{name}: shape {tuple(matrix.shape)}, expected two axes")
        (rows, D), (_, R) = (tuple(int(n) for n in weights.shape) for weights in (W, U))
        if rows % self.n_gates or not rows:
            raise ValueError(f"W: {rows} rows are not a positive multiple of {self.n_gates} gates")
        H = rows // self.n_gates
        if projection is None:
            R = H
        self.input_size, self.units, self.state_size = D, H, R
        self.layer = native_layer(cell, self.dtype, self.isa, D, H, R)
        self.n_tape_gates = self.layer.tape_gates
        weights: dict[str, tuple[Any, ...]] = {
            "W": (W, rows, D),
            "U": (U, rows, R),
            "b_ih": (b_ih, rows),
            "b_hh": (b_hh, rows),
        }
        weights |= {"peephole": (peephole, 3 * H), "projection": (projection, R, H)}
        self._weights = weights
        self._backward: np.ndarray | None = None
        self.forward = aligned_empty(self.layer.forward_size, self.dtype)
        self.layer.pack_forward(*self._addresses(*weights, out=self.forward))

    def _addresses(self, *names: str, out: np.ndarray) -> list[Address]:
        given = {name: self._weights[name] for name in names}
        addresses = [_address(name, w, self.dtype, *shape) for name, (w, *shape) in given.items()]
        return [*addresses, out.__array_interface__["data"][0]]

    @property
    def backward(self) -> np.ndarray:
        """The part for backward."""
        if self._backward is None:
            packed = aligned_empty(self.layer.backward_size, self.dtype)
            self.layer.pack_backward(*self._addresses("W", "U", "peephole", "projection", out=packed))
            self._backward = packed
        return self._backward


def forward(
    weights: Packed,
    rows: Rows,
    x: Buffer,
    y: Buffer | None = None,
    *,
    h0: Buffer | None = None,
    c0: Buffer | None = None,
    hT: Buffer | None = None,
    cT: Buffer | None = None,
    gates: Buffer | None = None,
    cells: Buffer | None = None,
    hidden: Buffer | None = None,
    reverse: bool = False,
    begin: int = 0,
    end: int | None = None,
    threads: int = 1,
) -> None:
    """Run a layer forward over a batch, into given buffers.

    Rows that belong to no step are neither read nor written. `x` and `y` may have rows that lie apart
    (columns of a wider array), all else is contiguous. ``N'`` are the rows of the tape: ``N``, or fewer after
    `Rows.ring`.

    Parameters
    ----------
    weights : Packed
    rows : Rows
    x : buffer, shape (N, D)
        Inputs.
    y : buffer, shape (N, R), optional
        Gets the hidden states.
    h0, c0 : buffer, shapes (B, R) and (B, H), optional
        Initial hidden and cell states, by default zeros.
    hT, cT : buffer, shapes (B, R) and (B, H), optional
        Get the last states.
    gates : buffer, shape (N', A H), optional
        Gets the gate values; with `cells` the tape that `backward` needs.
    cells : buffer, shape (N', H), optional
        Gets the cell states, where the cell has any.
    hidden : buffer, shape (N', R), optional
        Gets the hidden states too, for a backward without `y`.
    reverse : bool
        Walk each sequence from its last step to its first.
    begin, end : int
        Steps of the walk to take, by default all: a sequence goes on from ``h0, c0`` at `begin` and hands
        out its states at `end`, or where it ends before.
    threads : int
        At most so many; the results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        For a buffer of another type, shape or layout.
    """
    N, K, B, D, H, R = _sizes(weights, rows)
    t, end = weights.dtype, _checked_end(rows, begin, end)
    if gates is not None or cells is not None or hidden is not None:
        _refuse_long(rows, end - begin)
    tape = weights.n_tape_gates > 0
    if (gates is not None) != (cells is not None) and tape and weights.has_cell_state:
        raise ValueError("gates and cells are given together or not at all")
    _refuse_cells(weights, c0=c0, cT=cT, cells=cells)
    weights.layer.forward(
        rows.native,
        begin,
        end,
        reverse,
        weights.forward.__array_interface__["data"][0],
        *_rows_address("x", x, t, N, D),
        _address("h0", h0, t, B, R),
        _address("c0", c0, t, B, H),
        *((0, 0) if y is None else _rows_address("y", y, t, N, R, out=True)),
        _address("hidden", hidden, t, K, R, out=True),
        _address("hT", hT, t, B, R, out=True),
        _address("cT", cT, t, B, H, out=True),
        _address("gates", gates, t, K, weights.n_tape_gates * H, out=True) if tape else 0,
        _address("cells", cells, t, K, H, out=True),
        threads,
    )


def backward(
    weights: Packed,
    rows: Rows,
    x: Buffer,
    hidden: Buffer,
    gates: Buffer | None,
    cells: Buffer | None,
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
    db_ih: Buffer | None = None,
    db_hh: Buffer | None = None,
    dpeephole: Buffer | None = None,
    dprojection: Buffer | None = None,
    dh0: Buffer | None = None,
    dc0: Buffer | None = None,
    dgates: Buffer | None = None,
    dhidden: Buffer | None = None,
    dcells: Buffer | None = None,
    reverse: bool = False,
    begin: int = 0,
    end: int | None = None,
    threads: int = 1,
) -> None:
    """Backpropagation through time over a batch, into given buffers; what is not given is not computed.

    The tape is not changed, so that a second call gives the same result.

    Parameters
    ----------
    weights, rows, x, gates, cells, h0, c0, reverse, begin, end, threads
        As in `forward`, which wrote `gates` and `cells`.
    hidden : buffer, shape (N', R)
        As forward wrote it; without `Rows.ring`, its `y`.
    dy : buffer, shape (N, R), optional
        Gradient with respect to `y`, by default zeros.
    dhT, dcT : buffer, shapes (B, R) and (B, H), optional
        Gradients with respect to the last states, by default zeros.
    dx : buffer, shape (N, D), optional
        Gets the gradient of the inputs; rows that belong to no step are not touched.
    add_dx : bool
        Add to `dx` instead of writing it.
    dW, dU : buffer, shapes (G H, D) and (G H, R), optional
        Get the gradients of the weights; both or none, and with them those of `dpeephole` [3 H] and
        `dprojection` [R, H] that the cell has.
    db_ih, db_hh : buffer, shape (G H,), optional
        With dW and dU: get the gradients of the biases.
    dh0, dc0 : buffer, shapes (B, R) and (B, H), optional
        Get the gradients of the initial states.
    dgates : buffer, shape (N', G H), optional
        Gets the gradient of every gate before its activation, at every step; for a GRU that beside ``W x``.
    dhidden : buffer, shape (N', R), optional
        Gets the gradient of the hidden state at every step, by all paths.
    dcells : buffer, shape (N', H), optional
        Likewise of the cell state: through the hidden state of its step, and all that follows.

    Raises
    ------
    TypeError, ValueError
        For a buffer of another type, shape or layout.
    """
    N, K, B, D, H, R = _sizes(weights, rows)
    t, end, GH = weights.dtype, _checked_end(rows, begin, end), weights.n_gates * weights.units
    _refuse_long(rows, end - begin)
    needed = {"dW": dW, "dU": dU}
    if CELLS[weights.cell].has_peephole:
        needed["dpeephole"] = dpeephole
    if CELLS[weights.cell].has_projection:
        needed["dprojection"] = dprojection
    if len({d is None for d in needed.values()}) > 1 or (dW is None and not db_ih is db_hh is None):
        raise ValueError(f"{', '.join(needed)} are given together or not at all, and db_ih, db_hh with them")
    _refuse_cells(weights, c0=c0, dcT=dcT, dc0=dc0, cells=cells, dcells=dcells)
    if weights.has_cell_state and cells is None:
        raise ValueError(f"{weights.cell}: backward needs the cells that forward wrote")
    if weights.n_tape_gates and gates is None:
        raise ValueError(f"{weights.cell}: backward needs the gates that forward wrote")
    packed = weights.backward  # held here: another thread may put its own in place
    weights.layer.backward(
        rows.native,
        begin,
        end,
        reverse,
        packed.__array_interface__["data"][0],
        *_rows_address("x", x, t, N, D),
        _address("h0", h0, t, B, R),
        _address("c0", c0, t, B, H),
        *_rows_address("hidden", hidden, t, K, R),
        _address("gates", gates, t, K, weights.n_tape_gates * H) if weights.n_tape_gates else 0,
        _address("cells", cells, t, K, H),
        *((0, 0) if dy is None else _rows_address("dy", dy, t, N, R)),
        _address("dhT", dhT, t, B, R),
        _address("dcT", dcT, t, B, H),
        *((0, 0) if dx is None else _rows_address("dx", dx, t, N, D, out=True)),
        add_dx,
        _address("dW", dW, t, GH, D, out=True),
        _address("dU", dU, t, GH, R, out=True),
        _address("db_ih", db_ih, t, GH, out=True),
        _address("db_hh", db_hh, t, GH, out=True),
        _address("dpeephole", dpeephole, t, 3 * H, out=True),
        _address("dprojection", dprojection, t, R, H, out=True),
        _address("dh0", dh0, t, B, R, out=True),
        _address("dc0", dc0, t, B, H, out=True),
        _address("dgates", dgates, t, K, GH, out=True),
        _address("dhidden", dhidden, t, K, R, out=True),
        _address("dcells", dcells, t, K, H, out=True),
        threads,
    )


def _sizes(weights: Packed, rows: Rows) -> tuple[int, int, int, int, int, int]:
    sizes = (weights.input_size, weights.units, weights.state_size)
    return (rows.n_rows, rows.n_tape_rows, rows.n_sequences, *sizes)


def _checked_end(rows: Rows, begin: int, end: int | None) -> int:
    steps = len(rows.step)
    end = steps if end is None else end
    if not 0 <= begin <= end <= steps:
        raise ValueError(f"steps {begin} to {end}; possible: a range within 0..{steps}")
    return end


def _refuse_long(rows: Rows, steps: int) -> None:
    if steps > rows.tape_steps:
        raise ValueError(f"a walk of {steps} steps on a tape of {rows.tape_steps}: take no more at a time")


def _refuse_cells(weights: Packed, **buffers: Buffer | None) -> None:
    if not weights.has_cell_state:
        given = [name for name, buffer in buffers.items() if buffer is not None]
        if given:
            raise ValueError(f"{weights.cell} has no cell state, but {', '.join(given)} is given")


@dataclass(frozen=True, eq=False)
class LayerOutput:
    """What a layer gives for a ragged batch, with the tape that backward needs.

    Attributes
    ----------
    y : ndarray, shape (N, R)
        Hidden states.
    hT, cT : ndarray, shapes (B, R) and (B, H)
        Last hidden and cell state of each sequence; cT is None where the cell has no cell state, like cells.
    gates : ndarray, shape (N, A H)
        Gate values at every step: ``i f g o``, ``i g o`` (coupled), ``r z n`` (reset before); for a GRU
        ``r z n`` and ``U_n h + b_hn``; nothing for a simple RNN, whose only gate is y.
    cells : ndarray, shape (N, H)
        Cell states.
    """

    y: np.ndarray
    hT: np.ndarray
    cT: np.ndarray | None
    gates: np.ndarray
    cells: np.ndarray | None
    weights: Packed
    rows: Rows
    x: np.ndarray
    h0: np.ndarray | None
    c0: np.ndarray | None
    reverse: bool


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a layer over a ragged batch; ``dx`` has the shape of ``x``, and so on.

    ``dgates`` [N, G H] is that of each gate before its activation, for a GRU that beside ``W x``; ``dhidden``
    [N, R] and ``dcells`` [N, H] are those of the states at every step, by all paths. None for what the cell
    does not have.
    """

    dx: np.ndarray
    dW: np.ndarray
    dU: np.ndarray
    db_ih: np.ndarray
    db_hh: np.ndarray
    dpeephole: np.ndarray | None
    dprojection: np.ndarray | None
    dh0: np.ndarray
    dc0: np.ndarray | None
    dgates: np.ndarray
    dhidden: np.ndarray
    dcells: np.ndarray | None


def run(
    cell: str,
    x: np.ndarray,
    offsets: Any,
    W: np.ndarray,
    U: np.ndarray,
    b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None,
    h0: np.ndarray | None = None,
    c0: np.ndarray | None = None,
    *,
    peephole: np.ndarray | None = None,
    projection: np.ndarray | None = None,
    reverse: bool = False,
    threads: int = 1,
) -> LayerOutput:
    """Run a layer over a ragged batch; the equations of each cell are those of `timelike.reference`.

    Parameters
    ----------
    cell : str
        One of the cells of `Packed`.
    x : ndarray, shape (N, D), float32 or float64
        Steps of all sequences, one sequence after another.
    offsets : array_like of int, shape (B + 1,)
        Sequence ``b`` is ``x[offsets[b]:offsets[b+1]]``.
    W, U : ndarray, shapes (G H, D) and (G H, R)
        Weights, gates in the order of `torch.nn`.
    b_ih, b_hh : ndarray, shape (G H,), optional
    h0, c0 : ndarray, shapes (B, R) and (B, H), optional
    peephole : ndarray, shape (3 H,), optional
    projection : ndarray, shape (R, H), optional
    reverse : bool
        Walk each sequence from its last step to its first.
    threads : int
        At most so many.

    Returns
    -------
    LayerOutput

    Raises
    ------
    TypeError, ValueError
        For an array of another type or shape, and for what the cell does not have.

    References
    ----------
    Hochreiter & Schmidhuber, Neural Computation 9 (1997) 1735; Gers, Schmidhuber & Cummins, Neural
    Computation 12 (2000) 2451; Cho et al., EMNLP 2014, arXiv:1406.1078; Elman, Cognitive Science 14 (1990)
    179.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> W, U = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    >>> out = run("lstm", rng.normal(size=(5, 3)), [0, 2, 5], W, U)
    >>> bool((out.hT == out.y[[1, 4]]).all())
    True
    """
    weights = Packed(W, U, b_ih, b_hh, cell=cell, peephole=peephole, projection=projection)
    rows = Rows.ragged(offsets)
    N, _, B, _, H, R = _sizes(weights, rows)
    c, t = weights.has_cell_state, weights.dtype
    y, gates = np.empty((N, R), t), np.empty((N, weights.n_tape_gates * H), t)
    hT, cT = np.empty((B, R), t), np.empty((B, H), t) if c else None
    cells = np.empty((N, H), t) if c else None
    states: dict[str, Any] = {"h0": h0, "c0": c0, "hT": hT, "cT": cT}
    forward(weights, rows, x, y, gates=gates, cells=cells, reverse=reverse, threads=threads, **states)
    return LayerOutput(y, hT, cT, gates, cells, weights, rows, x, h0, c0, reverse)


def run_backward(
    output: LayerOutput,
    dy: np.ndarray | None = None,
    dhT: np.ndarray | None = None,
    dcT: np.ndarray | None = None,
    *,
    threads: int = 1,
) -> Gradients:
    """Backpropagation through time of `run`.

    Parameters
    ----------
    output : LayerOutput
        What `run` returned.
    dy : ndarray, shape (N, R), optional
        Gradient of the loss with respect to all hidden states.
    dhT, dcT : ndarray, shapes (B, R) and (B, H), optional
        Gradients with respect to the last states.
    threads : int
        At most so many.

    Returns
    -------
    Gradients

    Raises
    ------
    TypeError, ValueError
        For an array of another type or shape, and for what the cell does not have.

    References
    ----------
    Werbos, Proc. IEEE 78 (1990) 1550. The equations are derived in ``docs/equations.md``.
    """
    w, rows = output.weights, output.rows
    N, _, B, D, H, R = _sizes(w, rows)
    GH = w.n_gates * H
    shapes: dict[str, tuple[int, ...] | None] = {
        "dx": (N, D),
        "dW": (GH, D),
        "dU": (GH, R),
        "db_ih": (GH,),
        "db_hh": (GH,),
        "dpeephole": (3 * H,) if CELLS[w.cell].has_peephole else None,
        "dprojection": (R, H) if CELLS[w.cell].has_projection else None,
        "dh0": (B, R),
        "dc0": (B, H) if w.has_cell_state else None,
        "dgates": (N, GH),
        "dhidden": (N, R),
        "dcells": (N, H) if w.has_cell_state else None,
    }
    gradients: dict[str, Any] = {
        name: None if shape is None else np.empty(shape, w.dtype) for name, shape in shapes.items()
    }
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
        threads=threads,
        **gradients,
    )
    return Gradients(**gradients)
