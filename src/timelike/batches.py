"""From sequences to batches for training, and the weights of their events.

Data are kept in memory as tensors; a batch is a view of rows that were shuffled many batches at a time, so
that nothing is padded, copied twice, or walked event by event.

Sizes: `B` sequences, `N` rows, `C` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from timelike.data.answers import answered_steps, filled
from timelike.errors import DataError
from timelike.network import ragged
from timelike.nn import Ragged
from timelike.ragged import copied, gather, offsets_of
from timelike.sequences import Sequences

__all__ = [
    "Answers",
    "Batch",
    "Batches",
    "Labelled",
    "ShuffledBatches",
    "answer_weights",
    "answers",
    "class_factors",
    "event_weights",
    "signed",
]

# Batches whose rows are gathered at once: one pass over memory instead of many small ones, and no second
# copy of all data.
_BATCHES_AT_ONCE = 64


class Batch(NamedTuple):
    """Some sequences with what is needed for the loss."""

    rows: Ragged  # values [N, D], offsets [B+1]
    labels: Tensor  # [B] int64; of a regression the targets, [B, K]; where each step has its own [N, ...]
    weights: Tensor  # [B], or [N]


class Batches(Protocol):
    """What gives the batches of epoch after epoch."""

    def __len__(self) -> int:
        """Give the number of batches in an epoch."""

    @property
    def sizes(self) -> Tensor:
        """Sequences in each batch."""

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Draw an order, and give the batches of an epoch but the first so many."""

    def random_state(self, *, within: bool) -> Mapping[str, Any]:
        """Give the state from which the order of the epoch is drawn: of this one, or of the next."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Draw the next order from a state that `random_state` gave."""

    def close(self) -> None:
        """Take note that no more batches are needed."""


class Labelled(Protocol):
    """Events of which the labels or targets and the weights are known."""

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """Class indices [B]."""

    @property
    def targets(self) -> npt.NDArray[Any] | None:
        """Numbers to find [B, K]."""

    @property
    def weights(self) -> npt.NDArray[Any] | None:
        """Event weights [B]; None: all 1."""

    def __len__(self) -> int:
        """Give the number of events B."""


def event_weights(
    sequences: Labelled,
    class_names: tuple[str, ...] | None,
    *,
    balance: bool | Literal["number"],
    where: str,
    negative: Literal["use", "ignore", "absolute"] = "use",
) -> npt.NDArray[np.float64]:
    """Scale the event weights to a mean of one, in each class if they are to be balanced.

    Parameters
    ----------
    sequences : Sequences, or others with labels
        Without weights each event weighs 1.
    class_names : tuple of C str, or None
        What errors call the classes. None for a regression: the events need no labels and are one class.
    balance : bool or "number"
        Give every class the same sum, B / C, or that of its number of events.
    where : str
        What errors call these events.
    negative : {"use", "ignore", "absolute"}
        What becomes of negative weights: they stay, become 0, or lose their sign.

    Returns
    -------
    array [B]
        Weights that sum to B.

    Raises
    ------
    DataError
        If a class has no events, or its weights do not have a positive sum.
    """
    n, labels = len(sequences), sequences.labels
    if class_names is None:
        labels, class_names = np.zeros(n, dtype=np.int64), ("",)
    if labels is None:
        raise DataError(f"{where}: the events have no labels")
    weights = np.ones(n) if sequences.weights is None else sequences.weights
    weights = signed(weights, negative)
    counts = np.bincount(labels, minlength=len(class_names))
    sums = np.bincount(labels, weights=weights, minlength=len(class_names)).astype(np.float64)
    factors = class_factors(class_names, counts, sums, balance=balance, where=where)
    scaled: npt.NDArray[np.float64] = weights * factors[labels]
    return scaled


def signed(
    weights: npt.NDArray[np.float64], negative: Literal["use", "ignore", "absolute"]
) -> npt.NDArray[np.float64]:
    """Make of negative weights what they are to become."""
    if negative == "use":
        return weights
    return np.abs(weights) if negative == "absolute" else np.maximum(weights, 0.0)


