"""Cross validation: k trainings that each leave out one fold, and scores of all events by who left them out.

`cross_validate` does all of it; `train_fold` and `join_folds` are its parts, for farms where each fold is a
job. In the folder there are then

- ``fold-0`` .. ``fold-{k-1}``: ordinary runs, whose test events are those of the fold;
- ``model.safetensors``: the ensemble of their networks (`timelike.model.Ensemble`);
- ``scores.parquet``: for each event its number, label or targets, weight, fold and out-of-fold scores, in
  input order; where each step has answers, these and the scores are lists;
- ``crossval.json``: metrics of each fold with mean and standard deviation, and of all out-of-fold scores;
- ``report.html``, ``figures``, ``metrics.json``: the report of the out-of-fold scores;
- ``config.yaml``: the config, with the folds as its split.

All folds have the seed of the config. The standard deviation over folds is the spread of single trainings; it
is not the uncertainty of their mean, because any two of them share most of their training events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import __version__, kernels
from timelike.config import Config, FoldsConfig, SplitConfig, load_config
from timelike.crossval_sections import figures_of, fold_section
from timelike.data.folds import check_expression
from timelike.data.split import split
from timelike.data.table import Column
from timelike.data.write import Columns, write_table
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.files import replacing
from timelike.model import Ensemble, predict, save_model
from timelike.modelfile import read_model_file
from timelike.multilabel import of_label
from timelike.predictions import Estimates, Predictions
from timelike.progress import Progress, Silent
from timelike.report import write_report
from timelike.runs import beside, metrics_of, network_text
from timelike.sequences import Sequences
from timelike.train import (
    CHECKPOINT,
    CONFIG,
    MODEL,
    TrainingInterrupted,
    TrainingResult,
    read_events,
    train,
)

__all__ = ["CrossValidation", "cross_validate", "fold_config", "join_folds", "train_fold"]

SPLIT = "out-of-fold"  # what the report calls the events


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What a cross validation gives."""

    folder: Path
    model: Ensemble
    predictions: Predictions | Estimates  # out of fold, all events in input order
    folds: np.ndarray[Any, np.dtype[np.int64]]  # of each event
    metrics: dict[str, Any]  # as in crossval.json
    report: Path


