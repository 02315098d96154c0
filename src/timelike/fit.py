"""The training loop: `fit` runs phases and epochs, `run_epoch` the batches of one.

It knows networks and batches, but no files: `timelike.train` is the way from a config to a run's folder. All
that changes is in one place, so that a training can go on where it stopped.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from timelike.batches import Batches, ShuffledBatches, answer_weights
from timelike.checkpoint import Snapshot
from timelike.config import CosineSchedule, EarlyStoppingConfig, PlateauSchedule, TrainingConfig
from timelike.config.training import larger_is_better
from timelike.distributed import Ranks
from timelike.inspect.watch import Watch
from timelike.losses import check_targets, loss_of
from timelike.network import Network
from timelike.progress import Progress, Silent
from timelike.sequences import Sequences
from timelike.streams import Training, Validation
from timelike.trainingstep import NotFinite, TrainingStep
from timelike.validation import Judge, TrainingError

__all__ = [
    "Epoch",
    "FitResult",
    "TrainingError",
    "fit",
    "make_batches",
    "one_step",
    "run_epoch",
]


@dataclass(frozen=True)
class Epoch:
    """The numbers of one epoch."""

    epoch: int  # from 1
    train_loss: float  # mean over the epoch's batches, while the weights changed
    validation_loss: float
    validation_auc: float | None  # of the signal against the rest, or mean of labels; None of a regression
    learning_rate: float  # at the end
    seconds: float
    validation_metric: float | None = None  # that of early stopping, where it is neither loss nor AUC


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives, beside the network, which is left with its best weights."""

    history: tuple[Epoch, ...]
    best: Epoch


def fit(
    network: Network,
    training: Sequences | Training,
    validation: Sequences | Validation,
    config: TrainingConfig,
    *,
    class_names: tuple[str, ...] | None = None,
    signal: str | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[tuple[Epoch, ...], bool], None] = lambda history, improved: None,
    watch: Watch | None = None,
    begin: Snapshot | None = None,
    rescheduled: bool = False,
    on_snapshot: Callable[[Callable[[], Snapshot], bool], None] | None = None,
    ranks: Ranks | None = None,
) -> FitResult:
    """Fit a network, and leave it with the weights of its best epoch.

    Parameters
    ----------
    network : Network
        Changed in place.
    training, validation : Sequences, or streams of them
        Transformed, with labels, or for a regression with targets. The validation events choose the best
        epoch and end the training.
    config : TrainingConfig
        Optimiser, schedule, epochs and so on.
    class_names : tuple of C str, optional
        Names of the classes. Without them it is a regression of the targets, and the network gives as many
        numbers as there are.
    signal : str, optional
        The class that the AUC is about; the last when not given.
    progress : Progress, optional
        Where to show how it goes.
    on_epoch : callable
        Called after each epoch with the history so far and whether the last epoch is the best, the network
        being as it is after that epoch.
    watch : Watch, optional
        Looks inside while the network learns; changes nothing of it.
    begin : Snapshot, optional
        Go on from there, to the same weights to the bit as if it had not been interrupted.
    rescheduled : bool
        The learning rate is then not that of the snapshot, but what this config's schedule gives there.
    on_snapshot : callable
        Called after each epoch, behind `on_epoch`, and after each batch within, with a function that gives
        the state of the training, and whether that is within an epoch.
    ranks : Ranks, optional
        With which this process trains together.

    Returns
    -------
    FitResult

    Raises
    ------
    DataError
        If a class has no events, or its weights do not have a positive sum; if labels or targets are missing.
    ConfigError
        If the loss or the metric of early stopping is for classes, and it is a regression.
    TrainingError
        If the loss is no longer a finite number.
    """
    progress = Silent() if progress is None else progress
    if class_names is None and isinstance(training, Sequences):  # what is streamed is checked on its way
        targets = training.step_targets if network.per_step else training.targets
        check_targets(config, network.config.head, outputs=network.n_classes, targets=targets)
    weights = _weights(training, class_names, config, network, "training")
    of_validation = _weights(validation, class_names, config, network, "validation")
    index = class_names.index(signal or class_names[-1]) if class_names is not None else None
    judge = Judge(validation, of_validation, network, config, index)
    state = _Fit(network, config, training, weights, watch, ranks, regression=class_names is None)
    if begin is not None:
        state.restore(begin, rescheduled=rescheduled)
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
                    state.step,
                    state.batches,
                    state.schedule,
                    number,
                    progress,
                    place=state.place,
                    average=state.average,
                    on_batch=lambda: on_snapshot(state.snapshot, True) if on_snapshot else None,
                )
                with state.average.instead() if state.average else nullcontext():
                    judged = judge(network, phase, number)
                    seconds = time.perf_counter() - started
                    rate = state.schedule.rate
                    epoch = Epoch(number, loss, judged.loss, judged.auc, rate, seconds, judged.metric)
                    improved = state.take(epoch)
                    on_epoch(state.history, improved)
                progress.epoch(vars(epoch), improved=improved)
                if on_snapshot:
                    on_snapshot(state.snapshot, False)
        finally:
            state.batches.close()
            progress.stop()
        if state.index + 1 == len(config.phases):
            break
        state.begin(state.index + 1)
    network.load_state_dict(state.kept)
    return FitResult(state.history, state.best.epoch)


