"""A ragged batch: sequences of any lengths in one array of rows, without padding.

Sizes: `B` sequences, `N` rows (the steps of all of them), `D` variables, `T` steps of a padded array.

- `Sequences(values, offsets)` when rows are already one after another;
- `Sequences.from_list` for a list of `[T, D]` arrays;
- `Sequences.from_awkward` for jagged columns, as uproot and awkward give them;
- `Sequences.from_padded` for `[B, T, D]` with a mask or lengths;
- `Sequences.from_torch_jagged` for a jagged nested tensor.

The rows are shared, not copied, wherever the source already has this layout; the arrays of a
`Sequences` are therefore not to be written to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError, require
from timelike.ragged import check_same_lengths, copied, flattened, gather, integers, offsets_of

__all__ = ["Sequences"]

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = "slice | Array | Sequence[int] | Sequence[bool]"


@dataclass(frozen=True, eq=False, repr=False)
class Sequences:
    """A ragged batch of sequences, with what is known of each.

    Step t of sequence b is ``values[offsets[b] + t]``.

    Parameters
    ----------
    values : array [N, D], float32 or float64
        All steps of all sequences, one after another.
    offsets : array [B+1] of integers
        Sequence b is ``values[offsets[b]:offsets[b + 1]]``; starts at 0, ends at N, never falls.
        A sequence may have no steps.
    names : sequence of D str
        Names of the variables; x0, x1, ... when not given.
    labels : array [B] of integers, optional
        Class index of each sequence, 0 or more.
    weights : array [B], optional
        Event weights, of either sign.
    events : array [B] of integers, optional
        Event numbers.
    observers : mapping of str to array [B]
        Columns that are carried along and never given to a network.
    targets : array [B, K], or [B] for K = 1, optional
        Numbers that a regression is to find; of a multilabel task 1 where a label holds, else 0.
    step_labels : array [N] of integers, optional
        Class index of each step, -1 where it has none.
    step_targets : array [N, K], or [N] for K = 1, optional
        The same as `targets` of each step, NaN where there is none.

    Raises
    ------
    DataError
        If the arrays do not fit together; the message names the first sequence that does not.

    Examples
    --------
    >>> import numpy as np
    >>> s = Sequences(np.arange(8.0).reshape(4, 2), [0, 3, 3, 4], names=["pt", "eta"])
    >>> s
    Sequences(3 sequences of 0 to 3 steps, 4 rows of pt, eta, float64)
    >>> s[0]
    array([[0., 1.],
           [2., 3.],
           [4., 5.]])
    >>> s[[2, 1]].lengths
    array([1, 0])
    """

    values: Array
    offsets: Array
    names: tuple[str, ...] = ()
    labels: Array | None = None
    weights: Array | None = None
    events: Array | None = None
    observers: Mapping[str, Array] = field(default_factory=dict)
    targets: Array | None = None
    step_labels: Array | None = None
    step_targets: Array | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype not in (np.float32, np.float64):
            raise DataError(f"values are {values.dtype}; possible: float32, float64")
        if values.ndim != 2:
            raise DataError(f"values have shape {values.shape}; two axes are needed: [rows, variables]")
        offsets = _offsets(self.offsets, len(values))
        n = len(offsets) - 1
        put = object.__setattr__
        put(self, "values", np.ascontiguousarray(values))
        put(self, "offsets", offsets)
        put(self, "names", _names(self.names, values.shape[1]))
        put(self, "labels", _per_sequence("labels", self.labels, n, np.int64))
        put(self, "weights", _per_sequence("weights", self.weights, n, np.float64))
        put(self, "events", _per_sequence("events", self.events, n, np.int64))
        observers = {k: _per_sequence(f"observer '{k}'", v, n, None) for k, v in self.observers.items()}
        put(self, "observers", observers)
        put(self, "targets", _targets("targets", self.targets, n))
        put(self, "step_labels", _per_sequence("step_labels", self.step_labels, len(values), np.int64, "row"))
        put(self, "step_targets", _targets("step_targets", self.step_targets, len(values)))
        if self.labels is not None and n and self.labels.min() < 0:
            b = int(np.argmax(self.labels < 0))
            raise DataError(f"labels: sequence {b} has class index {self.labels[b]}; 0 or more is needed")

    # Sizes

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_rows(self) -> int:
        """Number of rows N: the steps of all sequences."""
        return len(self.values)

    @property
    def n_variables(self) -> int:
        """Number of variables D."""
        return int(self.values.shape[1])

    @property
    def lengths(self) -> Array:
        """Number of steps of each sequence, [B] int64."""
        return np.diff(self.offsets)

    def __repr__(self) -> str:
        steps = f"{self.lengths.min()} to {self.lengths.max()}" if len(self) else "no"
        names = ", ".join(self.names[:6]) + (", ..." if self.n_variables > 6 else "")
        return (
            f"Sequences({len(self)} sequences of {steps} steps, "
            f"{self.n_rows} rows of {names}, {self.values.dtype})"
        )

    # Choosing and joining

    def __iter__(self) -> Iterator[Array]:
        for b in range(len(self)):
            yield self.values[self.offsets[b] : self.offsets[b + 1]]

    @overload
    def __getitem__(self, which: int | np.integer[Any]) -> Array: ...
    @overload
    def __getitem__(self, which: Index) -> Sequences: ...
    def __getitem__(self, which: int | np.integer[Any] | Index) -> Array | Sequences:
        """Give one sequence as ``[T, D]``, or several as `Sequences`.

        Parameters
        ----------
        which : int, slice, array of int, or mask [B] of bool
            Negative numbers count from the end. A slice without a step shares the rows; anything
            else gathers them.
        """
        n = len(self)
        if isinstance(which, int | np.integer) and not isinstance(which, bool):
            if not -n <= which < n:
                raise IndexError(f"sequence {which} of {n}")
            b = int(which) % n
            return self.values[self.offsets[b] : self.offsets[b + 1]]
        if isinstance(which, slice):
            start, stop, step = which.indices(n)
            if step == 1:
                stop = max(start, stop)
                cut = self.offsets[start : stop + 1]
                return self._built(
                    cut - cut[0], lambda column: column[cut[0] : cut[-1]], lambda column: column[start:stop]
                )
            which = np.arange(start, stop, step)
        index = np.asarray(which)
        if index.ndim != 1:
            raise IndexError(f"an index of shape {index.shape}; one axis is needed")
        if index.dtype == bool:
            if len(index) != n:
                raise IndexError(f"a mask of {len(index)} for {n} sequences")
            index = np.flatnonzero(index)
        elif len(index) == 0:
            index = index.astype(np.int64)
        elif not np.issubdtype(index.dtype, np.integer):
            raise IndexError(f"an index of {index.dtype}; integers or a mask are needed")
        starts, lengths = self.offsets[:-1][index], self.lengths[index]
        return self._built(
            offsets_of(lengths),
            lambda column: copied([column], 0, starts, lengths),
            lambda column: column[index],
        )

    def _built(
        self, offsets: Array, of_rows: Callable[[Array], Array], of_each: Callable[[Array], Array]
    ) -> Sequences:
        """Build sequences by what is to be done with columns of a row, and with those of a sequence."""

        def made(column: Array | None, by: Callable[[Array], Array]) -> Array | None:
            return None if column is None else by(column)

        return Sequences(
            of_rows(self.values),
            offsets,
            self.names,
            labels=made(self.labels, of_each),
            weights=made(self.weights, of_each),
            events=made(self.events, of_each),
            observers={k: of_each(v) for k, v in self.observers.items()},
            targets=made(self.targets, of_each),
            step_labels=made(self.step_labels, of_rows),
            step_targets=made(self.step_targets, of_rows),
        )

    def replace(self, **fields: Any) -> Sequences:
        """Give the same sequences with some fields put in place of others.

        Parameters
        ----------
        **fields
            Fields of `Sequences` by name.
        """
        return dataclasses.replace(self, **fields)

    @staticmethod
    def concatenate(parts: Iterable[Sequences], which: Array | None = None) -> Sequences:
        """Put batches one after another.

        Parameters
        ----------
        parts : iterable of Sequences
            At least one; all with the same names, dtype, and the same of all other fields.
        which : array of int64, optional
            Those to have of the sequences of all parts, 0 being the first, in this order. The rest is not
            copied.

        Returns
        -------
        Sequences
            The sequences of all parts, in order.

        Raises
        ------
        DataError
            If the parts do not fit together.
        IndexError
            If `which` has a number that no sequence has.
        """
        parts = list(parts)
        if not parts:
            raise DataError("nothing to concatenate")
        first = parts[0]
        for i, part in enumerate(parts[1:], 1):
            if part.names != first.names:
                raise DataError(f"concatenate: part {i} has variables {part.names}, part 0 has {first.names}")
            if part.values.dtype != first.values.dtype:
                raise DataError(
                    f"concatenate: part {i} is {part.values.dtype}, part 0 is {first.values.dtype}"
                )
            if part.observers.keys() != first.observers.keys():
                raise DataError(
                    f"concatenate: part {i} has observers {sorted(part.observers)}, "
                    f"part 0 has {sorted(first.observers)}"
                )

        def joined(name: str, put: Callable[[list[Array]], Array]) -> Array | None:
            columns = [getattr(part, name) for part in parts]
            without = [i for i, column in enumerate(columns) if column is None]
            if len(without) == len(parts):
                return None
            if without:
                raise DataError(f"concatenate: part {without[0]} has no {name}, another part has")
            return put(columns)

        def of_each(columns: list[Array]) -> Array:
            column = np.concatenate(columns)
            return column if which is None else column[which]

        def of_rows(columns: list[Array]) -> Array:
            return np.concatenate(columns) if which is None else copied(columns, of_part, starts, lengths)

        lengths = of_each([part.lengths for part in parts])
        if which is not None:
            if len(which) and which.min() < 0:
                raise IndexError(f"concatenate: sequence {which.min()}; they are counted from 0")
            starts = of_each([part.offsets[:-1] for part in parts])
            of_part = np.searchsorted(np.cumsum([len(part) for part in parts]), which, side="right")
        return Sequences(
            of_rows([part.values for part in parts]),
            offsets_of(lengths),
            first.names,
            labels=joined("labels", of_each),
            weights=joined("weights", of_each),
            events=joined("events", of_each),
            observers={k: of_each([part.observers[k] for part in parts]) for k in first.observers},
            targets=joined("targets", of_each),
            step_labels=joined("step_labels", of_rows),
            step_targets=joined("step_targets", of_rows),
        )

    # Checks

    def check_finite(self, where: str = "") -> None:
        """Raise if a value, an event weight or a target is NaN or infinite.

        Parameters
        ----------
        where : str
            Where the sequences come from, put at the head of the message.

        Raises
        ------
        DataError
            Naming the sequence, the step and the variable of the first such value.
        """
        head = f"{where}: " if where else ""
        finite = np.isfinite(self.values)
        if not finite.all():
            row, d = divmod(int(np.argmin(finite)), self.n_variables)
            # The last sequence that starts at or before the row: those before it without steps end there.
            b = int(np.searchsorted(self.offsets, row, side="right")) - 1
            raise DataError(
                f"{head}variable '{self.names[d]}' is {self.values[row, d]} "
                f"in sequence {b}, step {row - int(self.offsets[b])}"
            )
        if self.weights is not None and not np.isfinite(self.weights).all():
            b = int(np.argmin(np.isfinite(self.weights)))
            raise DataError(f"{head}the event weight is {self.weights[b]} in sequence {b}")
        if self.targets is not None and not np.isfinite(self.targets).all():
            b, k = divmod(int(np.argmin(np.isfinite(self.targets))), self.targets.shape[1])
            raise DataError(f"{head}target {k} is {self.targets[b, k]} in sequence {b}")

    # Other layouts

    @classmethod
    def from_list(cls, sequences: Iterable[npt.ArrayLike], **fields: Any) -> Sequences:
        """Make a batch from a list of arrays.

        Parameters
        ----------
        sequences : iterable of arrays [T, D] or [T]
            One per sequence, T being free; ``[T]`` stands for one variable.
        **fields
            Names, labels, weights, events, observers, as for `Sequences`.

        Returns
        -------
        Sequences

        Raises
        ------
        DataError
            If the arrays do not have the same number of variables or the same dtype.

        Examples
        --------
        >>> import numpy as np
        >>> Sequences.from_list([np.zeros((3, 2)), np.zeros((1, 2))]).offsets
        array([0, 3, 4])
        """
        arrays = [np.asarray(s) for s in sequences]
        arrays = [a[:, None] if a.ndim == 1 else a for a in arrays]
        if not arrays:
            raise DataError("a list without sequences does not say how many variables there are")
        for b, a in enumerate(arrays):
            if a.ndim != 2 or a.shape[1] != arrays[0].shape[1]:
                width = arrays[0].shape[1] if arrays[0].ndim == 2 else "variables"
                raise DataError(f"sequence {b} has shape {a.shape}; [steps, {width}] is needed")
            if a.dtype != arrays[0].dtype:
                raise DataError(f"sequence {b} is {a.dtype}, sequence 0 is {arrays[0].dtype}")
        offsets = offsets_of([len(a) for a in arrays])
        return cls(np.concatenate(arrays), offsets, **fields)

    def to_list(self) -> list[Array]:
        """Give one ``[T, D]`` array per sequence; they share the rows."""
        return list(self)

    @classmethod
    def from_awkward(cls, array: Any, **fields: Any) -> Sequences:
        """Make a batch from jagged columns.

        Parameters
        ----------
        array : awkward.Array or mapping of str to awkward.Array
            Jagged records ``B * var * {pt: float32, eta: float32}``, jagged columns by name (each
            ``B * var * float32``), or jagged rows ``B * var * D * float32``.
        **fields
            Names (only for jagged rows), labels, weights, events, observers, as for `Sequences`.

        Returns
        -------
        Sequences

        Raises
        ------
        DataError
            If two columns have different lengths in a sequence, rows do not have D numbers each, or
            something is not a number or missing.
        """
        ak = require("awkward", "data")
        if isinstance(array, Mapping):
            columns = {name: ak.Array(column) for name, column in array.items()}
        elif ak.fields(array):
            columns = {name: array[name] for name in ak.fields(array)}
        elif array.ndim == 3:
            return cls(*_jagged_rows(array), **fields)
        else:
            values, offsets = _jagged_numbers(array, "the array")
            return cls(values[:, None], offsets, **fields)
        if not columns:
            raise DataError("no columns")
        flat, offsets, first = [], np.empty(0), next(iter(columns))
        for name, column in columns.items():
            values, own = _jagged_numbers(column, f"column '{name}'")
            offsets = own if name == first else offsets
            check_same_lengths(first, np.diff(offsets), name, np.diff(own))
            flat.append(values)
        return cls(np.stack(flat, axis=1), offsets, tuple(columns), **fields)

    def to_awkward(self) -> Any:
        """Give jagged records ``B * var * {name: number, ...}``; the rows are shared."""
        ak = require("awkward", "data")
        columns = [ak.contents.NumpyArray(self.values[:, d]) for d in range(self.n_variables)]
        rows = ak.contents.RecordArray(columns, list(self.names), length=self.n_rows)
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(self.offsets), rows))

    @classmethod
    def from_padded(
        cls,
        array: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        *,
        lengths: npt.ArrayLike | None = None,
        **fields: Any,
    ) -> Sequences:
        """Make a batch from a padded array.

        Parameters
        ----------
        array : array [B, T, D]
            Padded sequences.
        mask : array [B, T] of bool, optional
            Which steps are real. A mask with holes gives a shorter sequence of the real steps.
        lengths : array [B] of integers, optional
            Number of real steps of each sequence, in place of a mask.
        **fields
            Names, labels, weights, events, observers, as for `Sequences`.

        Returns
        -------
        Sequences

        Raises
        ------
        DataError
            If the shapes do not fit, or not exactly one of `mask` and `lengths` is given.
        """
        padded = np.asarray(array)
        if padded.ndim != 3:
            raise DataError(
                f"the padded array has shape {padded.shape}; [sequences, steps, variables] is needed"
            )
        n, steps, _ = padded.shape
        if (mask is None) == (lengths is None):
            raise DataError("a padded array needs either a mask or lengths")
        if lengths is not None:
            filled = integers("lengths", lengths)
            if filled.shape != (n,):
                raise DataError(f"lengths have shape {filled.shape}; [{n}] is needed")
            bad = (filled < 0) | (filled > steps)
            if bad.any():
                b = int(np.argmax(bad))
                raise DataError(f"sequence {b} has length {filled[b]}; 0 to {steps} is possible")
            real = np.arange(steps) < filled[:, None]
        else:
            real = np.asarray(mask)
            if real.dtype != bool:
                raise DataError(f"the mask is {real.dtype}; bool is needed")
            if real.shape != (n, steps):
                raise DataError(f"the mask has shape {real.shape}; [{n}, {steps}] is needed")
        return cls(padded[real], offsets_of(real.sum(axis=1)), **fields)

    def to_padded(self, steps: int | None = None, *, fill: float = 0.0) -> tuple[Array, Array]:
        """Give a padded array and its mask.

        Parameters
        ----------
        steps : int, optional
            Number of steps T; that of the longest sequence when not given.
        fill : float
            What stands in steps that are not real.

        Returns
        -------
        array : [B, T, D]
        mask : [B, T] of bool

        Raises
        ------
        DataError
            If a sequence has more than `steps` steps: nothing is cut silently.
        """
        longest = int(self.lengths.max()) if len(self) else 0
        steps = longest if steps is None else steps
        if longest > steps:
            b = int(np.argmax(self.lengths))
            raise DataError(f"sequence {b} has {longest} steps and does not fit in {steps}")
        mask = np.arange(steps) < self.lengths[:, None]
        array = np.full((len(self), steps, self.n_variables), fill, dtype=self.values.dtype)
        array[mask] = self.values
        return array, mask

    @classmethod
    def from_torch_jagged(cls, tensor: Any, **fields: Any) -> Sequences:
        """Make a batch from a nested tensor of jagged layout, ``[B, *, D]``.

        Parameters
        ----------
        tensor : torch.Tensor
            As `torch.nested.nested_tensor` makes it with ``layout=torch.jagged``.
        **fields
            Names, labels, weights, events, observers, as for `Sequences`.

        Returns
        -------
        Sequences
            On the CPU, cut off from the graph of gradients.

        Raises
        ------
        DataError
            If the tensor has another layout.
        """
        torch = require("torch", "train")
        if not (tensor.is_nested and tensor.layout == torch.jagged):
            raise DataError(f"a nested tensor of jagged layout is needed, not one of {tensor.layout}")
        values, offsets = tensor.values().detach().cpu(), tensor.offsets().cpu().numpy()
        if tensor.dim() != 3 or values.dim() != 2 or tensor.size(2) != values.size(1):
            raise DataError(
                f"a nested tensor [sequences, steps, variables] is needed, not {tuple(tensor.shape)}"
            )
        lengths = tensor.lengths()
        if lengths is None:
            # Rows before the first and after the last offset belong to nobody.
            return cls(values.numpy()[offsets[0] : offsets[-1]], offsets - offsets[0], **fields)
        rows, offsets = gather(offsets[:-1], lengths.cpu().numpy())
        return cls(values.numpy()[rows], offsets, **fields)

    def to_torch_jagged(self) -> Any:
        """Give a nested tensor of jagged layout, ``[B, *, D]``; the rows are shared where possible."""
        torch = require("torch", "train")

        def tensor(array: Array) -> Any:
            # torch has no read-only tensors and warns of such arrays.
            return torch.from_numpy(array if array.flags.writeable else array.copy())

        return torch.nested.nested_tensor_from_jagged(tensor(self.values), offsets=tensor(self.offsets))


def _jagged_numbers(array: Any, what: str) -> tuple[Array, Array]:
    """Give the numbers of an awkward array ``B * var * number``, and the offsets of its sequences."""
    values, offsets = flattened(array, what)
    if offsets is None:
        raise DataError(f"{what} has type {array.type}; one number per step is needed")
    return values, offsets


def _jagged_rows(array: Any) -> tuple[Array, Array]:
    """Give the rows of an awkward array ``B * var * D * number``, and the offsets of its sequences."""
    ak = require("awkward", "data")
    _, offsets = _jagged_numbers(ak.num(array, axis=2), "the array")
    rows = ak.flatten(array, axis=1)
    _, cuts = _jagged_numbers(rows, "the array, its sequences in one,")
    widths = np.diff(cuts)
    if np.any(widths != widths[:1]):
        row = int(np.argmax(widths != widths[0]))
        b = int(np.searchsorted(offsets, row, side="right")) - 1
        raise DataError(
            f"sequence {b}, step {row - int(offsets[b])} has {widths[row]} variables, "
            f"the first step has {widths[0]}"
        )
    return np.asarray(ak.to_numpy(rows, allow_missing=False)), offsets


def _offsets(given: npt.ArrayLike, n_rows: int) -> Array:
    """Check offsets against the number of rows."""
    offsets = np.ascontiguousarray(integers("offsets", given))
    if offsets.ndim != 1 or len(offsets) == 0:
        raise DataError(f"offsets have shape {offsets.shape}; [sequences + 1] is needed")
    if offsets[0] != 0:
        raise DataError(f"offsets start at {offsets[0]}; 0 is needed")
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        b = int(np.argmax(falls))
        raise DataError(f"offsets fall from {offsets[b]} to {offsets[b + 1]} at sequence {b}")
    if offsets[-1] != n_rows:
        raise DataError(f"offsets end at {offsets[-1]}, and there are {n_rows} rows")
    return offsets


def _names(given: Sequence[str], n: int) -> tuple[str, ...]:
    """Check names of variables, or make them."""
    if isinstance(given, str):
        raise DataError(f"names are one text, {given!r}; a list of {n} names is needed")
    names = tuple(given) or tuple(f"x{d}" for d in range(n))
    if len(names) != n:
        raise DataError(f"{len(names)} names for {n} variables: {', '.join(map(repr, names[:10]))}")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise DataError(f"the name '{twice[0]}' is given to two variables")
    return names


def _per_sequence(
    name: str, column: npt.ArrayLike | None, n: int, dtype: Any, of: str = "sequence"
) -> Array | None:
    """Check a column of one entry per sequence, or row."""
    if column is None:
        return None
    array = integers(name, column) if dtype is np.int64 else np.asarray(column)
    if array.shape != (n,):
        raise DataError(f"{name} have shape {array.shape}; [{n}] is needed, one per {of}")
    if dtype is np.float64:
        if array.dtype.kind not in "biuf":
            raise DataError(f"{name} are {array.dtype}; numbers are needed")
        return array.astype(np.float64, copy=False)
    return array


def _targets(name: str, given: npt.ArrayLike | None, n: int) -> Array | None:
    """Check targets, and make a column of those that are one number each."""
    if given is None:
        return None
    array = np.asarray(given)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != n or array.shape[1] == 0:
        raise DataError(f"{name} have shape {np.shape(given)}; [{n}, targets] is needed")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} are {array.dtype}; numbers are needed")
    return array.astype(np.float64, copy=False)
