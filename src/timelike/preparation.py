"""What a training takes: its events, in memory or to be streamed, and what is said of them.

`prepare` reads files that are streamed once, which gives all that has to be known before the first epoch:
transforms, factors of the weights, validation events where they are few.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timelike.batches import class_factors, signed
from timelike.checkpoint import fingerprint
from timelike.config import Config, DataConfig
from timelike.data.spool import Spool, described, refusal, spool_folder
from timelike.data.streaming import Reader, Skipped, Survey
from timelike.data.transforms import FittedTransforms
from timelike.distributed import local_size
from timelike.errors import ConfigError, DataError
from timelike.sequences import Sequences
from timelike.streams import Training, Validation

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training takes, and what is said of it."""

    training: Sequences | Training  # transformed, or transforming
    validation: Sequences | Validation
    transforms: FittedTransforms
    events: dict[str, int]  # of each part
    classes: tuple[int, ...]  # events of each, or steps; none where there are no classes
    steps: int
    fingerprint: str
    skipped: tuple[Skipped, ...] = ()
    n_files: int = 0  # that are streamed, those that are skipped included
    per_step: bool = False  # whether classes are those of steps
    spools: tuple[Spool, ...] = ()
    spooled: str = ""  # where to, and how much at most; or why nowhere

    def news(self) -> list[str]:
        """Say what has happened to spools."""
        return [news for spool in self.spools if (news := spool.news())]

    def close(self) -> None:
        """Give back what was only needed for training."""
        for spool in self.spools:
            spool.close()

    def about(self, data: DataConfig) -> str:
        """Say in a line what the data are, which were read as this says."""
        parts = ", ".join(f"{n:,} {part}" for part, n in self.events.items())
        if self.classes:
            of = "steps " if self.per_step else ""
            classes = ", ".join(
                f"{n:,} {of}{name}" for name, n in zip(data.class_names, self.classes, strict=True)
            )
        else:
            classes = f"{'labels' if data.multilabel else 'targets'} {', '.join(data.class_names)}"
        streamed = f", streamed from {self.n_files - len(self.skipped)} files" if self.n_files else ""
        return (
            f"data: {sum(self.events.values()):,} events ({classes}; {parts}), {self.steps:,} steps of "
            f"{len(self.transforms.names)} variables{streamed}"
        )

    def left_out(self) -> str:
        """Say in a line which files are skipped; nothing, where none are."""
        names = [skipped.file for skipped in self.skipped]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"skipped {len(names)} of {self.n_files} files: {', '.join(names[:5])}{more}" if names else ""


def prepare(config: Config) -> Prepared:
    """Read all files of a config with `data.stream` once.

    Parameters
    ----------
    config : Config

    Raises
    ------
    DataError
        If the files do not hold what the config says.
    """

    def made_of(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return signed(weights, config.training.negative_weights)

    reader = Reader(config)
    survey, skipped = reader.survey(
        seed=config.training.seed, signed=made_of, mark=lambda events: fingerprint({"": events})
    )
    assert survey.fit is not None
    transforms = survey.fit.fitted()
    _check_answers(config, survey)
    factors = class_factors(
        config.data.class_names if config.data.exclusive else ("",),
        survey.answers[0],
        survey.sums,
        balance=config.training.class_balance,
        where="training",
    )
    n_batched = sum(chunk.n_batched for chunk in survey.chunks)
    if per_step := config.data.per == "step":  # a mean of one over all steps, those without answers included
        factors *= survey.rows[0] / survey.answers[0].sum()
    of_training = tuple(chunk for chunk in survey.chunks if chunk.n_batched)
    of_validation = tuple(chunk for chunk in survey.chunks if chunk.counts[1])
    spools, spooled = _spools(config, survey, transforms)
    validation: Sequences | Validation
    if survey.validation is not None:
        few: list[Sequences] = []
        while survey.validation:  # each is let go when it is transformed
            few.append(transforms.apply(survey.validation.pop(0)))
        validation = Sequences.concatenate(few)
    else:
        validation = Validation(
            reader,
            of_validation,
            transforms,
            Sequences.concatenate(survey.known),
            spools[1] if spools else None,
        )
    marks = "\n".join([*survey.marks, *(name.file for name in skipped)])
    return Prepared(
        Training(
            reader,
            of_training,
            transforms,
            made_of,
            factors,
            config.data.answers,
            survey.rows[0] / n_batched,
            spools[0] if spools else None,
        ),
        validation,
        transforms,
        survey.events,
        tuple(map(int, survey.answers.sum(axis=0))) if config.data.exclusive else (),
        int(survey.rows.sum()),
        hashlib.blake2b(marks.encode(), digest_size=16).hexdigest(),
        skipped,
        reader.n_files,
        per_step=per_step,
        spools=spools,
        spooled=spooled,
    )


def _check_answers(config: Config, survey: Survey) -> None:
    """Refuse answers that cannot be learned from."""
    data = config.data
    if data.per == "step" and not survey.answers[0].any():
        raise DataError(f"training: no step has any {data.answers.removeprefix('step_')}")
    if config.training.loss == "poisson":
        for name, lowest in zip(data.class_names, survey.lowest, strict=True):
            if lowest < 0:
                raise DataError(
                    f"training.loss: poisson: the lowest of data.targets.{name} is {lowest:g}; "
                    "0 or more is needed"
                )


def _spools(config: Config, survey: Survey, transforms: FittedTransforms) -> tuple[tuple[Spool, ...], str]:
    """Make spools of training and validation events that are not in memory, and say where, or why not.

    Raises
    ------
    ConfigError
        If the config asks for them where nothing can be written.
    """
    assert config.data.stream is not None
    given = config.data.stream.spool
    if given is False:
        return (), ""
    folder = spool_folder(given, config.base, config.run_folder)
    # Steps are known of all parts together: it may become as large, and mostly is less.
    row = len(transforms.outputs) * np.dtype(config.training.dtype).itemsize
    n_rows, n_events = int(survey.rows.sum()), sum(survey.events.values())
    answer = 8 if config.data.exclusive else 8 * len(config.data.class_names)
    answers = answer * (n_rows if config.data.per == "step" else n_events)
    n = 1 if survey.validation is not None else 2
    largest = n_rows * row + 16 * n_events + answers + 8 * n * len(survey.chunks)  # all of them together
    try:
        why = refusal(folder, local_size() * largest) if given == "auto" else ""
        if not why:
            spools = tuple(Spool(folder, largest) for _ in range(n))
            return spools, f"spool: at most {described(largest)} in {folder}"
    except OSError as error:
        why = f"cannot write in {folder}: {error.strerror}"
        if given != "auto":
            raise ConfigError(f"data.stream.spool: {why}") from None
    return (), (
        f"no spool: {why}; the files are read anew in every epoch "
        "(data.stream.spool: a folder on a local disk, or false)"
    )