def _weights(
    events: Sequences | Training | Validation,
    class_names: tuple[str, ...] | None,
    config: TrainingConfig,
    network: Network,
    where: str,
) -> npt.NDArray[np.float64]:
    """Give the weights for the loss."""
    if isinstance(events, Training):
        return np.empty(0)  # they are in the stream
    how: dict[str, Any] = {
        "balance": config.class_balance,
        "negative": config.negative_weights,
        "where": where,
    }
    known = events.known if isinstance(events, Validation) else events
    return answer_weights(known, class_names, **how, per_step=network.per_step)


class _Average:
    """Exponential moving average of all weights over batches (Polyak & Juditsky, SIAM 30 (1992) 838)."""

    def __init__(self, network: Network, decay: float) -> None:
        self._network, self._decay = network, decay
        self.weights = {name: value.clone() for name, value in network.state_dict().items()}

    def update(self) -> None:
        """Take the weights after a batch into the average."""
        for name, value in self._network.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - self._decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Put the average in the place of the weights for a block."""
        own = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(self.weights)
        try:
            yield
        finally:
            self._network.load_state_dict(own)


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
        training: Sequences | Training,
        weights: npt.NDArray[np.float64],
        watch: Watch | None,
        ranks: Ranks | None,
        *,
        regression: bool,
    ) -> None:
        self._regression = regression
        self.network, self._config, self._watch, self._ranks = network, config, watch, ranks
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
        given = self._training
        how: dict[str, Any] = {
            "batch_size": phase.batch_size,
            "dtype": next(self.network.parameters()).dtype,
            "seed": self._config.seed + index,  # each phase draws its own orders
        }
        self.batches: Batches
        if isinstance(given, Training):
            self.batches = given.batches(**how, epochs=phase.epochs)
        else:
            how |= {"regression": self._regression, "per_step": self.network.per_step}
            self.batches = ShuffledBatches(given, self._weights, **how)
        self.step = TrainingStep(self.network, phase, self._watch, self._ranks)
        self.optimiser = self.step.optimiser.torch
        self.schedule = _Schedule(self.optimiser, phase, len(self.batches))
        self.best.begin(phase.early_stopping)
        decay = self._config.average
        self.average = None if decay is None else _Average(self.network, decay)
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
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.weights.items()}
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

    def restore(self, snapshot: Snapshot, *, rescheduled: bool = False) -> None:
        """Go back to what `snapshot` gave; the schedule, if it is another, to the same place."""
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
        if self.average:
            self.average.weights = snapshot.part("average.")
        self.best.restore(values["best"])
        self.batches.restore(values["order"])
        self.place = _Place(snapshot.tensors["losses"].clone(), values["done"])
        if rescheduled:
            of_phase = self.history[self.first - 1 :]
            metrics = [self.best.metric(epoch) for epoch in of_phase]
            self.schedule.replay(metrics, len(self.batches), self.place.done)
        else:
            for group, (rate, initial) in zip(self.optimiser.param_groups, values["rates"], strict=True):
                group["lr"] = rate
                if initial is not None:
                    group["initial_lr"] = initial
            self.schedule.restore(values["schedule"])
        torch.set_rng_state(snapshot.tensors["random"])
        if self._watch:
            self._watch.steps = values["steps"]


def run_epoch(
    step: TrainingStep,
    batches: Batches,
    schedule: _Schedule,
    number: int,
    progress: Progress,
    *,
    place: _Place | None = None,
    average: _Average | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> float:
    """Take one step per batch, from a place in the epoch on, and give the mean loss."""
    step.network.train()
    place = place or _Place(torch.zeros(len(batches), dtype=torch.float64))
    losses = place.losses.numpy()
    for batch in batches.epoch(place.done):
        try:
            losses[place.done] = step.take(batch)
        except NotFinite as error:
            where = f"epoch {number}, batch {place.done + 1} of {len(batches)}"
            raise TrainingError(
                f"{error} in {where}; the learning rate there is {schedule.rate:g}: "
                "try a smaller one, or clip_norm"
            ) from None
        place.done += 1
        if average is not None:
            average.update()
        schedule.after_batch()
        progress.batch()
        if place.done < len(batches):
            on_batch()
    return float(torch.dot(place.losses, batches.sizes.double()) / batches.sizes.sum())


def one_step(
    network: Network,
    training: Sequences | Training,
    config: TrainingConfig,
    class_names: tuple[str, ...] | None,
) -> tuple[float, float, float]:
    """Train one batch.

    Parameters
    ----------
    network : Network
        Changed in place.
    training : Sequences, or a stream of them
        Transformed, with labels or targets.
    config : TrainingConfig
    class_names : tuple of str, or None
        None for a regression.

    Returns
    -------
    before, after : float
        Loss of the batch with the first weights and with the next ones.
    seconds : float
        That the step took.
    """
    batches = make_batches(network, training, config, class_names)
    batch, step = next(batches.epoch()), TrainingStep(network, config)
    network.train()
    started = time.perf_counter()
    before = step.take(batch)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        after = loss_of(config, network.config.head)(network(batch.rows), batch.labels, batch.weights)
    return before, after.item(), seconds


def make_batches(
    network: Network,
    training: Sequences | Training,
    config: TrainingConfig,
    class_names: tuple[str, ...] | None,
    *,
    epochs: int = 1,
) -> Batches:
    """Give the batches that a training takes in its first epochs.

    Parameters
    ----------
    network, training, config, class_names
        As of `one_step`.
    epochs : int
        Of so many at most, if they are streamed.
    """
    how: dict[str, Any] = {
        "batch_size": config.batch_size,
        "dtype": next(network.parameters()).dtype,
        "seed": config.seed,
    }
    if isinstance(training, Training):
        return training.batches(**how, epochs=epochs)
    weights = _weights(training, class_names, config, network, "training")
    how |= {"regression": class_names is None, "per_step": network.per_step}
    return ShuffledBatches(training, weights, **how)


class _Schedule:
    """The learning rate's course over batches and epochs."""

    def __init__(self, optimiser: torch.optim.Optimizer, config: TrainingConfig, n_batches: int) -> None:
        self._optimiser = optimiser
        self._warmup: torch.optim.lr_scheduler.LinearLR | None = None
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

        if given.warmup:
            self._warmup = torch.optim.lr_scheduler.LinearLR(
                optimiser, start_factor=1 / (given.warmup + 1), total_iters=given.warmup
            )

    @property
    def rate(self) -> float:
        return float(self._optimiser.param_groups[0]["lr"])

    def after_batch(self) -> None:
        if self._warmup is not None:
            self._warmup.step()
        if self._cosine is not None:
            self._cosine.step()

    def after_epoch(self, metric: float) -> None:
        if self._plateau is not None:
            self._plateau.step(metric)

    def state(self) -> dict[str, Any]:
        return {name: dict(part.state_dict()) for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def replay(self, metrics: list[float], n_batches: int, done: int) -> None:
        """Go through the epochs with these metrics, and so many batches of the next."""
        with warnings.catch_warnings():
            # of a schedule's step without one of the optimiser
            warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)`", UserWarning)
            for metric in metrics:
                for _ in range(n_batches):
                    self.after_batch()
                self.after_epoch(metric)
            for _ in range(done):
                self.after_batch()

    def _parts(self) -> dict[str, Any]:
        parts = {"warmup": self._warmup, "cosine": self._cosine, "plateau": self._plateau}
        return {name: part for name, part in parts.items() if part is not None}


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
        if not self._stops or self._config.metric == "loss":
            return epoch.validation_loss
        value = epoch.validation_auc if epoch.validation_metric is None else epoch.validation_metric
        assert value is not None
        return -value if larger_is_better(self._config.metric) else value

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
