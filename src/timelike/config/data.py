"""Which events are read, in which order their steps come, and how they are shared out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    Tag,
    model_validator,
)

from timelike.config.base import Section, Seed, Text, Texts
from timelike.errors import nearest

__all__ = [
    "ClipConfig",
    "CountsConfig",
    "DataConfig",
    "FoldsConfig",
    "FractionsConfig",
    "RemaindersConfig",
    "SequenceConfig",
    "SourceConfig",
    "SplitConfig",
    "StreamConfig",
]


class SourceConfig(Section):
    """Where the events of one class are, as far as that differs from the rest of `DataConfig`."""

    files: Texts = ()
    treename: Text | None = None
    selection: Text | None = None  # on top of the selection for all classes
    weights: Text | None = None


class ClipConfig(Section):
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


class StreamConfig(Section):
    """Reading the files anew in every epoch, piece by piece, for events that do not fit in memory."""

    buffer: PositiveInt = 100_000  # events among which the next ones are drawn
    read_ahead: NonNegativeInt = 2  # pieces read in the background; 0: none, in the foreground
    on_error: Literal["stop", "skip"] = "stop"  # what becomes of a file that cannot be used
    # Keep transformed events on disk from the first epoch on: in a folder; with true in $TMPDIR or beside the
    # run; with auto there, if that is a local disk with room
    spool: bool | Literal["auto"] | Text = "auto"


class DataConfig(Section):
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
    multilabel: dict[Text, Text] = {}  # conditions, any number of which may hold
    targets: dict[Text, Text] = {}  # of a regression: numbers to find, an expression each
    per: Literal["event", "step"] = "event"  # what has a label or target: the event, or each of its steps
    horizon: NonNegativeInt = 0  # per step: it is to find what is that many steps later
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
        """Names of what is told: classes in the order of their index, labels (multilabel), or targets."""
        return tuple(self.labels or self.classes or self.multilabel or self.targets)

    @property
    def exclusive(self) -> bool:
        """Whether it is a classification, in which each event (or step) belongs to one class."""
        return bool(self.labels or self.classes)

    @property
    def kind(self) -> Literal["classes", "multilabel", "regression"]:
        """What kind of task it is."""
        return "classes" if self.exclusive else "multilabel" if self.multilabel else "regression"

    @property
    def answers(self) -> Literal["labels", "targets", "step_labels", "step_targets"]:
        """The field of `timelike.Sequences` that has what is to be found."""
        if self.per == "step":
            return "step_labels" if self.exclusive else "step_targets"
        return "labels" if self.exclusive else "targets"

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
        if sum(map(bool, (self.labels, self.classes, self.multilabel, self.targets))) != 1:
            raise ValueError(
                "give either 'labels' (an expression per class) or 'classes' (a source per class), "
                "'multilabel' (conditions, any number of which may hold), or for a regression 'targets'"
            )
        names = self.class_names
        if not self.exclusive and self.signal is not None:
            raise ValueError(f"'signal' has no meaning with {'targets' if self.targets else 'multilabel'!r}")
        if self.per == "step" and self.classes:
            raise ValueError("per: step needs 'labels', 'multilabel' or 'targets'; 'classes' are of events")
        if self.per == "step" and self.steps is not None:
            raise ValueError("per: step needs 'variables'; 'steps' are branches of numbers per event")
        if self.horizon and self.per == "event":
            raise ValueError("'horizon' has no meaning without per: step")
        if len(names) < 2 and self.exclusive:
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


class SequenceConfig(Section):
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


class FractionsConfig(Section):
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


class RemaindersConfig(Section):
    """Remainders of the event number that belong to each split."""

    train: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2, 3, 4, 5, 6)
    validation: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (7,)
    test: tuple[NonNegativeInt, ...] = (8, 9)


class CountsConfig(Section):
    """Events of each class for training and for test, by the class's name.

    For a class with neither number one half is for training; with one of them the rest is for the other part.
    """

    train: dict[Text, PositiveInt] = {}
    test: dict[Text, PositiveInt] = {}
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2  # share of the events for training


class FoldsConfig(Section):
    """Folds of a cross validation: one is for test, and of the others a share for validation."""

    number: Annotated[int, Field(ge=2)] = 5
    by: Text | None = None  # expression of event_number and folds; None: all are shuffled, by class
    test: NonNegativeInt = 0
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.125

    @model_validator(mode="after")
    def _check(self) -> FoldsConfig:
        if self.test >= self.number:
            raise ValueError(f"test: fold {self.test} of {self.number}; the folds are 0..{self.number - 1}")
        return self


class SplitConfig(Section):
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