def class_factors(
    class_names: tuple[str, ...],
    counts: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    *,
    balance: bool | Literal["number"],
    where: str,
) -> npt.NDArray[np.float64]:
    """Give the factors [C] that scale the weights of the events of each class; see `event_weights`.

    Parameters
    ----------
    class_names : tuple of C str
    counts, sums : array [C]
        Numbers of events, and sums of their weights.
    balance, where
        As of `event_weights`.

    Raises
    ------
    DataError
        If a class has no events, or its weights do not have a positive sum.
    """
    n = int(counts.sum())
    for name, count, total in zip(class_names, counts, sums, strict=True):
        of_class = f" of class {name!r}" if name else ""
        if not count:
            raise DataError(f"{where}: no event{of_class} among {n}")
        # Scaled or not: with a negative sum, ever worse scores of the class would be an ever better loss.
        if not total > 0.0:
            raise DataError(
                f"{where}: the weights of the {count} events{of_class} sum to {total:g}; "
                "a positive sum is needed"
            )
    if balance == "number":
        return counts / sums
    return n / len(class_names) / sums if balance else np.full(len(class_names), n / sums.sum())


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network is to find.

    Attributes
    ----------
    values : Tensor
        Labels [B] of int64, or targets [B, K]; of each step [N] or [N, K].
    answered : array [N] of bool, or None
        Steps that have an answer; for the others `values` are 0. None: all have one.
    """

    values: Tensor
    answered: npt.NDArray[np.bool_] | None = None


def answers(sequences: Labelled, dtype: torch.dtype, *, targets: bool, per_step: bool = False) -> Answers:
    """Give what a network is to find of each sequence, or of each step.

    Parameters
    ----------
    sequences : Sequences
    dtype : torch.dtype
        Of targets.
    targets : bool
        Whether these are asked for, and not labels.
    per_step : bool
        Whether those of steps are.

    Raises
    ------
    DataError
        If the sequences have none.
    """
    what = f"{'step_' if per_step else ''}{'targets' if targets else 'labels'}"
    given = getattr(sequences, what, None)
    if given is None:
        raise DataError(f"the sequences have no {what}")
    answered = None
    if per_step:
        answered = answered_steps(given)
        if not answered.any():
            none = "all are NaN" if targets else "no condition holds"
            raise DataError(
                f"no step has any {what.removeprefix('step_')}: {none}, or data.horizon is beyond every end"
            )
        given = filled(given, answered)
    tensor = torch.from_numpy(np.array(given))
    return Answers(tensor.to(dtype) if targets else tensor, answered)


def answer_weights(
    sequences: Sequences,
    class_names: tuple[str, ...] | None,
    *,
    balance: bool | Literal["number"],
    where: str,
    negative: Literal["use", "ignore", "absolute"] = "use",
    per_step: bool = False,
) -> npt.NDArray[np.float64]:
    """Give the weights of what a network is to find: of sequences as `event_weights`, or of each step.

    A step has the weight of its event, 0 where it has no answer; those of all steps have a mean of one, and
    with `balance` classes of steps are balanced.

    Parameters
    ----------
    sequences, class_names, balance, where, negative
        As of `event_weights`.
    per_step : bool

    Returns
    -------
    array [B] or [N]
    """
    how: dict[str, Any] = {"balance": balance, "where": where, "negative": negative}
    if not per_step:
        return event_weights(sequences, class_names, **how)
    found = answers(sequences, torch.float64, targets=class_names is None, per_step=True)
    assert found.answered is not None
    of_events = np.ones(len(sequences)) if sequences.weights is None else sequences.weights
    weights = np.repeat(of_events, sequences.lengths)
    labels = found.values.numpy()[found.answered] if class_names is not None else None
    own = event_weights(_Steps(labels, weights[found.answered]), class_names, **how)
    scaled = np.zeros(len(weights))
    scaled[found.answered] = own * (len(weights) / len(own))
    return scaled


@dataclass(frozen=True, eq=False)
class _Steps:
    """Steps as if they were events."""

    labels: npt.NDArray[Any] | None
    weights: npt.NDArray[np.float64]
    targets: ClassVar[None] = None

    def __len__(self) -> int:
        return len(self.weights)


class ShuffledBatches:
    """Batches of all sequences in an order that is new in every epoch.

    Parameters
    ----------
    sequences : Sequences
        Transformed, with labels or targets.
    weights : array [B], or [N]
        For the loss: of events, or of their steps.
    batch_size : int
        Sequences in a batch at most. Batches are as equal as can be, so that none is a small rest whose
        few events would make a step as large as any other.
    dtype : torch.dtype
        Of the rows and weights.
    seed : int
        Of the order.
    regression : bool
        Whether batches have the targets in place of the labels.
    per_step : bool
        Whether they have those of each step. Sequences without steps are then left out.
    """

    def __init__(
        self,
        sequences: Sequences,
        weights: npt.NDArray[np.float64],
        *,
        batch_size: int,
        dtype: torch.dtype,
        seed: int,
        regression: bool = False,
        per_step: bool = False,
    ) -> None:
        if per_step and (sequences.lengths == 0).any():
            sequences = sequences[sequences.lengths > 0]
        self._per_step = per_step
        self._steps_of_one = sequences.n_rows / max(len(sequences), 1)
        self._values = ragged(sequences, dtype).values
        self._starts, self._lengths = sequences.offsets[:-1], sequences.lengths
        self._labels = answers(sequences, dtype, targets=regression, per_step=per_step).values
        self._weights = torch.from_numpy(weights).to(dtype)
        self._cuts = np.linspace(0, len(sequences), -(-len(sequences) // batch_size) + 1).astype(np.int64)
        self._random = np.random.default_rng(seed)
        self._before = self._random.bit_generator.state

    def __len__(self) -> int:
        return len(self._cuts) - 1

    @property
    def sizes(self) -> Tensor:
        """Sequences in each batch."""
        return torch.from_numpy(np.diff(self._cuts))

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Draw an order, and give the batches of an epoch but the first so many."""
        self._before = self._random.bit_generator.state
        order = self._random.permutation(len(self._starts))
        # Gathered with those before it: some sums of PyTorch depend on where in memory their numbers lie.
        skip = done % _BATCHES_AT_ONCE
        for first in range(done - skip, len(self), _BATCHES_AT_ONCE):
            yield from islice(
                self._gathered(order, self._cuts[first : first + _BATCHES_AT_ONCE + 1]), skip, None
            )
            skip = 0

    def random_state(self, *, within: bool) -> Mapping[str, Any]:
        """Give the state from which the order of the epoch is drawn: of this one, or of the next."""
        return self._before if within else self._random.bit_generator.state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Draw the next order from a state that `random_state` gave."""
        self._random.bit_generator.state = state

    def close(self) -> None:
        """Do nothing: there is nothing to let go."""

    def _gathered(self, order: npt.NDArray[np.int64], cuts: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Gather the rows of a run of batches, then cut them."""
        chosen = order[cuts[0] : cuts[-1]]
        starts, lengths = self._starts[chosen], self._lengths[chosen]
        offsets = offsets_of(lengths)
        # In memory of PyTorch, which begins at a whole line of the caches.
        values = self._values.new_empty((int(offsets[-1]), self._values.shape[1]))
        copied([self._values.numpy()], 0, starts, lengths, values.numpy())
        index = torch.from_numpy(gather(starts, lengths)[0] if self._per_step else chosen)
        labels, weights = self._labels.index_select(0, index), self._weights.index_select(0, index)
        firsts = cuts - cuts[0]
        begins = offsets[firsts]
        n_sequences, n_rows = np.diff(firsts).tolist(), np.diff(begins).tolist()
        n_answers = n_rows if self._per_step else n_sequences
        parts = [torch.split(values, n_rows), *(torch.split(of, n_answers) for of in (labels, weights))]
        for k, (piece, found, shares) in enumerate(zip(*parts, strict=True)):
            of_batch = torch.from_numpy(offsets[firsts[k] : firsts[k + 1] + 1] - begins[k])
            if self._per_step:
                # A loss is a mean over the steps of a batch. Batches have more steps or fewer, and each step
                # is to count the same: so it is made one over as many steps as a batch has on average.
                shares = shares * (n_rows[k] / (n_sequences[k] * self._steps_of_one))
            yield Batch(Ragged(piece, of_batch), found, shares)
