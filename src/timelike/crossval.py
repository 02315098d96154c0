"""Cross validation: k trainings that each leave out one fold, and scores of all events by who left them out.

`cross_validate` does all of it; `train_fold` and `join_folds` are its parts, for farms where each fold is a
job. In the folder there are then

- ``fold-0`` .. ``fold-{k-1}``: ordinary runs, whose test events are those of the fold;
- ``model.safetensors``: the ensemble of their networks (`timelike.model.Ensemble`);
- ``scores.parquet``: for each event its number, label, weight, fold and out-of-fold scores, in input order;
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

from timelike import __version__, kernels
from timelike.config import Config, FoldsConfig, SplitConfig, load_config
from timelike.crossval_sections import fold_section
from timelike.data.folds import check_expression
from timelike.data.split import split
from timelike.data.write import write_table
from timelike.errors import ConfigError, DataError, ModelFileError
from timelike.evaluate import evaluate
from timelike.files import replacing
from timelike.model import Ensemble, save_model
from timelike.modelfile import read_model_file
from timelike.predictions import Predictions
from timelike.progress import Progress, Silent
from timelike.report import write_report
from timelike.runs import network_text, predictions_of
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
_OVER_FOLDS = ("auc", "auc_macro", "separation", "accuracy", "balanced_accuracy", "log_loss")


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What a cross validation gives."""

    folder: Path
    model: Ensemble
    predictions: Predictions  # out of fold, all events in input order
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
        or ``event_number % folds``. Without `data.event_number` in the config, each class is shuffled.
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
        If the files do not hold what the config says, or a fold has no event of a class: before any training.
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
    if not config.data.exclusive or config.data.per == "step":
        raise ConfigError("cross validation is of events of classes; for other tasks it is not there yet")
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
    """Split for every fold, which raises where one lacks a class."""
    for each in configs:
        split(events, each.split, class_names=each.data.class_names)


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
    n, which = len(events), np.full(len(events), -1)
    scores = np.full((n, len(names)), np.nan)
    of_folds = []
    for fold, (each, result) in enumerate(zip(configs, results, strict=True)):
        test = split(events, each.split, class_names=names)["test"]
        of_folds.append(predictions_of(result.model, events[test]))
        scores[test], which[test] = of_folds[-1].scores, fold
    if (which < 0).any() or sum(len(p.labels) for p in of_folds) != n:
        raise AssertionError("the folds do not share out the events")
    assert events.labels is not None
    weights = np.ones(n) if events.weights is None else events.weights
    numbers = np.arange(n) if events.events is None else events.events
    whole = Predictions(scores, events.labels, weights, numbers)
    evaluated = _evaluated(config, SPLIT, whole)
    metrics = _metrics(config, results, of_folds, evaluated)
    seconds = round(sum(result.seconds for result in results), 3)
    record = {"complete": True, "seconds": seconds, "config": config.training.model_dump(mode="json")}
    model = Ensemble([result.model for result in results], folds, record)
    _write(folder, config, model, whole, which, metrics)
    report = write_report(
        folder,
        metrics=evaluated,
        predictions={SPLIT: whole},
        config_text=(folder / CONFIG).read_text(encoding="utf-8"),
        summary={
            "network": network_text(config.network),
            "n_parameters": results[0].model.n_parameters,
            "folds": folds.number,
            "folds by": folds.by or "a shuffle of each class",
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
    of_folds: Sequence[Predictions],
    evaluated: Mapping[str, Any],
) -> dict[str, Any]:
    names, folds = config.data.class_names, config.split.folds
    assert folds is not None
    found = []
    for fold, (result, predicted) in enumerate(zip(results, of_folds, strict=True)):
        try:
            metrics = _evaluated(config, f"fold {fold}", predicted)[f"fold {fold}"]
        except DataError as error:
            raise DataError(f"{result.folder}: {error}") from None
        del metrics["roc"]  # for drawing; those of all events are below
        for one in metrics.get("one_vs_rest", {}).values():
            del one["roc"]
        events = {part: int(count) for part, count in result.model.training["events"].items()}
        found.append({"fold": fold, "split": events, "best_epoch": result.best.epoch, **metrics})
    return {
        "folds": folds.number,
        "by": folds.by,
        "classes": list(names),
        "signal": config.data.signal_name,
        "over_folds": _over_folds(found),
        "per_fold": found,
        "out_of_fold": evaluated[SPLIT],
    }


def _evaluated(config: Config, split: str, predicted: Predictions) -> dict[str, Any]:
    how = config.evaluation
    return evaluate(
        {split: predicted},
        config.data.class_names,
        signal=config.data.signal_name,
        n_bootstrap=how.bootstrap,
        seed=how.seed,
    )


def _over_folds(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give mean and standard deviation over folds; None where a fold has no value."""

    def spread(values: Sequence[float | None]) -> dict[str, float | None]:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return {"mean": None, "standard_deviation": None}
        return {"mean": float(np.mean(known)), "standard_deviation": float(np.std(known, ddof=1))}

    over = {key: spread([one[key]["value"] for one in found]) for key in _OVER_FOLDS if key in found[0]}
    for group in ("signal_efficiency", "rejection"):
        at = {point: spread([one[group][point]["value"] for one in found]) for point in found[0][group]}
        over |= {f"{group}_{point}": value for point, value in at.items()}
    return over


def _write(
    folder: Path,
    config: Config,
    model: Ensemble,
    whole: Predictions,
    which: np.ndarray[Any, np.dtype[np.int64]],
    metrics: Mapping[str, Any],
) -> None:
    columns = {"event_number": whole.events, "label": whole.labels, "weight": whole.weights, "fold": which}
    columns |= {f"score_{name}": whole.scores[:, c] for c, name in enumerate(model.class_names)}
    write_table(folder / "scores.parquet", columns)
    save_model(model, folder / MODEL)
    with replacing(folder / "crossval.json") as part:
        part.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(folder / CONFIG) as part:
        whole_run = config.model_copy(update={"output": str(folder)})
        part.write_text(whole_run.written_for(folder), encoding="utf-8")
