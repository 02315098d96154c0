"""Evaluating the run in a folder: predictions of its events, metrics, figures, report.

Nothing of a training needs to be kept for it but the model and the config: events are read and split again,
which gives the same splits, and predictions are made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from timelike import __version__, kernels
from timelike.batches import answers
from timelike.config import Config, DataConfig, NetworkConfig, load_config
from timelike.errors import ConfigError, DataError
from timelike.evaluate import evaluate
from timelike.inspect.attribution_sections import attribution_sections
from timelike.inspect.flow_sections import flow_sections
from timelike.inspect.runlog import read_looks
from timelike.inspect.watch_sections import watch_sections
from timelike.model import Model, load_model, predict
from timelike.multilabel import evaluate_multilabel
from timelike.predictions import Estimates, Predictions
from timelike.regression import evaluate_regression
from timelike.report import write_report
from timelike.report.page import Section
from timelike.sequences import Sequences
from timelike.train import CONFIG, HISTORY, MODEL, read_splits

__all__ = [
    "Evaluation",
    "beside",
    "evaluate_run",
    "load_run",
    "metrics_of",
    "network_text",
    "predictions_of",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation gives."""

    metrics: dict[str, Any]  # as in metrics.json
    report: Path  # report.html


def evaluate_run(folder: str | Path) -> Evaluation:
    """Evaluate the model of a run on its test and training events, and write the report.

    Parameters
    ----------
    folder : path
        The folder that `timelike.train.train` wrote.

    Returns
    -------
    Evaluation
        The metrics, and where the report is. ``metrics.json``, ``report.html`` and ``figures`` are written
        into the folder.

    Raises
    ------
    ConfigError
        If the folder is not that of a run, or cannot be written.
    DataError
        If the run's files do not hold what its config says, or there are no test events.
    ModelFileError
        If the model cannot be read.
    """
    folder = Path(folder)
    config, model = load_run(folder)
    if not (folder / HISTORY).is_file():
        raise ConfigError(f"{folder}: not the folder of a run, it has no {HISTORY}")
    history, looks = _history(folder / HISTORY), read_looks(folder)
    splits = read_splits(config)
    if not len(splits["test"]):
        raise DataError(f"{folder}: the split leaves no test events")
    parts = {name: splits[name] for name in ("train", "test")}
    predictions = {name: beside(model.data, predict(model, part), part) for name, part in parts.items()}
    metrics = metrics_of(config, predictions)
    report = write_report(
        folder,
        metrics=metrics,
        predictions=predictions,
        history=history,
        config_text=(folder / CONFIG).read_text(encoding="utf-8"),
        summary=_summary(config, model, splits),
        more=[*watch_sections(looks), *_inner_sections(model, splits["test"])],
    )
    return Evaluation(metrics, report)


def load_run(folder: Path) -> tuple[Config, Model]:
    """Read config and model of a run, and check that they belong together.

    Raises
    ------
    ConfigError
        If the folder is not that of a run.
    ModelFileError
        If the model cannot be read.
    """
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder}: not the folder of a run, it has no {name}")
    config = load_config(folder / CONFIG)
    model = load_model(folder / MODEL)
    if config.data.class_names != model.class_names:
        raise ConfigError(
            f"{folder}: the classes of {CONFIG} are {_listed(config.data.class_names)}, "
            f"those of {MODEL} are {_listed(model.class_names)}; train again"
        )
    return config, model


def predictions_of(model: Model, sequences: Sequences) -> Predictions:
    """Put a model's scores of labelled events, or of their labelled steps, beside what they are.

    Parameters
    ----------
    model : Model
        Of classes.
    sequences : Sequences
        As read, with labels.

    Raises
    ------
    DataError
        If the events have no labels, or a variable of the model is missing.
    """
    found = beside(model.data, predict(model, sequences), sequences)
    assert isinstance(found, Predictions)
    return found


