"""How the network is fitted, and how it is judged."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from timelike.config.base import Fraction, Section, Seed, Text, by_default
from timelike.errors import ConfigError

__all__ = [
    "AdadeltaConfig",
    "AdagradConfig",
    "AdamConfig",
    "ConstantSchedule",
    "CosineSchedule",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "FlattenConfig",
    "InspectConfig",
    "PhaseConfig",
    "PlateauSchedule",
    "RMSpropConfig",
    "RegularisationConfig",
    "SGDConfig",
    "TrainingConfig",
]


class _Optimiser(Section):
    learning_rate: PositiveFloat = 0.003
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0


class AdamConfig(_Optimiser):
    """Adam, with weight decay added to the gradient (adam) or to the step (adamw)."""

    name: Literal["adam", "adamw"] = "adam"
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: PositiveFloat = 1e-8
    epsilon_hat: bool = False  # add epsilon before the correction of the bias: Kingma & Ba, end of section 2


class SGDConfig(_Optimiser):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    learning_rate: PositiveFloat = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _check(self) -> SGDConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RMSpropConfig(_Optimiser):
    """RMSprop."""

    name: Literal["rmsprop"]
    learning_rate: PositiveFloat = 0.001
    alpha: Fraction = 0.99
    momentum: Fraction = 0.0
    epsilon: PositiveFloat = 1e-8
    epsilon_in_root: bool = False  # sqrt(v + epsilon) in place of sqrt(v) + epsilon


class AdagradConfig(_Optimiser):
    """Adagrad (Duchi, Hazan & Singer, JMLR 12 (2011) 2121)."""

    name: Literal["adagrad"]
    learning_rate: PositiveFloat = 0.01
    epsilon: PositiveFloat = 1e-10
    epsilon_in_root: bool = False


class AdadeltaConfig(_Optimiser):
    """Adadelta (Zeiler, arXiv:1212.5701)."""

    name: Literal["adadelta"]
    learning_rate: PositiveFloat = 1.0
    rho: Fraction = 0.9
    epsilon: PositiveFloat = 1e-6


class _Schedule(Section):
    warmup: NonNegativeInt = 0  # batches in which the learning rate rises to its value in equal steps


class ConstantSchedule(_Schedule):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class CosineSchedule(_Schedule):
    """Half a cosine from the learning rate down to `final` times it, in steps of a batch."""

    name: Literal["cosine"]
    final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class PlateauSchedule(_Schedule):
    """The learning rate times `factor` after `patience` epochs without a better early-stopping metric."""

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    patience: PositiveInt = 2


Optimiser = Annotated[
    AdamConfig | SGDConfig | RMSpropConfig | AdagradConfig | AdadeltaConfig,
    Field(discriminator="name"),
    by_default(default="adam"),
]
Schedule = Annotated[
    ConstantSchedule | CosineSchedule | PlateauSchedule,
    Field(discriminator="name"),
    by_default(default="constant"),
]


_METRICS = {  # kind of task -> metrics; those that end in _at_... are followed by a number between 0 and 1
    "classes": (
        "loss",
        "auc",
        "accuracy",
        "balanced_accuracy",
        "log_loss",
        "signal_efficiency_at_background",
        "rejection_at_signal",
    ),
    "multilabel": ("loss", "auc", "accuracy"),
    "regression": ("loss", "rmse", "mae", "r2"),
}
_SMALL = ("loss", "log_loss", "rmse", "mae")  # the smaller, the better


def metric_of(name: str, kind: str | None = None) -> tuple[str, float | None]:
    """Take a metric of early stopping apart: its name, and the point at which it is meant.

    Parameters
    ----------
    name : str
    kind : str, optional
        The kind of task that it must fit, "classes", "multilabel" or "regression"; any when not given.

    Raises
    ------
    ConfigError
        If there is no such metric.

    Examples
    --------
    >>> metric_of("signal_efficiency_at_background_0.01")
    ('signal_efficiency_at_background', 0.01)
    """
    possible = _METRICS[kind] if kind else tuple(dict.fromkeys(m for ms in _METRICS.values() for m in ms))
    base, _, last = name.rpartition("_")
    if "_at_" in base:
        try:
            at = float(last)
        except ValueError:
            at = math.nan
        if base in possible and 0.0 < at < 1.0:
            return base, at
    elif name in possible:
        return name, None
    shown = [f"{one}_0.1" if "_at_" in one else one for one in possible]
    raise ConfigError(f"training.early_stopping.metric: {name!r}; possible: {', '.join(shown)}")


def larger_is_better(metric: str) -> bool:
    """Whether a metric of early stopping is to become large."""
    return metric not in _SMALL


def _metric(name: str) -> str:
    try:
        metric_of(name)
    except ConfigError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return name


class EarlyStoppingConfig(Section):
    """Stop after `patience` epochs in which the validation metric has not improved."""

    patience: PositiveInt = 5
    metric: Annotated[Text, AfterValidator(_metric)] = "loss"  # see `timelike.validation`
    every: PositiveInt = 1  # epochs after which the metric is asked: those between are no candidates


class RegularisationConfig(Section):
    """Add to the loss `strength` times the sum of squares (l2) or sizes (l1) of all weights but biases."""

    name: Literal["l1", "l2"] = "l2"
    strength: PositiveFloat


class PhaseConfig(Section):
    """A later phase of a training: what it does not name stays as in the first."""

    optimiser: Optimiser = AdamConfig()
    schedule: Schedule = ConstantSchedule()
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 128
    early_stopping: EarlyStoppingConfig | None = None
    regularisation: RegularisationConfig | None = None
    clip_norm: PositiveFloat | None = None

    @model_serializer(mode="wrap")
    def _named(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write what is named, and no more: the rest would be read as if it were."""
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}


