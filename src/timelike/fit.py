"""The training loop: `fit` runs epochs, `run_epoch` runs batches, `train_step` changes the weights.

It knows networks and ragged batches, but no files: `timelike.train` is the way from a config to a run's
folder. Data are kept in memory as tensors; a batch is a view of rows that were shuffled many batches at a
time, so that nothing is padded, copied twice, or walked event by event.

Sizes: `B` sequences, `N` rows, `C` classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.config import CosineSchedule, EarlyStoppingConfig, PlateauSchedule, TrainingConfig
from timelike.errors import DataError, TimelikeError
from timelike.inspect.watch import Watch
from timelike.losses import loss_of, penalty
from timelike.model import Network, logits, ragged
from timelike.nn import Ragged
from timelike.optimisers import make_optimiser
from timelike.progress import Progress, Silent
from timelike.ragged import gather
from timelike.roc import roc_curve
from timelike.sequences import Sequences

__all__ = ["Batch", "Epoch", "FitResult", "ShuffledBatches", "TrainingError", "event_weights", "fit"]

# Batches whose rows are gathered at once: one pass over memory instead of many small ones, and no second
# copy of all data.
_BATCHES_AT_ONCE = 64


class TrainingError(TimelikeError, ArithmeticError):
    """A training cannot go on: the loss is no longer a number."""


class Batch(NamedTuple):
    """Some sequences with what is needed for the loss."""

    rows: Ragged  # values [N, D], offsets [B+1]
    labels: Tensor  # [B] int64
    weights: Tensor  # [B]


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch."""

    epoch: int  # from 1
    train_loss: float  # mean over the epoch's batches, while the weights changed
    validation_loss: float
    validation_auc: float  # of the signal class against all others
    learning_rate: float  # at the end
    seconds: float


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives, beside the network, which is left with its best weights."""

    history: tuple[Epoch, ...]
    best: Epoch


def event_weights(
    sequences: Sequences,
    class_names: tuple[str, ...],
    *,
    balance: bool | Literal["number"],
    where: str,
    negative: Literal["use", "ignore", "absolute"] = "use",
) -> npt.NDArray[np.float64]:
    """Scale the event weights to a mean of one, in each class if they are to be balanced.

    Parameters
    ----------
    sequences : Sequences
        With labels; without weights each event weighs 1.
    class_names : tuple of C str
        What errors call the classes.
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
    if labels is None:
        raise DataError(f"{where}: the events have no labels")
    weights = np.ones(n) if sequences.weights is None else sequences.weights
    if negative != "use":
        weights = np.abs(weights) if negative == "absolute" else np.maximum(weights, 0.0)
    counts = np.bincount(labels, minlength=len(class_names))
    sums = np.bincount(labels, weights=weights, minlength=len(class_names))
    for name, count, total in zip(class_names, counts, sums, strict=True):
        if not count:
            raise DataError(f"{where}: no event of class {name!r} among {n}")
        # Scaled or not: with a negative sum, ever worse scores of the class would be an ever better loss.
        if not total > 0.0:
            raise DataError(
                f"{where}: the weights of the {count} events of class {name!r} sum to {total:g}; "
                "a positive sum is needed"
            )
    if balance == "number":
        factors = counts / sums
    else:
        factors = n / len(class_names) / sums if balance else np.full(len(class_names), n / sums.sum())
    scaled: npt.NDArray[np.float64] = weights * factors[labels]
    return scaled


