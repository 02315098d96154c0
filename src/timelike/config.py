"""The config of a run: what is read, how it is cut, what is trained; every key typed, none ignored.

`load_config` reads a YAML file into a `Config`. A key that does not exist is refused with the nearest one
that does, a value that cannot be used with what can; the error is one line with the file, the line and the
key: `jets.yaml:12: data.variabels: unknown key; nearest: 'variables'`.

Relative paths in a config start from the folder of its file, so that a run does not depend on where it is
started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from timelike import __version__
from timelike.configerrors import first_error
from timelike.errors import ConfigError, nearest
from timelike.yamlfile import YamlDocument, read_yaml, write_yaml

__all__ = [
    "AdadeltaConfig",
    "AdagradConfig",
    "AdamConfig",
    "BatchNormConfig",
    "ClipConfig",
    "Config",
    "ConstantSchedule",
    "CosineSchedule",
    "CountsConfig",
    "DataConfig",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "FlattenConfig",
    "FoldsConfig",
    "FractionsConfig",
    "GRUConfig",
    "HeadConfig",
    "InspectConfig",
    "LSTMConfig",
    "NetworkConfig",
    "PhaseConfig",
    "PlateauSchedule",
    "RMSpropConfig",
    "RNNConfig",
    "RegularisationConfig",
    "RemaindersConfig",
    "SGDConfig",
    "ScanParameter",
    "ScanSpace",
    "SequenceConfig",
    "SourceConfig",
    "SplitConfig",
    "StreamConfig",
    "TrainingConfig",
    "load_config",
]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("given text with a null character, which no name or path can have")
    return text


Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True), AfterValidator(_without_nul)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch takes
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError(f"given {json.dumps(value)}; text or a list of texts is needed")
    return tuple(value)  # strictly, a list is no tuple


Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]  # one text or a list of them


def _named(default: str, *, key: str = "name") -> BeforeValidator:
    """Choose an alternative where a mapping does not name one."""
    return BeforeValidator(lambda value: {key: default, **value} if isinstance(value, dict) else value)


class _Section(BaseModel):
    """A mapping of the config: typed strictly, immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# -- data ---------------------------------------------------------------------------------------------------


class SourceConfig(_Section):
    """Where the events of one class are, as far as that differs from the rest of `DataConfig`."""

    files: Texts = ()
    treename: Text | None = None
    selection: Text | None = None  # on top of the selection for all classes
    weights: Text | None = None


class ClipConfig(_Section):
    """Values beyond the limits become these."""

    name: Literal["clip"]
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> ClipConfig:
        if not self.low < self.high:
            raise ValueError(f"clip from {self.low:g} to {self.high:g}: the first must be smaller")
        return self