class InspectConfig(Section):
    """Looking inside while training; `timelike.inspect.Watch` tells how."""

    every: PositiveInt = 100  # batches
    sequences: PositiveInt = 16  # of a batch, that are asked for their horizon
    tensorboard: bool = False


class FlattenConfig(Section):
    """Reweight the events of each class so that an observer is flat between limits, and 0 beyond."""

    observer: Text
    bins: PositiveInt = 20
    low: float | None = None  # None: the smallest value
    high: float | None = None


class TrainingConfig(Section):
    """How the network is fitted."""

    # sigmoid_cross_entropy: each score by itself; the others: of the scores before softmax or sigmoid.
    # In a whole config by default that of the task.
    loss: Literal[
        "cross_entropy", "sigmoid_cross_entropy", "squared_error", "huber", "quantile", "poisson"
    ] = "cross_entropy"
    optimiser: Optimiser = AdamConfig()
    schedule: Schedule = ConstantSchedule()
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 128
    early_stopping: EarlyStoppingConfig | None = EarlyStoppingConfig()
    regularisation: RegularisationConfig | None = None
    clip_norm: PositiveFloat | None = 5.0
    # Judge and keep not the weights themselves but their exponential moving average over batches.
    average: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    # true: the same sum of weights for all classes; number: for each class as many as it has events
    class_balance: bool | Literal["number"] = True
    negative_weights: Literal["use", "ignore", "absolute"] = "use"
    flatten: FlattenConfig | None = None
    dtype: Literal["float32", "float64"] = "float32"
    seed: Seed = 0
    # The kernels run on one thread; more of them only meet at PyTorch's barriers, after every few
    # microseconds of work. On a busy machine that made the demo's training twenty times slower.
    threads: PositiveInt = 1
    # How several processes sum their gradients. nccl: through the memory of a GPU for each.
    backend: Literal["gloo", "nccl"] = "gloo"
    inspect: InspectConfig | None = None
    checkpoint_every: PositiveInt = 1000  # batches of an epoch; after each epoch there is one in any case
    then: tuple[PhaseConfig, ...] = ()  # phases that follow, each from the best weights so far

    @property
    def phases(self) -> tuple[TrainingConfig, ...]:
        """The settings of each phase."""
        named = [{key: getattr(phase, key) for key in phase.model_fields_set} for phase in self.then]
        return self, *(self.model_copy(update=values) for values in named)


class EvaluationConfig(Section):
    """How the figures of merit get their uncertainties."""

    bootstrap: NonNegativeInt = 200
    seed: Seed = 0
