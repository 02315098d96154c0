"""The layouts in which a batch of sequences may come to a layer, all brought to rows and an address rule.

`batch_of` reads a padded, batch-first or unbatched tensor, with or without a mask, a `PackedSequence`, a
`Ragged`, a `Sequences` or a jagged nested tensor. Nothing is copied or sorted: a `Batch` holds the tensor as
it came, the rule by which the kernels find a step in it, and what turns the result back into the layout of
the input.

Letters: ``B`` sequences, ``T`` steps of the longest, ``N`` rows (steps of all sequences), ``D`` inputs, ``H``
units, ``K`` directions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from timelike.kernels import Rows
from timelike.sequences import Sequences

__all__ = [
    "Batch",
    "Expected",
    "Ragged",
    "batch_of",
    "checked_mask",
    "conform",
    "masked_rows",
    "parts_of",
    "rows_of",
]


class Ragged(NamedTuple):
    """Sequences of different lengths, one after another, without padding.

    Step ``t`` of sequence ``b`` is ``values[offsets[b] + t]``.

    Parameters
    ----------
    values : Tensor, shape (N, D)
        Steps of all sequences.
    offsets : Tensor, shape (B + 1,), int64, on the CPU
        From 0 to N, never falling. A sequence may have no steps.

    Examples
    --------
    >>> from timelike.nn import LSTM
    >>> lstm = LSTM(3, 4)
    >>> output, (h_n, c_n) = lstm(Ragged(torch.randn(5, 3), torch.tensor([0, 2, 2, 5])))
    >>> output.values.shape, h_n.shape
    (torch.Size([5, 4]), torch.Size([1, 3, 4]))
    """

    values: Tensor
    offsets: Tensor


class Batch(NamedTuple):
    """A batch in the layout in which it came."""

    x: Tensor  # (..., D), all axes but the last together are the rows
    rows: Rows
    output: Callable[[Tensor], Any] | None = None  # puts (..., K H) into the layout of the input
    order: Tensor | None = None  # the caller's sequences in the order of `rows`; None where it is the same
    inverse: Tensor | None = None
    unbatched: bool = False


class Expected(NamedTuple):
    """What a layer asks of its input, and its name for messages."""

    cell: str
    input_size: int
    dtype: torch.dtype


def batch_of(input: Any, expected: Expected, *, batch_first: bool, mask: Tensor | None = None) -> Batch:
    """Read a batch in any layout.

    Parameters
    ----------
    input : Tensor, PackedSequence, Ragged, Sequences or jagged nested tensor
    expected : Expected
    batch_first : bool
        Whether a tensor of three axes is (B, T, D) instead of (T, B, D).
    mask : Tensor of bool, optional
        Which steps of a tensor there are, in the shape of its axes but the last.

    Raises
    ------
    ValueError, RuntimeError
        For wrong types and axes, and for wrong sizes, as `torch.nn` has it.
    TypeError
        For an input of another kind.
    """
    if isinstance(input, Tensor) and not input.is_nested:
        return _dense(input, expected, batch_first, mask)
    if mask is not None:
        raise ValueError(
            f"{expected.cell}: a mask is for padded tensors; {type(input).__name__} tells by itself "
            "which steps there are"
        )
    if isinstance(input, Tensor):
        return _nested(input, expected)
    if isinstance(input, PackedSequence):
        return _packed(input, expected)
    if isinstance(input, Sequences):
        return _ragged(_shared(input), expected)
    if isinstance(input, Ragged):
        return _ragged(input, expected)
    raise TypeError(
        f"{expected.cell}: input is {type(input).__name__}; "
        "possible: Tensor, PackedSequence, Ragged, Sequences, jagged nested tensor"
    )


def _dense(x: Tensor, expected: Expected, batch_first: bool, mask: Tensor | None) -> Batch:
    if x.dim() == 3:
        B, T = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    elif x.dim() == 2:
        B, T = 1, x.shape[0]
    else:
        noun = "D tensor" if expected.cell == "RNN" else "D"
        raise ValueError(f"{expected.cell}: Expected input to be 2D or 3D, got {x.dim()}{noun} instead")
    x = rows_of(x, expected)
    if T == 0:
        raise RuntimeError(
            f"{expected.cell}: Expected sequence length to be larger than 0, got input of shape "
            f"{tuple(x.shape)}; use Ragged for sequences without steps"
        )
    batch_first = batch_first and x.dim() == 3
    if mask is None:
        rows = Rows.batch_major(B, T) if batch_first else Rows.time_major(T, B)
    else:
        rows = masked_rows(checked_mask(mask, x, expected).numpy().tobytes(), mask.shape, batch_first)
    return Batch(x, rows, unbatched=x.dim() == 2)


def checked_mask(mask: Any, x: Tensor, expected: Expected) -> Tensor:
    """Check the type and the shape of a mask.

    Raises
    ------
    TypeError, ValueError
        If it is no tensor of bool on the CPU, in the shape of the axes of `x` but the last.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"{expected.cell}: mask is {type(mask).__name__}; a Tensor of bool is needed")
    if mask.dtype is not torch.bool or not mask.is_cpu:
        raise ValueError(
            f"{expected.cell}: mask is {mask.dtype} on {mask.device}; torch.bool on the CPU is needed, "
            "True for each step that there is"
        )
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"{expected.cell}: Expected mask of shape {tuple(x.shape[:-1])} for input {tuple(x.shape)}, "
            f"got {tuple(mask.shape)}"
        )
    return mask