def _in_a_row(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


TransformName = Literal["standardise", "robust", "minmax", "log", "clip", "uniform", "gauss", "none"]
Transform = Annotated[
    Annotated[TransformName, Tag("name")] | Annotated[ClipConfig, Tag("limits")],
    Discriminator(lambda value: "limits" if isinstance(value, dict | ClipConfig) else "name"),
]
Transforms = Annotated[tuple[Transform, ...], BeforeValidator(_in_a_row), Field(min_length=1)]  # in a row


class StreamConfig(_Section):
    """Reading the files anew in every epoch, piece by piece, for events that do not fit in memory."""

    buffer: PositiveInt = 100_000  # events among which the next ones are drawn
    read_ahead: NonNegativeInt = 2  # pieces read in the background; 0: none, in the foreground
    on_error: Literal["stop", "skip"] = "stop"  # what becomes of a file that cannot be used


class DataConfig(_Section):
    """Which events and variables are read, and what they are called."""

    files: Texts = ()
    format: Literal["root", "parquet", "hdf5", "numpy"] | None = None  # None: by the suffix of the file
    treename: Text | None = None
    selection: Text | None = None
    new_variables: dict[Text, Text] = {}
    variables: Annotated[Texts, Field(min_length=1)] | None = None
    steps: Annotated[Texts, Field(min_length=1)] | None = None
    labels: dict[Text, Text] = {}
    classes: dict[Text, SourceConfig] = {}
    targets: dict[Text, Text] = {}  # of a regression: numbers to find, an expression each
    signal: Text | None = None
    weights: Text | None = None
    event_number: Text | None = None
    observers: Texts = ()
    transforms: dict[Text, Transforms] = {}
    mix: Literal["decorrelate", "pca"] | None = None  # of all variables, behind their transforms
    missing: dict[Text, Literal["fill", "indicator"]] = {}  # variables that may be nan
    stream: StreamConfig | None = None  # None: all events in memory

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their index; of a regression those of its targets."""
        return tuple(self.labels or self.classes or self.targets)

    @property
    def signal_name(self) -> str:
        """The class whose score is the discriminant: the last one unless `signal` says otherwise."""
        return self.signal if self.signal is not None else self.class_names[-1]

    def transforms_of(self, variable: str) -> list[tuple[str, dict[str, float]]]:
        """Names of the transforms of a variable, and numbers that are given: its own, else the default."""
        chosen = self.transforms.get(variable, self.transforms.get("default", ("standardise",)))
        return [
            (step, {}) if isinstance(step, str) else (step.name, {"low": step.low, "high": step.high})
            for step in chosen
        ]

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if (self.variables is None) == (self.steps is None):
            raise ValueError(
                "give either 'variables' (inputs of each step) or 'steps' (a branch per time step)"
            )
        if sum(map(bool, (self.labels, self.classes, self.targets))) != 1:
            raise ValueError(
                "give either 'labels' (an expression per class) or 'classes' (a source per class), "
                "or for a regression 'targets'"
            )
        names = self.class_names
        if self.targets and self.signal is not None:
            raise ValueError("'signal' has no meaning with 'targets'")
        if len(names) < 2 and not self.targets:
            raise ValueError(f"one class only ({names[0]!r}); a classification needs two or more")
        if self.signal is not None and self.signal not in names:
            raise ValueError(f"signal {self.signal!r} is not a class; {nearest(self.signal, names)}")
        if not self.files:
            bare = [name for name in names if name not in self.classes or not self.classes[name].files]
            if bare:
                raise ValueError("'files' is needed" + (f" for class {bare[0]!r}" if self.classes else ""))
        if self.variables is not None:
            doubled = sorted({v for v in self.variables if self.variables.count(v) > 1})
            if doubled:
                raise ValueError(f"variable {doubled[0]!r} is given twice")
            for name in self.transforms:
                if name != "default" and name not in self.variables:
                    near = nearest(name, (*self.variables, "default"))
                    raise ValueError(f"transform of {name!r}, which is not among the variables; {near}")
            for name in self.missing:
                if name not in self.variables:
                    near = nearest(name, self.variables)
                    raise ValueError(f"missing: {name!r} is not among the variables; {near}")
        return self


class SequenceConfig(_Section):
    """In which order the steps of an event are read, and how many of them."""

    sort_by: Text | None = None
    order: Literal["ascending", "descending"] = "descending"
    keep_first: PositiveInt | None = None
    keep_last: PositiveInt | None = None
    direction: Literal["forward", "backward"] = "forward"

    @model_validator(mode="after")
    def _check(self) -> SequenceConfig:
        if self.keep_first is not None and self.keep_last is not None:
            raise ValueError("give either 'keep_first' or 'keep_last', not both")
        if self.order == "ascending" and self.sort_by is None:
            raise ValueError("order: ascending has no meaning without 'sort_by'")
        return self


class FractionsConfig(_Section):
    """Shares of the events in a random split; they sum to one."""

    train: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    test: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2

    @model_validator(mode="after")
    def _check(self) -> FractionsConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"train, validation and test sum to {total:g}; they must sum to 1")
        return self


class RemaindersConfig(_Section):
    """Remainders of the event number that belong to each split."""

    train: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4, 5, 6)
    validation: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (7,)
    test: tuple[NonNegativeInt, ...] = (8, 9)


class CountsConfig(_Section):
    """Events of each class for training and for test, by the class's name.

    For a class with neither number one half is for training; with one of them the rest is for the other part.
    """

    train: dict[Text, PositiveInt] = {}
    test: dict[Text, PositiveInt] = {}
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # share of the events for training


class FoldsConfig(_Section):
    """Folds of a cross validation: one is for test, and of the others a share for validation."""

    number: Annotated[int, Field(ge=2)] = 5
    by: Text | None = None  # expression of event_number and folds; None: each class is shuffled
    test: NonNegativeInt = 0
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.125

    @model_validator(mode="after")
    def _check(self) -> FoldsConfig:
        if self.test >= self.number:
            raise ValueError(f"test: fold {self.test} of {self.number}; the folds are 0..{self.number - 1}")
        return self


class SplitConfig(_Section):
    """How events are shared out to training, validation and test."""

    by: Literal["random", "event_number", "alternate", "block", "folds"] = "random"
    fractions: FractionsConfig = FractionsConfig()
    counts: CountsConfig | None = None  # alternate and block: halves, if there is nothing else
    folds: FoldsConfig | None = None
    modulo: Annotated[int, Field(ge=2)] = 10
    remainders: RemaindersConfig = RemaindersConfig()
    seed: Seed = 0

    @property
    def validation_share(self) -> float:
        """Share for validation of the events that are not for test."""
        if self.folds is not None:
            return self.folds.validation
        if self.by == "event_number":
            parts = self.remainders
            return len(parts.validation) / (len(parts.train) + len(parts.validation))
        if self.counts is not None or self.by != "random":
            return self.counts_or_halves.validation
        return self.fractions.validation / (self.fractions.train + self.fractions.validation)

    @property
    def counts_or_halves(self) -> CountsConfig:
        """Give `counts`, and without any one half of each class for training."""
        return self.counts or CountsConfig()

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        # Most likely `by` was forgotten, and the events would be split in another way than is meant.
        used = {
            "random": ("fractions", "counts"),
            "event_number": ("modulo", "remainders"),
            "folds": ("folds",),
        }.get(self.by, ("counts",))
        for key in ("fractions", "counts", "modulo", "remainders", "folds"):
            if key not in used and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key!r} has no meaning with by: {self.by}")
        if self.by == "folds" and self.folds is None:
            raise ValueError("by: folds needs 'folds', as in folds: {number: 5, test: 0}")
        if self.counts is not None and self.fractions != type(self).model_fields["fractions"].default:
            raise ValueError("give either 'fractions' or 'counts', not both")
        if self.by != "event_number":
            return self
        parts = self.remainders
        given = (*parts.train, *parts.validation, *parts.test)
        beyond = [r for r in given if r >= self.modulo]
        if beyond:
            raise ValueError(f"remainder {beyond[0]} cannot occur modulo {self.modulo}")
        doubled = [r for r in given if given.count(r) > 1]
        if doubled:
            raise ValueError(f"remainder {doubled[0]} is given twice; an event belongs to one split")
        return self


# -- network ------------------------------------------------------------------------------------------------


class _RecurrentLayer(_Section):
    units: PositiveInt = 32
    bidirectional: bool = False

    @property
    def summary(self) -> str:
        """Cell and units, and what differs from the defaults: "gru 16 bidirectional"."""
        values = self.model_dump(mode="json")
        words = [values.pop("cell"), str(values.pop("units"))]
        for name, value in values.items():
            if value != type(self).model_fields[name].default:
                words.append(name if value is True else f"{name} {json.dumps(value)}")
        return " ".join(words)


class LSTMConfig(_RecurrentLayer):
    """Long short-term memory; at most one of its options, which `timelike.nn.LSTM` tells about."""

    cell: Literal["lstm"] = "lstm"
    projection: NonNegativeInt = 0  # size of the hidden state; 0: as many as units
    peephole: bool = False
    coupled: bool = False
    inner_bias: bool = True  # false: the second bias stays 0, so that the sum of both is not learnt twice

    @model_validator(mode="after")
    def _check(self) -> LSTMConfig:
        chosen = [name for name in ("projection", "peephole", "coupled") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"given {' and '.join(chosen)}; at most one of them is possible")
        if self.projection >= self.units:
            raise ValueError(
                f"given a projection of {self.units} units to {self.projection}; it must be to fewer"
            )
        return self


class GRUConfig(_RecurrentLayer):
    """Gated recurrent unit; `timelike.nn.GRU` tells about its options."""

    cell: Literal["gru"]
    reset_after: bool = True
    inner_bias: bool = True


class RNNConfig(_RecurrentLayer):
    """Simple recurrent layer."""

    cell: Literal["rnn_tanh", "rnn_relu"]
    inner_bias: bool = True  # false: the second bias stays 0, so that the sum of both is not learnt twice


RecurrentLayer = Annotated[
    LSTMConfig | GRUConfig | RNNConfig, Field(discriminator="cell"), _named("lstm", key="cell")
]


Activation = Literal[
    "relu", "tanh", "elu", "gelu", "silu", "sigmoid", "softsign", "symmrelu", "gauss", "linear"
]  # symmrelu: |x|; gauss: exp(-x^2)


class BatchNormConfig(_Section):
    """Batch normalisation of the inputs of dense layers (Ioffe & Szegedy, arXiv:1502.03167)."""

    before: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)  # which, from 0
    # Share of a new batch in the running mean; None: all batches count the same.
    momentum: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.1
    epsilon: PositiveFloat = 1e-5


class HeadConfig(_Section):
    """The dense layers between the pooled state and the class scores."""

    units: tuple[PositiveInt, ...] = (32,)
    activation: Annotated[tuple[Activation, ...], Field(min_length=1), BeforeValidator(_listed)] = ("relu",)
    dropout: Fraction = 0.0
    batch_norm: BatchNormConfig | None = None
    # softmax: a number for each class; sigmoid: of two classes one number, for the last of them
    output: Literal["softmax", "sigmoid"] = "softmax"

    @property
    def activations(self) -> tuple[str, ...]:
        """Activation of each dense layer but the last; one that is given alone is that of all."""
        return self.activation * len(self.units) if len(self.activation) == 1 else self.activation

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
        if len(self.activations) != len(self.units):
            raise ValueError(f"{len(self.units)} layers of units have {len(self.activations)} activations")
        for k in self.batch_norm.before if self.batch_norm else ():
            if k > len(self.units):
                raise ValueError(f"batch_norm before dense layer {k}: the layers are 0..{len(self.units)}")
        return self


Initialiser = Literal["torch", "xavier", "xavier_uniform", "gauss", "uniform", "identity", "zero"]


class NetworkConfig(_Section):
    """Recurrent layers on top of each other, pooling over steps, dense head.

    Without recurrent layers the head reads the variables themselves.
    """

    recurrent: tuple[RecurrentLayer, ...] = (LSTMConfig(),)
    dropout: Fraction = 0.0  # between recurrent layers
    pooling: Literal["last", "mean", "max", "flatten"] = "last"
    steps: PositiveInt | None = None  # with flatten: so many has every sequence
    head: HeadConfig = HeadConfig()
    initialiser: Initialiser = "torch"

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if not self.recurrent and self.pooling == "last":
            raise ValueError("without recurrent layers there is no last state; pooling: mean, max or flatten")
        if self.pooling == "flatten" and self.steps is None:
            raise ValueError("pooling: flatten needs 'steps', the number of steps of every sequence")
        if self.pooling != "flatten" and self.steps is not None:
            raise ValueError(f"'steps' has no meaning with pooling: {self.pooling}")
        return self


# -- training -----------------------------------------------------------------------------------------------


class _Optimiser(_Section):
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


class _Schedule(_Section):
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
    _named(default="adam"),
]
Schedule = Annotated[
    ConstantSchedule | CosineSchedule | PlateauSchedule,
    Field(discriminator="name"),
    _named(default="constant"),
]


class EarlyStoppingConfig(_Section):
    """Stop after `patience` epochs in which the validation metric has not improved."""

    patience: PositiveInt = 5
    metric: Literal["loss", "auc"] = "loss"
    every: PositiveInt = 1  # epochs after which the metric is asked: those between are no candidates


class RegularisationConfig(_Section):
    """Add to the loss `strength` times the sum of squares (l2) or sizes (l1) of all weights but biases."""

    name: Literal["l1", "l2"] = "l2"
    strength: PositiveFloat


class PhaseConfig(_Section):
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


class InspectConfig(_Section):
    """Looking inside while training; `timelike.inspect.Watch` tells how."""

    every: PositiveInt = 100  # batches
    sequences: PositiveInt = 16  # of a batch, that are asked for their horizon
    tensorboard: bool = False


class FlattenConfig(_Section):
    """Reweight the events of each class so that an observer is flat between limits, and 0 beyond."""

    observer: Text
    bins: PositiveInt = 20
    low: float | None = None  # None: the smallest value
    high: float | None = None


class TrainingConfig(_Section):
    """How the network is fitted."""

    # sigmoid_cross_entropy: each score by itself; the others: of the scores before softmax or sigmoid
    loss: Literal["cross_entropy", "sigmoid_cross_entropy", "squared_error", "huber"] = "cross_entropy"
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
    inspect: InspectConfig | None = None
    checkpoint_every: PositiveInt = 1000  # batches of an epoch; after each epoch there is one in any case
    then: tuple[PhaseConfig, ...] = ()  # phases that follow, each from the best weights so far

    @property
    def phases(self) -> tuple[TrainingConfig, ...]:
        """The settings of each phase."""
        named = [{key: getattr(phase, key) for key in phase.model_fields_set} for phase in self.then]
        return self, *(self.model_copy(update=values) for values in named)


class EvaluationConfig(_Section):
    """How the figures of merit get their uncertainties."""

    bootstrap: NonNegativeInt = 200
    seed: Seed = 0


# -- scan ---------------------------------------------------------------------------------------------------


class ScanParameter(_Section):
    """Values that `timelike scan` may give to a key: a range, or choices.

    Of a range from one whole number to another, whole numbers are tried where the key takes no others.
    """

    low: int | float | None = None
    high: int | float | None = None
    step: PositiveInt | PositiveFloat | None = None
    log: bool = False
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ScanParameter:
        limits = (self.low, self.high)
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("give either 'choices' or 'low' and 'high', not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give 'low' and 'high', or 'choices'")
        if not self.low < self.high:
            raise ValueError(f"from {limits[0]} to {limits[1]}: the first must be smaller")
        if self.log and self.step is not None:
            raise ValueError("give either 'log' or 'step', not both")
        if self.log and not self.low > 0:
            raise ValueError(f"log: from {self.low}; it must be greater than 0")
        return self


class ScanSpace(_Section):
    """A space in a file of its own."""

    scan: Annotated[dict[Text, ScanParameter], Field(min_length=1)]  # by dotted key


# -- the whole ----------------------------------------------------------------------------------------------


class Config(_Section):
    """A whole run, from files to report.

    Examples
    --------
    >>> labels = {"qcd": "label == 0", "top": "label == 1"}
    >>> config = Config.from_dict({
    ...     "data": {"files": "jets.root", "variables": ["part_pt"], "labels": labels},
    ...     "training": {"epochs": 3},
    ... })
    >>> config.data.signal_name, config.training.epochs, config.network.recurrent[0].cell
    ('top', 3, 'lstm')
    """

    data: DataConfig
    sequence: SequenceConfig = SequenceConfig()
    split: SplitConfig = SplitConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    scan: dict[Text, ScanParameter] = {}  # by dotted key, such as training.optimiser.learning_rate
    output: Text = "runs/timelike"

    @model_validator(mode="after")
    def _check(self) -> Config:
        names = self.data.class_names
        if self.network.head.output == "sigmoid" and len(names) != 2:
            raise ValueError(f"network.head.output: sigmoid is for two classes; there are {len(names)}")
        if self.data.targets and self.training.loss not in ("squared_error", "huber"):
            raise ValueError(
                f"training.loss: {self.training.loss} is for classes; with data.targets squared_error and "
                "huber are possible"
            )
        if self.split.by == "folds" and self.data.targets:
            raise ValueError("split: by: folds is for classes; with data.targets it is not there yet")
        if self.data.stream is not None and (self.data.targets or self.training.flatten):
            what = "a regression" if self.data.targets else "training.flatten"
            raise ValueError(f"data.stream: {what} needs all events in memory")
        counted = self.split.counts is not None
        if self.data.stream is not None and (counted or self.split.by in ("alternate", "block", "folds")):
            raise ValueError(
                f"split: {'counts' if counted else f'by: {self.split.by}'} needs all events in memory; "
                "with data.stream possible are by: event_number and by: random with fractions"
            )
        for part in ("train", "test") if self.split.counts else ():
            for name in getattr(self.split.counts, part):
                if name not in names:
                    raise ValueError(f"split.counts.{part}: {name!r} is not a class; {nearest(name, names)}")
        return self

    _base: Path = PrivateAttr(default=Path("."))

    @property
    def base(self) -> Path:
        """The folder that relative paths start from."""
        return self._base

    @property
    def run_folder(self) -> Path:
        """The folder that the results of this run are written to."""
        return Path(os.path.normpath(self._base / self.output))

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        *,
        base: Path | str = ".",
        document: YamlDocument | None = None,
    ) -> Config:
        """Check a mapping of plain values (as from YAML or JSON) and make a config of it.

        Parameters
        ----------
        values : mapping
            The keys and values of a config.
        base : path
            The folder that relative paths start from.
        document : YamlDocument, optional
            Whose name and lines stand in errors.

        Raises
        ------
        ConfigError
            If a key does not exist or a value cannot be used.
        """
        of = document or YamlDocument("config", {})
        return _validated(YamlDocument(of.name, dict(values), of.lines), Path(base))

    def written_for(self, folder: Path) -> str:
        """Write the whole config, defaults included, as YAML text that works from another folder."""
        values = self.model_dump(mode="json", exclude={"scan"})  # a run is one point of it
        for section in ("data", "sequence"):  # where None means "not given"; elsewhere it is a choice
            values[section] = {
                key: value for key, value in values[section].items() if value not in (None, [], {})
            }
        for source in (values["data"], *values["data"].get("classes", {}).values()):
            source["files"] = [_relocated(name, self.base, folder) for name in source.get("files", [])]
        values["output"] = _relocated(self.output, self.base, folder)
        head = f"# Every value of this run, defaults included. Written by timelike {__version__}.\n"
        return head + write_yaml(values)


def _relocated(name: str, base: Path, folder: Path) -> str:
    return name if Path(name).is_absolute() else os.path.relpath(base / name, folder)


def load_config(path: Path | str, *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a config from a YAML file.

    Parameters
    ----------
    path : path
        The file. Relative paths in it start from its folder.
    overrides : mapping, optional
        Values that replace those of the file, by dotted key: ``{"training.epochs": 3}``.

    Returns
    -------
    Config
        The checked config.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no YAML, a key does not exist, or a value cannot be used: one line
        with the file, the line, the key, what was given and what is possible.
    """
    path = Path(path)
    document = read_yaml(path)
    for key, value in (overrides or {}).items():
        _override(document, key, value)
    return _validated(document, path.parent)


def _override(document: YamlDocument, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    place: Any = document.values
    for depth, section in enumerate(sections):
        where = document.where(sections[: depth + 1])
        if isinstance(place, list):
            place = place[_index(section, place, f"{where}: {key}")]
        else:
            place = place.setdefault(section, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"{where}: {key}: {section!r} is neither a mapping nor a list")
    if isinstance(place, list):
        place[_index(last, place, f"{document.where(sections)}: {key}")] = value
    else:
        place[last] = value


def _index(text: str, values: list[Any], where: str) -> int:
    if not text.isdecimal() or int(text) >= len(values):
        raise ConfigError(f"{where}: {text!r}: the list has the entries 0..{len(values) - 1}")
    return int(text)


def _plain(value: Any) -> str:
    """Take a path as text; of other objects, a config made in Python must not have any."""
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    raise ConfigError(f"config: given {value!r}, a {type(value).__name__}; text, numbers, lists are possible")


def _validated(document: YamlDocument, base: Path) -> Config:
    try:
        # By way of JSON: in pydantic's strict mode a list is then good for a tuple, and nothing else changes.
        config = Config.model_validate_json(json.dumps(document.values, default=_plain))
    except ValidationError as error:
        raise ConfigError(first_error(error, document, Config)) from None
    config._base = base
    return config
