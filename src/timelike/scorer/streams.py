"""Scores of sequences that are still on their way, step by step.

Sizes: `S` streams, `D` variables, `C` scores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from timelike.errors import ConfigError, DataError
from timelike.scorer.prepared import Carried, Prepared, Together

if TYPE_CHECKING:
    from timelike.scorer.model import Scorer

__all__ = ["Streams"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Which: TypeAlias = "int | Sequence[int] | npt.NDArray[Any] | None"


class Streams:
    """Sequences on their way, scored after each step; made by `Scorer.stream`.

    The score after a step is what `Scorer.predict` says of the steps so far. The layers' states are the same
    to the bit; means, and matrix products of the head for another number of rows, may round in another way.

    Streams belong to one thread at a time. Make as many as are needed of one model: they are independent.
    `Scorer` has an example.

    Attributes
    ----------
    n_streams : int
        S.
    """

    def __init__(
        self, model: Scorer, network: Prepared | Together, n: int, *, ordered: bool, threads: int | None
    ) -> None:
        if n < 1:
            raise ConfigError(f"streams: {n}; at least 1")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads: {threads}; at least 1, or None for timelike.get_num_threads()")
        _check_can_stream(network, model.sequence, ordered)
        self.n_streams = n
        self._model, self._network, self._threads = model, network, threads
        self._D = len(model.variables)
        self._carried = network.begin(n)
        self._n_steps = np.zeros(n, np.int64)
        self._alone = _Alone()

    def __repr__(self) -> str:
        return f"Streams({self.n_streams} of {self._model!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("streams are not pickled; state() gives what they carry, and restore() takes it back")

    @property
    def n_steps(self) -> npt.NDArray[np.int64]:
        """Number of steps [S] that each stream has taken since it began."""
        return self._n_steps.copy()

    def step(self, x: npt.ArrayLike, which: Which = None) -> Floats:
        """Take one step of each stream, or of some.

        Parameters
        ----------
        x : array_like [S, D], or [D] of one stream
            Not transformed; columns are `Scorer.variables`.
        which : int, or sequence of n int, optional
            Which streams take a step, by default all; `x` is then [n, D], or [D].

        Returns
        -------
        array [S, C] of float64, or [C] for `x` [D]
            Scores after this step; of a model with scores for each step, those of this step.

        Raises
        ------
        DataError
            For an array of another shape or type, or a stream that is not there or given twice. Nothing has
            then happened.
        RuntimeError
            While another thread takes a step.
        """
        x = np.asarray(x)
        with self._alone:
            of = None if which is None else self._chosen(which)
            n = self.n_streams if of is None else len(of)
            self._check(x, n)
            if of is None:
                n_steps, carried = self._n_steps + 1, self._carried
            else:
                n_steps, carried = self._n_steps[of] + 1, [array[:, of] for array in self._carried]
            scores, carried = self._network.step(x, carried, n_steps, self._threads)
            self._put(n_steps, carried, of)
        return scores

    def reset(self, which: Which = None) -> None:
        """Begin again: all streams, or some; each is then before its first step.

        Raises
        ------
        DataError
            For a stream that is not there or given twice.
        """
        with self._alone:
            of = self._chosen(which)
            n = self.n_streams if of is None else len(of)
            self._put(np.zeros(n, np.int64), self._network.begin(n), of)

    def state(self, which: Which = None) -> dict[str, Array]:
        """Give what all streams, or some, carry, as arrays that `restore` takes back.

        Returns
        -------
        dict of str to array
            A copy. ``np.savez(file, **state)`` writes it, and ``np.load(file)`` can be given to `restore`.
        """
        with self._alone:
            of = slice(None) if (chosen := self._chosen(which)) is None else chosen
            arrays: dict[str, Array] = {"model": self._model.mark, "n_steps": self._n_steps[of].copy()}
            for name, array in self._named():
                arrays[name] = array[:, of].copy()
            return arrays

    def restore(self, state: Mapping[str, npt.ArrayLike], which: Which = None) -> None:
        """Go on where `state` was taken, of this or of other streams of the same model.

        Parameters
        ----------
        state : mapping of str to array
            As `state` gives it, of as many streams.
        which : int or sequence of int, optional
            Which streams get it, by default all.

        Raises
        ------
        DataError
            If it is not a state of so many streams of this model. Nothing has then happened.
        """
        with self._alone:
            of = self._chosen(which)
            n = self.n_streams if of is None else len(of)
            expected: dict[str, Array] = {"model": self._model.mark, "n_steps": np.zeros(n, np.int64)}
            expected |= {name: array[:, :n] for name, array in self._named()}
            given = {name: np.array(state[name]) for name in state}
            for name in expected.keys() ^ given.keys():
                raise DataError(f"state: {name!r} is {'missing' if name in expected else 'not part of it'}")
            for name, array in given.items():
                wanted = expected[name]
                if (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                    raise DataError(
                        f"state: {name!r} is {array.dtype} of shape {array.shape}, "
                        f"expected {wanted.dtype} of shape {wanted.shape}"
                    )
            if not np.array_equal(given["model"], expected["model"]):
                raise DataError("state: it was taken with another model")
            if (given["n_steps"] < 0).any():
                raise DataError(f"state: 'n_steps' holds {given['n_steps'].min()}; 0 or more is possible")
            self._put(given["n_steps"], [given[name] for name in self._network.carried_names], of)

    # How

    def _check(self, x: Array, n: int) -> None:
        """Refuse what is no step of n streams."""
        if x.dtype.char not in "fd":
            raise DataError(f"x is {x.dtype}; possible: float32, float64")
        if x.ndim not in (1, 2) or x.shape[-1] != self._D:
            raise DataError(
                f"x has shape {x.shape}; expected [{self._D}], or [streams, {self._D}]: "
                f"{', '.join(self._model.variables)}"
            )
        if (1 if x.ndim == 1 else len(x)) != n:
            raise DataError(f"x is of {1 if x.ndim == 1 else len(x)} streams, expected {n}")

    def _chosen(self, which: Which) -> Array | None:
        """Give the numbers of some streams, checked; None for all of them."""
        if which is None:
            return None
        of = np.atleast_1d(np.asarray(which))
        if of.ndim != 1 or (of.size and of.dtype.kind not in "iu"):
            raise DataError(f"which: {which!r}; numbers of streams are needed")
        of = of.astype(np.int64)
        for number in of.tolist():
            if not 0 <= number < self.n_streams:
                raise DataError(f"which: stream {number}; there are 0..{self.n_streams - 1}")
        if len(set(of.tolist())) != len(of):
            raise DataError("which: a stream is given twice")
        return of

    def _put(self, n_steps: Array, carried: Carried, of: Array | None) -> None:
        if of is None:
            self._n_steps, self._carried = n_steps, carried
            return
        self._n_steps[of] = n_steps
        for to, array in zip(self._carried, carried, strict=True):
            to[:, of] = array

    def _named(self) -> Iterator[tuple[str, Array]]:
        """Give all that is carried by names that tell which it is."""
        return zip(self._network.carried_names, self._carried, strict=True)


class _Alone:
    """A lock that does not wait: two threads in one stream are a mistake."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("streams serve one thread at a time: make some for each")

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _check_can_stream(network: Prepared | Together, sequence: Mapping[str, Any], ordered: bool) -> None:
    """Refuse a network that needs more than the steps so far."""
    one = network.members[0] if isinstance(network, Together) else network
    if any(stack.bidirectional for stack in one.stacks):
        raise ConfigError("a bidirectional layer reads the last step first; score whole sequences: predict")
    if one.pooling == "flatten":
        raise ConfigError("pooling: flatten reads a fixed number of steps; score whole sequences: predict")
    if ordered:
        return
    usual = {"sort_by": None, "keep_first": None, "keep_last": None, "direction": "forward"}
    for key, value in usual.items():
        if sequence.get(key, value) != value:
            raise ConfigError(
                f"the training read the steps of an event with sequence.{key}: {sequence[key]}, and a stream "
                "takes them as they come; if they come so, say ordered=True"
            )