def _packed(packed: PackedSequence, expected: Expected) -> Batch:
    if packed.data.dim() != 2:
        raise RuntimeError(
            f"{expected.cell}: Expected packed data to be 2D, got {packed.data.dim()}D instead"
        )
    if packed.batch_sizes.dtype != torch.int64:
        raise ValueError(
            f"{expected.cell}: Expected packed batch_sizes to be int64, got {packed.batch_sizes.dtype}"
        )
    return Batch(
        rows_of(packed.data, expected),
        _packed_rows(packed.batch_sizes.numpy().tobytes()),
        lambda y: PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices),
        packed.sorted_indices,
        packed.unsorted_indices,
    )


def _ragged(ragged: Ragged, expected: Expected) -> Batch:
    values, offsets = ragged
    if not (isinstance(values, Tensor) and isinstance(offsets, Tensor)):
        raise TypeError(
            f"{expected.cell}: Ragged of {type(values).__name__} and {type(offsets).__name__}; "
            "two tensors are needed"
        )
    if values.dim() != 2:
        raise ValueError(f"{expected.cell}: Expected Ragged.values to be 2D, got {values.dim()}D instead")
    if offsets.dtype != torch.int64 or not offsets.is_cpu or offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(
            f"{expected.cell}: Expected Ragged.offsets to be a 1D int64 tensor of B + 1 numbers on the CPU, "
            f"got {tuple(offsets.shape)}, {offsets.dtype} on {offsets.device}"
        )
    numbers = offsets.numpy()
    if numbers[0] != 0 or numbers[-1] != len(values):
        raise ValueError(
            f"{expected.cell}: Expected Ragged.offsets to go from 0 to the {len(values)} rows of values, "
            f"got {numbers[0]} to {numbers[-1]}"
        )
    return Batch(rows_of(values, expected), _ragged_rows(numbers.tobytes()), lambda y: Ragged(y, offsets))


def _nested(x: Any, expected: Expected) -> Batch:
    if x.layout != torch.jagged or x.dim() != 3 or x._ragged_idx != 1:
        raise ValueError(
            f"{expected.cell}: Expected a nested tensor of layout torch.jagged and shape (B, jagged, D), "
            f"got {x.layout} of {x.dim()} axes"
        )
    values, offsets, lengths = x.values(), x.offsets(), x.lengths()
    if lengths is None:
        rows = _ragged_rows(offsets.long().numpy().tobytes())  # torch allows int32
    else:  # of a narrowed tensor: the rows between its sequences belong to none
        own = lengths.numpy()
        if (own > offsets.diff().numpy()).any():
            raise ValueError(
                f"{expected.cell}: sequences of the nested tensor overlap: {own[:10].tolist()}..."
            )
        rows = Rows(offsets[:-1].numpy(), np.arange(own.max(initial=0)), own, len(values))
    return Batch(
        rows_of(values, expected),
        rows,
        lambda y: torch.nested.nested_tensor_from_jagged(y, offsets, lengths),
    )


def parts_of(batch: Any) -> tuple[Any, ...]:
    """Give the rows of a batch in the layout of a layer's output, and what says where they belong."""
    if isinstance(batch, tuple):  # Ragged, PackedSequence
        return batch
    return (batch.values(), batch.offsets(), batch.lengths()) if batch.is_nested else (batch,)


# The layers of a network, and the steps of a stream, see the same few batch shapes again and again. Rows are
# made from a copy that nobody can write to: the caller may write to theirs before backward.


@lru_cache(maxsize=16)
def _ragged_rows(offsets: bytes) -> Rows:
    return Rows.ragged(np.frombuffer(offsets, np.int64))


@lru_cache(maxsize=16)
def _packed_rows(batch_sizes: bytes) -> Rows:
    return Rows.packed(np.frombuffer(batch_sizes, np.int64))


@lru_cache(maxsize=16)
def masked_rows(mask: bytes, shape: tuple[int, ...], batch_first: bool) -> Rows:
    """Give the rows of those steps of a padded batch that there are."""
    there = np.frombuffer(mask, np.bool_).reshape(shape if len(shape) == 2 else (*shape, 1))
    there = there if batch_first else there.T
    B, T = there.shape
    to_sequence, to_step = (T, 1) if batch_first else (1, B)
    lengths = there.sum(axis=1)
    first = there.argmax(axis=1)
    end = T - there[:, ::-1].argmax(axis=1)
    if ((end - first == lengths) | (lengths == 0)).all():
        first[lengths == 0] = 0
        return Rows(np.arange(B) * to_sequence + first * to_step, np.arange(T) * to_step, lengths, B * T)
    sequence, step = there.nonzero()
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Rows.indexed(sequence * to_sequence + step * to_step, offsets, B * T)


def _shared(sequences: Sequences) -> Ragged:
    """Share the rows with tensors; copy them where they are read-only, which no tensor can be."""
    values, offsets = (a if a.flags.writeable else a.copy() for a in (sequences.values, sequences.offsets))
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))


def rows_of(x: Tensor, expected: Expected) -> Tensor:
    """Check the type and the width of the rows."""
    x = conform(x, "input", expected.cell, expected.dtype, ValueError)
    if x.shape[-1] != expected.input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {expected.input_size}, got {x.shape[-1]}"
        )
    return x


def conform(x: Tensor, name: str, cell: str, dtype: torch.dtype, error: type[Exception]) -> Tensor:
    """Give `x` in the type of the weights: itself, or converted where autocast lets it differ.

    Raises
    ------
    error
        If it has another type or lies on another device.
    """
    if x.dtype is dtype and x.is_cpu:
        return x
    if not x.is_cpu:
        raise error(f"{cell}: {name} is on device {x.device}, but these kernels run on the CPU")
    if torch.is_autocast_enabled("cpu") and x.is_floating_point():
        return x.to(dtype)
    raise error(
        f"{cell} {name} dtype ({x.dtype}) does not match weight dtype ({dtype}). "
        f"Convert {name}: {name}.to({dtype}), or convert model: model.to({x.dtype})"
    )