class ShuffledBatches:
    """Batches of all sequences in an order that is new in every epoch.

    Parameters
    ----------
    sequences : Sequences
        Transformed, with labels.
    weights : array [B]
        Event weights for the loss.
    batch_size : int
        Sequences in a batch at most. Batches are as equal as can be, so that none is a small rest whose
        few events would make a step as large as any other.
    dtype : torch.dtype
        Of the rows and weights.
    seed : int
        Of the order.
    """

    def __init__(
        self,
        sequences: Sequences,
        weights: npt.NDArray[np.float64],
        *,
        batch_size: int,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        if sequences.labels is None:
            raise DataError("the sequences have no labels")
        self._values = ragged(sequences, dtype).values
        self._starts, self._lengths = sequences.offsets[:-1], sequences.lengths
        self._labels = torch.from_numpy(np.array(sequences.labels))
        self._weights = torch.from_numpy(weights).to(dtype)
        self._cuts = np.linspace(0, len(sequences), -(-len(sequences) // batch_size) + 1).astype(np.int64)
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    @property
    def sizes(self) -> Tensor:
        """Sequences in each batch."""
        return torch.from_numpy(np.diff(self._cuts))

    def __iter__(self) -> Iterator[Batch]:
        order = self._random.permutation(len(self._starts))
        for first in range(0, len(self), _BATCHES_AT_ONCE):
            yield from self._gathered(order, self._cuts[first : first + _BATCHES_AT_ONCE + 1])

    def _gathered(self, order: npt.NDArray[np.int64], cuts: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """Gather the rows of a run of batches, then cut them."""
        chosen = order[cuts[0] : cuts[-1]]
        rows, offsets = gather(self._starts[chosen], self._lengths[chosen])
        values = self._values.index_select(0, torch.from_numpy(rows))
        index = torch.from_numpy(chosen)
        labels, weights = self._labels.index_select(0, index), self._weights.index_select(0, index)
        for start, stop in zip(cuts[:-1] - cuts[0], cuts[1:] - cuts[0], strict=True):
            begin, end = offsets[start], offsets[stop]
            batch = Ragged(values[begin:end], torch.from_numpy(offsets[start : stop + 1] - begin))
            yield Batch(batch, labels[start:stop], weights[start:stop])


def fit(
    network: Network,
    training: Sequences,
    validation: Sequences,
    config: TrainingConfig,
    *,
    class_names: tuple[str, ...],
    signal: str,
    progress: Progress | None = None,
    on_epoch: Callable[[tuple[Epoch, ...], bool], None] = lambda history, improved: None,
    watch: Watch | None = None,
) -> FitResult:
    """Fit a network, and leave it with the weights of its best epoch.

    Parameters
    ----------
    network : Network
        Changed in place.
    training, validation : Sequences
        Transformed, with labels. The validation events choose the best epoch and end the training.
    config : TrainingConfig
        Optimiser, schedule, epochs and so on.
    class_names : tuple of C str
        Names of the classes.
    signal : str
        The class that the AUC is about.
    progress : Progress, optional
        Where to show how it goes.
    on_epoch : callable
        Called after each epoch with the history so far and whether the last epoch is the best, the network
        being as it is after that epoch.
    watch : Watch, optional
        Looks inside while the network learns; changes nothing of it.

    Returns
    -------
    FitResult

    Raises
    ------
    DataError
        If a class has no events, or its weights do not have a positive sum.
    TrainingError
        If the loss is no longer a finite number.
    """
    progress = Silent() if progress is None else progress
    dtype = next(network.parameters()).dtype

    def weights_of(sequences: Sequences, where: str) -> npt.NDArray[np.float64]:
        how = {"balance": config.class_balance, "negative": config.negative_weights}
        return event_weights(sequences, class_names, **how, where=where)  # type: ignore[arg-type]

    own = weights_of(training, "training")
    judge = _Judge(validation, weights_of(validation, "validation"), class_names.index(signal))
    best = _Best()
    history: tuple[Epoch, ...] = ()
    kept: dict[str, Tensor] = {}
    for index, phase in enumerate(config.phases):
        if kept:
            network.load_state_dict(kept)
        # Each phase draws its own orders.
        batches = ShuffledBatches(
            training, own, batch_size=phase.batch_size, dtype=dtype, seed=config.seed + index
        )
        optimiser = make_optimiser(network, phase)
        schedule = _Schedule(optimiser, phase, len(batches))
        best.begin(phase.early_stopping)
        first = len(history) + 1
        progress.start(first - 1 + phase.epochs, len(batches))
        try:
            for number in range(first, first + phase.epochs):
                started = time.perf_counter()
                loss = run_epoch(network, batches, optimiser, schedule, phase, number, progress, watch)
                validation_loss, auc = judge(network, phase, number)
                rate, seconds = schedule.rate, time.perf_counter() - started
                history += (Epoch(number, loss, validation_loss, auc, rate, seconds),)
                improved = best.take(history[-1], number - first + 1)
                if improved:
                    kept = {name: value.clone() for name, value in network.state_dict().items()}
                on_epoch(history, improved)
                progress.epoch(vars(history[-1]), improved=improved)
                if best.exhausted:
                    break
                schedule.after_epoch(best.metric(history[-1]))
        finally:
            progress.stop()
    network.load_state_dict(kept)
    return FitResult(history, best.epoch)


def run_epoch(
    network: Network,
    batches: ShuffledBatches,
    optimiser: torch.optim.Optimizer,
    schedule: _Schedule,
    config: TrainingConfig,
    number: int,
    progress: Progress,
    watch: Watch | None = None,
) -> float:
    """Take one step per batch and give the mean loss."""
    network.train()
    losses = torch.empty(len(batches), dtype=torch.float64)
    for index, batch in enumerate(batches):
        losses[index] = train_step(network, optimiser, batch, config, watch)
        schedule.after_batch()
        progress.batch()
    finite = losses.isfinite()
    if not finite.all():
        index = int((~finite).nonzero()[0])
        raise TrainingError(
            f"the loss is {losses[index].item()} in epoch {number}, batch {index + 1} of {len(batches)}; "
            f"the learning rate there is {schedule.rate:g}: try a smaller one, or clip_norm"
        )
    return float(torch.dot(losses, batches.sizes.double()) / batches.sizes.sum())


def train_step(
    network: Network,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
    watch: Watch | None = None,
) -> Tensor:
    """Change the weights by one batch and give its loss."""
    loss_of_batch = loss_of(config, sigmoid=network.sigmoid)
    network.zero_grad(set_to_none=True)  # the optimiser's own is slower by its hooks
    with nullcontext() if watch is None else watch.step():
        loss = loss_of_batch(network(batch.rows), batch.labels, batch.weights)
        if config.regularisation is not None:
            loss = loss + penalty(network, config.regularisation)
        loss.backward()  # type: ignore[no-untyped-call]
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
    optimiser.step()
    return loss.detach()


class _Schedule:
    """The learning rate's course over batches and epochs."""

    def __init__(self, optimiser: torch.optim.Optimizer, config: TrainingConfig, n_batches: int) -> None:
        self._optimiser = optimiser
        self._cosine: torch.optim.lr_scheduler.CosineAnnealingLR | None = None
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        given, rate = config.schedule, config.optimiser.learning_rate
        if isinstance(given, CosineSchedule):
            self._cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimiser, config.epochs * n_batches, eta_min=given.final * rate
            )
        elif isinstance(given, PlateauSchedule):
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                # torch's patience is the number of epochs that are forgiven
                optimiser,
                factor=given.factor,
                patience=given.patience - 1,
                threshold=0.0,
            )

    @property
    def rate(self) -> float:
        return float(self._optimiser.param_groups[0]["lr"])

    def after_batch(self) -> None:
        if self._cosine is not None:
            self._cosine.step()

    def after_epoch(self, metric: float) -> None:
        if self._plateau is not None:
            self._plateau.step(metric)


class _Judge:
    """Loss and AUC of the validation events."""

    def __init__(self, validation: Sequences, weights: npt.NDArray[np.float64], signal: int) -> None:
        self._sequences, self._signal = validation, signal
        self._weights = weights
        self._labels = torch.from_numpy(np.array(validation.labels))

    def __call__(self, network: Network, config: TrainingConfig, number: int) -> tuple[float, float]:
        scores = logits(network, self._sequences).double()
        loss_of_all = loss_of(config, sigmoid=network.sigmoid)
        loss = float(loss_of_all(scores, self._labels, torch.from_numpy(self._weights)))
        if config.regularisation is not None:
            loss += penalty(network, config.regularisation).detach().item()
        if not np.isfinite(loss):
            raise TrainingError(
                f"the validation loss is {loss} after epoch {number}: "
                "try a smaller learning rate, or clip_norm"
            )
        probabilities = scores.softmax(dim=1)[:, self._signal].numpy()
        auc = roc_curve(probabilities, self._labels.numpy() == self._signal, self._weights).auc
        return loss, auc


class _Best:
    """Keeps the best epoch and counts those that were not better."""

    def __init__(self) -> None:
        self._lowest = float("inf")
        self.epoch: Epoch

    def begin(self, config: EarlyStoppingConfig | None) -> None:
        """Begin a phase: what was the best stays so until it is beaten."""
        self._config = config or EarlyStoppingConfig()
        self._stops = config is not None
        self._waited = 0

    def metric(self, epoch: Epoch) -> float:
        """Give what is to become small."""
        by_auc = self._stops and self._config.metric == "auc"
        return -epoch.validation_auc if by_auc else epoch.validation_loss

    def take(self, epoch: Epoch, number: int) -> bool:
        """Say whether an epoch, the number-th of its phase, is the best so far."""
        self._asked = number % self._config.every == 0
        first = self._lowest == float("inf")  # without any other it is the best
        improved = (self._asked or first) and self.metric(epoch) < self._lowest
        if improved:
            self.epoch, self._lowest = epoch, self.metric(epoch)
        self._waited = 0 if improved else self._waited + 1
        return improved

    @property
    def exhausted(self) -> bool:
        return self._stops and self._asked and self._waited >= self._config.patience