def beside(data: DataConfig, said: Floats, sequences: Sequences) -> Predictions | Estimates:
    """Put what a model has said of events, or of their steps, beside what they are.

    Parameters
    ----------
    data : DataConfig
        Of the model: what it was to find.
    said : array [B, ...] or [N, ...]
        As `timelike.model.predict` gives it.
    sequences : Sequences
        As read, with what is to be found.

    Returns
    -------
    Predictions or Estimates
        Of classes, or of numbers and labels by themselves; of all events, or of all steps with an answer.

    Raises
    ------
    DataError
        If the events do not have what is to be found.
    """
    per_step = data.per == "step"
    found = answers(sequences, torch.float64, targets=not data.exclusive, per_step=per_step)
    n = len(sequences)
    weights = np.ones(n) if sequences.weights is None else sequences.weights
    events = np.arange(n) if sequences.events is None else sequences.events
    truth, groups = found.values.numpy(), None
    if per_step:
        owner = np.repeat(np.arange(n), sequences.lengths)[found.answered]
        said, truth = said[found.answered], truth[found.answered]
        weights, events, groups = weights[owner], events[owner], np.unique(owner, return_inverse=True)[1]
    return (Predictions if data.exclusive else Estimates)(said, truth, weights, events, groups)


def metrics_of(config: Config, found: Mapping[str, Any]) -> dict[str, Any]:
    """Compute all figures of merit of a task.

    Parameters
    ----------
    config : Config
    found : mapping of str to Predictions or Estimates
        By split, as `beside` gives them.

    Returns
    -------
    dict
        As `timelike.evaluate`, `timelike.multilabel` or `timelike.regression` gives it.

    Raises
    ------
    DataError
        If a split cannot be evaluated.
    """
    data, head = config.data, config.network.head
    how: dict[str, Any] = {"n_bootstrap": config.evaluation.bootstrap, "seed": config.evaluation.seed}
    if data.exclusive:
        return evaluate(found, data.class_names, signal=data.signal_name, **how)
    if data.multilabel:
        return evaluate_multilabel(found, data.class_names, **how)
    how |= {"quantiles": head.quantiles, "counts": head.output == "exponential"}
    return evaluate_regression(found, data.class_names, **how)


def _inner_sections(model: Model, sequences: Sequences) -> list[Section]:
    """Show what goes on inside; attributions are there for events with classes."""
    flow = flow_sections(model, sequences)
    of_events = model.data.exclusive and model.data.per == "event"
    return [*flow, *attribution_sections(model, sequences)] if of_events else flow


def network_text(network: NetworkConfig) -> str:
    """Say in a line what a network is made of.

    Examples
    --------
    >>> network_text(NetworkConfig())
    'lstm 32, pooling last, dense 32 relu'
    """
    layers = ", ".join(layer.summary for layer in network.recurrent) or "no recurrent layer"
    of_head = zip(network.head.units, network.head.activations, strict=True)
    head = ", ".join(f"dense {units} {activation}" for units, activation in of_head)
    return ", ".join(part for part in (layers, f"pooling {network.pooling}", head) if part)


def _history(path: Path) -> list[dict[str, float]]:
    try:
        history: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(history, list) or not all(_is_epoch(entry) for entry in history):
        raise ConfigError(f"{path}: not the history of a training; train again")
    return history


def _is_epoch(entry: object) -> bool:
    needed = ("epoch", "train_loss", "validation_loss")
    return isinstance(entry, dict) and all(isinstance(entry.get(key), int | float) for key in needed)


def _stopped_by(config: Config) -> dict[str, str]:
    """Say what chose the epoch, where it is neither of the figures that every report shows."""
    stopping = config.training.phases[-1].early_stopping
    return {} if stopping is None or stopping.metric in ("loss", "auc") else {"stopped_by": stopping.metric}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))


def _summary(config: Config, model: Model, splits: Mapping[str, Sequences]) -> dict[str, str | int | float]:
    record = model.training
    return {
        "network": network_text(config.network),
        "n_parameters": model.n_parameters,
        **{f"n_{name}": len(part) for name, part in splits.items()},
        "steps": sum(part.n_rows for part in splits.values()),
        "variables": ", ".join(model.variables),
        "epochs": record.get("epochs", 0),
        "best_epoch": (record.get("best") or {}).get("epoch", 0),
        **_stopped_by(config),
        "seconds": record.get("seconds", 0.0),
        "threads": config.training.threads,
        "isa": kernels.isa(),
        "version": __version__,
    }
