"""Post-training quantisation: a model file with small weights, and what that costs on events of one's own.

Weights are rounded, nothing is trained again; `timelike.smallweights` tells how. The file is read like any
other: whoever reads it gets the weights in float32 (or float64) that the small ones stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from timelike import data
from timelike.data.sources import check_not_an_input, find_files, tree_of
from timelike.errors import ConfigError, DataError
from timelike.files import replacing
from timelike.model import Model, load_model, predict
from timelike.modelfile import read_model_file, write_model_file
from timelike.roc import roc_curve
from timelike.sequences import Sequences

__all__ = ["Quantisation", "quantise"]


@dataclass(frozen=True)
class Quantisation:
    """What a quantisation gives.

    Attributes
    ----------
    output : Path
        The model file with small weights.
    to : str
        How they are stored.
    events : int
        Of the sample.
    largest, rms : float
        Difference of the scores, over all events and outputs.
    sizes : tuple of two int
        Bytes of the file before, and after.
    auc : tuple of two float, or None
        Area under the ROC curve of the signal before, and after; None without labels.
    without_auc : str
        Why there is none.
    """

    output: Path
    to: str
    events: int
    largest: float
    rms: float
    sizes: tuple[int, int]
    auc: tuple[float, float] | None
    without_auc: str


def quantise(
    model: str | Path,
    output: str | Path,
    files: Sequence[str | Path],
    *,
    to: str = "int8",
    limit: float,
    treename: str | None = None,
) -> Quantisation:
    """Write a model file with small weights, if the scores of a sample stay as they are within a limit.

    Parameters
    ----------
    model : path
        A model file.
    output : path
        The new one.
    files : sequence of paths
        Files of events, globs allowed, of the layout of those of the training. With labels, areas under the
        ROC curve are compared, too.
    to : {"int8", "float16"}
        How matrices are stored.
    limit : float
        By how much a score may change, in units of the score.
    treename : str, optional
        The tree to read, where it is not the one of the training.

    Returns
    -------
    Quantisation

    Raises
    ------
    ConfigError
        If a score changes by more, in which case nothing is written; or the output cannot be written.
    DataError
        If the files do not hold what they should, or no step.
    ModelFileError
        If the model cannot be read.
    """
    source, output = Path(model), Path(output)
    if not limit > 0:
        raise ConfigError(f"limit: {limit:g}; a number above 0 is needed")
    if not files:
        raise ConfigError("no input files: events are needed to see what small weights change")
    check_not_an_input(output, find_files([Path(name) for name in files], Path()))
    before = load_model(source)
    events, why = _read(before, [Path(name) for name in files], treename)
    if events.n_rows == 0:
        raise DataError("the input files have no event with a step: nothing can be compared")
    file = read_model_file(source)
    with replacing(output) as part:
        write_model_file(part, file.weights, file.meta, store=to)
        scores = [predict(one, events) for one in (before, load_model(part))]
        difference = np.abs(scores[1] - scores[0])
        largest = float(difference.max())  # NaN, if there is one
        if not largest <= limit:
            worst = int(difference.max(axis=1).argmax())
            raise ConfigError(
                f"weights in {to} change a score by {largest:.3g} (row {worst} of {len(difference)}), "
                f"more than the limit of {limit:g}; nothing was written"
                + ("; float16 is nearer" if to == "int8" else "")
            )
        sizes = (source.stat().st_size, part.stat().st_size)
    auc = None
    if not why:
        auc = (_auc(before, events, scores[0]), _auc(before, events, scores[1]))
    rms = float(np.sqrt(np.mean(difference**2)))
    return Quantisation(output, to, len(events), largest, rms, sizes, auc, why)


def _read(model: Model, files: Sequence[Path], treename: str | None) -> tuple[Sequences, str]:
    """Read events with their labels, or say why that cannot be done."""
    config = model.data.model_copy(
        update={"treename": tree_of(model.data, files, treename), "selection": None, "observers": ()}
    )
    how: dict[str, Any] = {"files": files, "dtype": model.dtype}
    if not config.labels:
        why = (
            "in the training each class had files of its own"
            if config.classes
            else "the model has no classes"
        )
        return data.read(config, model.sequence, labelled=False, **how), why
    try:
        events = data.read(config, model.sequence, **how)
    except DataError as error:
        # Either labels or weights are at fault, or what follows raises too.
        return data.read(config, model.sequence, labelled=False, **how), str(error)
    if events.labels is None:
        return events, "labels are of steps"
    is_signal = events.labels == model.class_names.index(model.signal)
    if is_signal.all() or not is_signal.any():
        return events, f"events are all {'' if is_signal.all() else 'but '}{model.signal}"
    return events, ""


def _auc(model: Model, events: Sequences, scores: npt.NDArray[np.float64]) -> float:
    signal = model.class_names.index(model.signal)
    assert events.labels is not None
    return float(roc_curve(scores[:, signal], events.labels == signal, events.weights).auc)
