"""The training loop: `fit` runs phases and epochs, `run_epoch` batches, `train_step` changes the weights.

It knows networks and batches, but no files: `timelike.train` is the way from a config to a run's folder. All
that changes is in one place, so that a training can go on where it stopped.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from timelike.batches import Batch, ShuffledBatches, event_weights
from timelike.checkpoint import Snapshot
from timelike.config import CosineSchedule, EarlyStoppingConfig, PlateauSchedule, TrainingConfig
from timelike.errors import TimelikeError
from timelike.inspect.watch import Watch
from timelike.losses import loss_of, penalty
from timelike.model import Network, logits
from timelike.optimisers import make_optimiser
from timelike.progress import Progress, Silent
from timelike.roc import roc_curve
from timelike.sequences import Sequences

__all__ = ["Epoch", "FitResult", "TrainingError", "fit", "run_epoch", "train_step"]


class TrainingError(TimelikeError, ArithmeticError):
    """A training cannot go on: the loss is no longer a number."""


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
    begin: Snapshot | None = None,
    on_snapshot: Callable[[Callable[[], Snapshot], bool], None] | None = None,
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
    begin : Snapshot, optional
        Go on from there, to the same weights to the bit as if it had not been interrupted.
    on_snapshot : callable
        Called after each epoch, behind `on_epoch`, and after each batch within, with a function that gives
        the state of the training, and whether that is within an epoch.

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
    how = {"balance": config.class_balance, "negative": config.negative_weights}
    weights, of_validation = (
        event_weights(sequences, class_names, **how, where=where)  # type: ignore[arg-type]
        for sequences, where in ((training, "training"), (validation, "validation"))
    )
    judge = _Judge(validation, of_validation, class_names.index(signal))
    state = _Fit(network, config, training, weights, watch)
    if begin is not None:
        state.restore(begin)
    while True:
        phase = state.phase
        progress.start(state.last, len(state.batches), first=len(state.history) + 1)
        for _ in range(state.place.done):
            progress.batch()
        try:
            while len(state.history) < state.last and not state.best.exhausted:
                started = time.perf_counter()
                number = len(state.history) + 1
                loss = run_epoch(
                    network,
                    state.batches,
                    state.optimiser,
                    state.schedule,
                    phase,
                    number,
                    progress,
                    watch,
                    place=state.place,
                    on_batch=lambda: on_snapshot(state.snapshot, True) if on_snapshot else None,
                )
                validation_loss, auc = judge(network, phase, number)
                seconds = time.perf_counter() - started
                epoch = Epoch(number, loss, validation_loss, auc, state.schedule.rate, seconds)
                improved = state.take(epoch)
                on_epoch(state.history, improved)
                progress.epoch(vars(epoch), improved=improved)
                if on_snapshot:
                    on_snapshot(state.snapshot, False)
        finally:
            progress.stop()
        if state.index + 1 == len(config.phases):
            break
        state.begin(state.index + 1)
    network.load_state_dict(state.kept)
    return FitResult(state.history, state.best.epoch)


@dataclass
class _Place:
    """Where in an epoch a training is."""

    losses: Tensor  # of all its batches
    done: int = 0


class _Fit:
    """All that changes during a fit, and a way to go back to it."""

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        training: Sequences,
        weights: npt.NDArray[np.float64],
        watch: Watch | None,
    ) -> None:
        self.network, self._config, self._watch = network, config, watch
        self._training, self._weights = training, weights
        self.history: tuple[Epoch, ...] = ()
        self.kept: dict[str, Tensor] = {}
        self.best = _Best()
        self.begin(0)

    def begin(self, index: int) -> None:
        """Begin a phase, from the best weights so far."""
        self.index, phase = index, self._config.phases[index]
        self.phase, self.first = phase, len(self.history) + 1
        if self.kept:
            self.network.load_state_dict(self.kept)
        self.batches = ShuffledBatches(
            self._training,
            self._weights,
            batch_size=phase.batch_size,
            dtype=next(self.network.parameters()).dtype,
            seed=self._config.seed + index,  # each phase draws its own orders
        )
        self.optimiser = make_optimiser(self.network, phase)
        self.schedule = _Schedule(self.optimiser, phase, len(self.batches))
        self.best.begin(phase.early_stopping)
        self.place = _Place(torch.zeros(len(self.batches), dtype=torch.float64))

    @property
    def last(self) -> int:
        """Number of the last epoch of the phase."""
        return self.first - 1 + self.phase.epochs

    def take(self, epoch: Epoch) -> bool:
        """Take the numbers of an epoch, and say whether it is the best so far."""
        self.history += (epoch,)
        self.place.done = 0
        improved = self.best.take(epoch, epoch.epoch - self.first + 1)
        if improved:
            self.kept = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.schedule.after_epoch(self.best.metric(epoch))
        return improved

    def snapshot(self) -> Snapshot:
        """Give all of it, as it is between two batches."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"kept.{name}": value for name, value in self.kept.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            given = {key: value for key, value in state.items() if value is not None}
            tensors |= {f"optimiser.{number}.{key}": torch.as_tensor(value) for key, value in given.items()}
        tensors |= {"losses": self.place.losses, "random": torch.get_rng_state()}
        values = {
            "phase": self.index,
            "first": self.first,
            "done": self.place.done,
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best.state(),
            "schedule": self.schedule.state(),
            "rates": [(group["lr"], group.get("initial_lr")) for group in self.optimiser.param_groups],
            "order": self.batches.random_state(within=self.place.done > 0),
            "steps": self._watch.steps if self._watch else 0,
        }
        # Copied, so that it stays as it is while the training goes on.
        return Snapshot({name: tensor.clone() for name, tensor in tensors.items()}, copy.deepcopy(values))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to what `snapshot` gave."""
        values = snapshot.values
        self.kept = snapshot.part("kept.")
        self.begin(values["phase"])
        self.first = values["first"]
        self.history = tuple(Epoch(**numbers) for numbers in values["history"])
        self.network.load_state_dict(snapshot.part("network."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in snapshot.part("optimiser.").items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        for group, (rate, initial) in zip(self.optimiser.param_groups, values["rates"], strict=True):
            group["lr"] = rate
            if initial is not None:
                group["initial_lr"] = initial
        self.schedule.restore(values["schedule"])
        self.best.restore(values["best"])
        self.batches.restore(values["order"])
        self.place = _Place(snapshot.tensors["losses"].clone(), values["done"])
        torch.set_rng_state(snapshot.tensors["random"])
        if self._watch:
            self._watch.steps = values["steps"]


def run_epoch(
    network: Network,
    batches: ShuffledBatches,
    optimiser: torch.optim.Optimizer,
    schedule: _Schedule,
    config: TrainingConfig,
    number: int,
    progress: Progress,
    watch: Watch | None = None,
    *,
    place: _Place | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> float:
    """Take one step per batch, from a place in the epoch on, and give the mean loss."""
    network.train()
    place = place or _Place(torch.zeros(len(batches), dtype=torch.float64))
    losses = place.losses
    for batch in batches.epoch(place.done):
        losses[place.done] = train_step(network, optimiser, batch, config, watch)
        place.done += 1
        schedule.after_batch()
        progress.batch()
        if place.done < len(batches):
            on_batch()
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

    def state(self) -> dict[str, Any]:
        own = self._cosine or self._plateau
        return dict(own.state_dict()) if own else {}

    def restore(self, state: dict[str, Any]) -> None:
        own = self._cosine or self._plateau
        if own:
            own.load_state_dict(state)


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

    def state(self) -> dict[str, Any]:
        epoch = asdict(self.epoch) if self._lowest < float("inf") else None
        return {"lowest": self._lowest, "waited": self._waited, "asked": self._asked, "epoch": epoch}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._lowest, self._waited, self._asked = state["lowest"], state["waited"], state["asked"]
        if state["epoch"]:
            self.epoch = Epoch(**state["epoch"])

    def begin(self, config: EarlyStoppingConfig | None) -> None:
        """Begin a phase: what was the best stays so until it is beaten."""
        self._config = config or EarlyStoppingConfig()
        self._stops = config is not None
        self._waited, self._asked = 0, False

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