def cross_validate(
    config: Config | str | Path,
    *,
    folds: int | None = None,
    by: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> CrossValidation:
    """Train a network for each fold without it, and score every event by the one that has not seen it.

    Parameters
    ----------
    config : Config or path
        What to train, or the file that says so. Its `split` says by its own share how many of the events that
        are not for test are for validation, and by its seed which.
    folds : int, optional
        Number of folds k; that of the config's `split.folds`, or 5.
    by : str, optional
        Expression of the fold, of ``event_number``, ``folds`` (which is k) and observers; that of the config,
        or ``event_number % folds``. Without `data.event_number` in the config, events are shuffled, each
        class by itself.
    folder : path, optional
        Where all goes; the run's folder with ``-crossval`` behind its name when not given.
    progress : Progress, optional
        Where to show how it goes.
    resume : bool
        Go on where an interrupted cross validation of this config stopped, to the same bits.

    Returns
    -------
    CrossValidation

    Raises
    ------
    ConfigError
        If the config or the expression cannot be used, or the folder cannot be written.
    DataError
        If the files do not hold what the config says, or a fold has no event of a class, or a label that
        holds for all of its events or for none: before any training.
    TrainingError
        If the loss of a training is no longer a finite number.
    TrainingInterrupted
        On Ctrl-C during a training.
    """
    configs = _configs(config, folds, by, folder)
    events = read_events(configs[0])
    _check_splits(configs, events)
    results = [_trained(each, events, progress, resume) for each in configs]
    return _joined(configs, results, events)


def fold_config(
    config: Config | str | Path,
    fold: int,
    *,
    folds: int | None = None,
    by: str | None = None,
    folder: str | Path | None = None,
) -> Config:
    """Give the config of the training that leaves out a fold; see `cross_validate`.

    Raises
    ------
    ConfigError
        If there is no such fold, or the config or the expression cannot be used.
    """
    configs = _configs(config, folds, by, folder)
    if not 0 <= fold < len(configs):
        raise ConfigError(f"fold {fold}: the folds are 0..{len(configs) - 1}")
    return configs[fold]


def train_fold(
    config: Config | str | Path,
    fold: int,
    *,
    folds: int | None = None,
    by: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train the network that does not see one fold, and nothing else; see `cross_validate`."""
    chosen = fold_config(config, fold, folds=folds, by=by, folder=folder)
    return _trained(chosen, read_events(chosen), progress, resume)


def join_folds(
    config: Config | str | Path,
    *,
    folds: int | None = None,
    by: str | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> CrossValidation:
    """Join folds that are all trained; see `cross_validate`.

    Raises
    ------
    ConfigError
        Also if a fold is not there, not complete, or of another config.
    """
    configs = _configs(config, folds, by, folder)
    for fold, each in enumerate(configs):
        if not _complete(each.run_folder):
            raise ConfigError(
                f"fold {fold} of {len(configs)} is not trained to its end in {each.run_folder}: "
                f"timelike crossval --fold {fold} --resume"
            )
    events = read_events(configs[0])
    results = [train(each, progress=progress, resume=True, events=events) for each in configs]
    return _joined(configs, results, events)


def _configs(
    config: Config | str | Path, folds: int | None, by: str | None, folder: str | Path | None
) -> list[Config]:
    """Make the config of each fold."""
    config = config if isinstance(config, Config) else load_config(config)
    if config.data.stream is not None:
        raise ConfigError("data.stream: cross validation needs all events in memory")
    own = config.split.folds or FoldsConfig()
    number, by = folds or own.number, by or own.by
    if number < 2:
        raise ConfigError(f"given {number} folds; 2 or more are needed")
    if config.data.event_number is not None:
        by = by or "event_number % folds"
    if by is not None:
        names = check_expression(by, config.data.observers)
        if "event_number" in names and config.data.event_number is None:
            raise ConfigError(f"folds by {by!r}: the config has no data.event_number")
    run = config.run_folder
    top = run.with_name(f"{run.name}-crossval") if folder is None else Path(folder)
    share = config.split.validation_share

    def leaving_out(fold: int) -> Config:
        chosen = FoldsConfig(number=number, by=by, test=fold, validation=share)
        how = SplitConfig(by="folds", folds=chosen, seed=config.split.seed)
        return config.model_copy(update={"split": how, "output": str(top.absolute() / f"fold-{fold}")})

    return [leaving_out(fold) for fold in range(number)]


def _check_splits(configs: Sequence[Config], events: Sequences) -> None:
    """Split for every fold, which raises where one lacks a class, and check that its events can be judged."""
    data, names = configs[0].data, configs[0].data.class_names
    each = len(configs[0].network.head.quantiles) or 1
    for fold, config in enumerate(configs):
        where = f"fold {fold} of {len(configs)}"
        own = events[split(events, config.split, class_names=names)["test"]]
        nothing = np.zeros((own.n_rows if data.per == "step" else len(own), len(names) * each))
        found = beside(data, nothing, own)
        if isinstance(found, Predictions):
            found.check(names, where)
            continue
        found.check(names, where, each=each)
        for k, name in enumerate(data.multilabel):
            of_label(found, k).check((f"not {name}", name), where)


def _trained(config: Config, events: Sequences, progress: Progress | None, resume: bool) -> TrainingResult:
    folds = config.split.folds
    assert folds is not None
    progress = Silent() if progress is None else progress
    progress.say(f"fold {folds.test} of 0..{folds.number - 1}: {config.run_folder}")
    try:
        return train(config, progress=progress, resume=resume, events=events)
    except TrainingInterrupted:
        raise TrainingInterrupted(
            f"in fold {folds.test} of 0..{folds.number - 1}; timelike crossval --resume goes on"
        ) from None


def _complete(folder: Path) -> bool:
    """Whether a training came to its end there."""
    if not (folder / CHECKPOINT).is_file():
        return False
    try:
        return bool(read_model_file(folder / MODEL).meta["training"].get("complete"))
    except ModelFileError:  # none yet
        return False


def _joined(
    configs: Sequence[Config], results: Sequence[TrainingResult], events: Sequences
) -> CrossValidation:
    config, names = configs[0], configs[0].data.class_names
    folds = config.split.folds
    assert folds is not None
    folder = config.run_folder.parent
    which = np.full(len(events), -1)
    per_step = config.data.per == "step"
    said = np.full((events.n_rows if per_step else len(events), len(results[0].model.output_names)), np.nan)
    of_folds = []
    for fold, (each, result) in enumerate(zip(configs, results, strict=True)):
        test = split(events, each.split, class_names=names)["test"]
        if (which[test] >= 0).any():
            raise AssertionError("the folds do not share out the events")
        which[test] = fold
        own = predict(result.model, events[test])
        said[np.repeat(which == fold, events.lengths) if per_step else test] = own
        of_folds.append(beside(config.data, own, events[test]))
    if (which < 0).any():
        raise AssertionError("the folds do not share out the events")
    whole = beside(config.data, said, events)
    evaluated = metrics_of(config, {SPLIT: whole})
    metrics = _metrics(config, results, of_folds, evaluated)
    seconds = round(sum(result.seconds for result in results), 3)
    record = {"complete": True, "seconds": seconds, "config": config.training.model_dump(mode="json")}
    model = Ensemble([result.model for result in results], folds, record)
    _write(folder, config, model, _columns(model, events, said, which), metrics)
    report = write_report(
        folder,
        metrics=evaluated,
        predictions={SPLIT: whole},
        config_text=(folder / CONFIG).read_text(encoding="utf-8"),
        summary={
            "network": network_text(config.network),
            "n_parameters": results[0].model.n_parameters,
            "folds": folds.number,
            "folds by": folds.by or "a shuffle",
            "steps": events.n_rows,
            "variables": ", ".join(model.variables),
            "time of all trainings / s": seconds,
            "threads": config.training.threads,
            "isa": kernels.isa(),
            "version": __version__,
        },
        more=[fold_section(metrics)],
        commands=(
            f"timelike crossval {quote(folder.name + '/config.yaml')} -o {quote(folder.name + '_again')}",
        ),
    )
    return CrossValidation(folder, model, whole, which, metrics, report)


def _metrics(
    config: Config,
    results: Sequence[TrainingResult],
    of_folds: Sequence[Predictions | Estimates],
    evaluated: Mapping[str, Any],
) -> dict[str, Any]:
    names, folds = config.data.class_names, config.split.folds
    assert folds is not None
    found = []
    for fold, (result, predicted) in enumerate(zip(results, of_folds, strict=True)):
        try:
            metrics = metrics_of(config, {f"fold {fold}": predicted})[f"fold {fold}"]
        except DataError as error:
            raise DataError(f"{result.folder}: {error}") from None
        # Curves are for drawing; those of all events are below.
        for one in (metrics, *metrics.get("one_vs_rest", {}).values(), *metrics.get("labels", {}).values()):
            one.pop("roc", None)
        events = {part: int(count) for part, count in result.model.training["events"].items()}
        found.append({"fold": fold, "split": events, "best_epoch": result.best.epoch, **metrics})
    what = {"classes": "classes", "multilabel": "labels", "regression": "targets"}[config.data.kind]
    return {
        "task": config.data.kind,
        "folds": folds.number,
        "by": folds.by,
        what: list(names),
        **({"signal": config.data.signal_name} if config.data.exclusive else {}),
        "over_folds": _over_folds(found),
        "per_fold": found,
        "out_of_fold": evaluated[SPLIT],
    }


def _over_folds(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give mean and standard deviation over folds; None where a fold has no value."""

    def spread(values: Sequence[float | None]) -> dict[str, float | None]:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return {"mean": None, "standard_deviation": None}
        return {"mean": float(np.mean(known)), "standard_deviation": float(np.std(known, ddof=1))}

    figures = [figures_of(one) for one in found]
    return {name: spread([one[name]["value"] for one in figures]) for name in figures[0]}


def _columns(
    model: Ensemble, events: Sequences, said: npt.NDArray[np.float64], which: npt.NDArray[np.int64]
) -> Columns:
    """Give the columns of the table of scores."""
    data, n = model.data, len(events)

    def column(values: npt.NDArray[Any]) -> npt.NDArray[Any] | Column:
        return Column(values, events.offsets) if data.per == "step" else values

    given = getattr(events, data.answers)
    if data.exclusive:
        told = {"label": column(given)}
    else:
        kind = "label" if data.multilabel else "target"
        told = {f"{kind}_{name}": column(given[:, k]) for k, name in enumerate(data.class_names)}
    kind = "predicted" if data.targets else "score"
    return {
        "event_number": np.arange(n) if events.events is None else events.events,
        **told,
        "weight": np.ones(n) if events.weights is None else events.weights,
        "fold": which,
        **{f"{kind}_{name}": column(said[:, c]) for c, name in enumerate(model.output_names)},
    }


def _write(
    folder: Path,
    config: Config,
    model: Ensemble,
    columns: Columns,
    metrics: Mapping[str, Any],
) -> None:
    write_table(folder / "scores.parquet", columns)
    save_model(model, folder / MODEL)
    with replacing(folder / "crossval.json") as part:
        part.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(folder / CONFIG) as part:
        whole_run = config.model_copy(update={"output": str(folder)})
        part.write_text(whole_run.written_for(folder), encoding="utf-8")
