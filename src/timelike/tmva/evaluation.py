"""The numbers that TMVA's Factory gives after a training, of a run's folder.

`evaluate` computes them and lays them out as text (`TmvaEvaluation.text`); `timelike.tmva.rootfile`
puts them into a ROOT file. They come from the same lines of code as those of ``timelike evaluate``
(`timelike.evaluate`, `timelike.roc`, `timelike.statistics`), with the same conventions for ties and for
negative weights, and agree with ``metrics.json`` to the digit.

What differs from TMVA
----------------------
- ROC integral and efficiencies come from the curve through all events; TMVA reads efficiencies off a spline
  through 100 points of a histogram of 10,000 bins, and its ROC integral depends on the order of tied events.
- The separation is that of 40 bins of the response from 0 to 1; TMVA takes a spline through such a histogram.
- The Kolmogorov-Smirnov test is unbinned and uses effective numbers of events; TMVA's macro ``mvas`` compares
  histograms of 40 bins by pseudo-experiments.
- Cuts are chosen among the responses of the events; TMVA's macro ``mvaeffs`` takes centres of 10,000 bins.
- The training sample is what the network was fitted to. TMVA counts the validation events in.
- TMVA prints the confusion matrix of a multiclass test with the words test and train exchanged.

Regression is not there, for no network here does it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timelike.config import Config
from timelike.data.sources import find_files
from timelike.errors import ConfigError, DataError
from timelike.evaluate import evaluate as metrics_of
from timelike.predictions import Predictions
from timelike.roc import Roc, roc_curve
from timelike.runs import load_run, predictions_of
from timelike.sequences import Sequences
from timelike.tmva.evaluationtext import layout
from timelike.tmva.summary import (
    Binned,
    Summary,
    binned,
    clean,
    correlation,
    edges_of,
    separation,
    summarise,
    weighted_moments,
)
from timelike.train import read_splits

__all__ = ["Cut", "TmvaEvaluation", "Yields", "best_cut", "cut_at", "evaluate", "significance"]

Floats = NDArray[np.float64]

SCAN = np.arange(20) / 20  # cuts of which the text tells
DEFAULT_YIELD = 1000.0  # signal and background events of TMVA's macro mvaeffs


@dataclass(frozen=True)
class Yields:
    """Numbers of signal and background events before a cut, and where they come from."""

    source: str
    signal: float
    background: float


@dataclass(frozen=True)
class Cut:
    """What a cut on the response leaves; events at the cut pass."""

    cut: float
    signal_efficiency: float
    background_efficiency: float
    signal: float  # events
    background: float
    purity: float  # S / (S + B); 0 where nothing is left
    significance: float  # S / sqrt(S + B); 0 where nothing is left


@dataclass(frozen=True, eq=False)
class TmvaEvaluation:
    """What TMVA's Factory would say of a run.

    Sizes: `B` events, `C` classes, `V` summary variables, `G` groups (signal and background of two classes,
    each class of more).

    Parameters
    ----------
    method : str
        Name of the method, good for a branch.
    class_names : tuple of C str
        In the order of the scores' columns.
    signal : str
        The class that is the signal; all others are its background.
    metrics : dict
        What ``timelike evaluate`` writes to ``metrics.json``.
    predictions, summaries : mapping
        By sample, "train" and "test": responses, and summary variables in the same order of events.
    observers : mapping
        By sample: columns by name.
    curves : mapping of str to Roc
        By sample: the signal against all others.
    groups : tuple of G str
        What a histogram or a correlation matrix is of: "Signal" and "Background", or the class names.
    histograms : tuple of V Binned
        Summary variables of the training events, one row for each group.
    ranking : tuple of (str, float)
        Summary variables by falling separation of signal and background in the training events; NaN last.
    correlations : tuple of G ndarray [V, V]
        Linear correlations of the summary variables of training events.
    mean_difference : float or None
        ``|<s> - <b>| / sqrt(rms_s^2 + rms_b^2)`` of the test responses, TMVA's "significance"; None where
        negative weights leave no spread.
    best : tuple of (Yields, Cut)
        The cut of highest significance for each pair of yields.
    scan : tuple of Cut
        Cuts at 0.00, 0.05 ... 0.95 with the first pair of yields.
    inputs : tuple of Path
        The files the events are from.
    """

    method: str
    class_names: tuple[str, ...]
    signal: str
    metrics: dict[str, Any]
    predictions: Mapping[str, Predictions]
    summaries: Mapping[str, Summary]
    observers: Mapping[str, Mapping[str, NDArray[Any]]]
    curves: Mapping[str, Roc]
    groups: tuple[str, ...]
    histograms: tuple[Binned, ...]
    ranking: tuple[tuple[str, float], ...]
    correlations: tuple[Floats, ...]
    mean_difference: float | None
    best: tuple[tuple[Yields, Cut], ...]
    scan: tuple[Cut, ...]
    inputs: tuple[Path, ...]

    @property
    def signal_index(self) -> int:
        """Column of the signal's score."""
        return self.class_names.index(self.signal)

    @property
    def multiclass(self) -> bool:
        """Whether there are three classes or more."""
        return len(self.class_names) > 2

    @property
    def text(self) -> str:
        """All numbers as text, in the manner of the Factory's output."""
        return layout(self)

    def class_ids(self, sample: str) -> NDArray[np.int64]:
        """Give TMVA's number of each event's class, [B]: an index into `groups`.

        Of two classes signal is 0 and background 1, of more the order of the config counts.
        """
        labels = self.predictions[sample].labels
        return labels if self.multiclass else (labels != self.signal_index).astype(np.int64)


def evaluate(
    folder: str | Path,
    *,
    signal_yield: float | None = None,
    background_yield: float | None = None,
    method: str | None = None,
) -> TmvaEvaluation:
    """Evaluate the model of a run as TMVA's Factory does.

    Parameters
    ----------
    folder : path
        The folder that `timelike.train.train` wrote.
    signal_yield, background_yield : float, optional
        Expected numbers of signal and background events before the cut, for purity and significance. Without
        them the best cut is given for 1000 and 1000, as in TMVA's macro ``mvaeffs``, and for the sums of the
        event weights of all samples together: the numbers to expect where weights are scaled to a luminosity.
    method : str, optional
        Name of the method in the text and in the ROOT file; the folder's name when not given.

    Returns
    -------
    TmvaEvaluation
        The numbers; ``text`` lays them out.

    Raises
    ------
    ConfigError
        If the folder is not that of a run, or the yields are not two positive numbers.
    DataError
        If the run's files do not hold what its config says, or a sample lacks events of a class.
    ModelFileError
        If the model cannot be read.
    """
    folder = Path(folder)
    given = _given(signal_yield, background_yield)
    config, model = load_run(folder)
    splits = read_splits(config)
    if not len(splits["test"]):
        raise DataError(f"{folder}: the split leaves no test events")
    samples = {sample: splits[sample] for sample in ("train", "test")}
    predictions = {sample: predictions_of(model, events) for sample, events in samples.items()}
    metrics = metrics_of(
        predictions,
        model.class_names,
        signal=model.signal,
        n_bootstrap=config.evaluation.bootstrap,
        seed=config.evaluation.seed,
    )
    signal = model.class_names.index(model.signal)
    curves = {
        sample: roc_curve(p.scores[:, signal], p.labels == signal, p.weights)
        for sample, p in predictions.items()
    }
    summaries = {sample: summarise(events) for sample, events in samples.items()}
    train = predictions["train"]
    members = _members(train.labels, signal, len(model.class_names))
    histograms = tuple(
        binned(column, train.weights, members, edges_of(column, train.weights))
        for column in summaries["train"].values.T
    )
    values = summaries["train"].values
    yields = given or _expected(splits, signal)
    return TmvaEvaluation(
        method=clean(re.sub(r"\W", "_", folder.resolve().name if method is None else method)),
        class_names=model.class_names,
        signal=model.signal,
        metrics=metrics,
        predictions=predictions,
        summaries=summaries,
        observers={sample: events.observers for sample, events in samples.items()},
        curves=curves,
        groups=model.class_names if len(model.class_names) > 2 else ("Signal", "Background"),
        histograms=histograms,
        ranking=_ranking(summaries["train"].names, histograms, signal),
        correlations=tuple(correlation(values[m], train.weights[m]) for m in members),
        mean_difference=_mean_difference(predictions["test"], signal),
        best=tuple((y, best_cut(curves["test"], y)) for y in yields),
        scan=tuple(cut_at(curves["test"], float(cut), yields[0]) for cut in SCAN),
        inputs=_inputs(config),
    )


def significance(signal: Floats, background: Floats) -> Floats:
    """Give S / sqrt(S + B); 0 where nothing is left.

    Examples
    --------
    >>> significance(np.array([9.0, 0.0]), np.array([7.0, 0.0])).tolist()
    [2.25, 0.0]
    """
    total = signal + background
    result: Floats = np.divide(signal, np.sqrt(total), out=np.zeros_like(total), where=total > 0)
    return result


def best_cut(curve: Roc, yields: Yields) -> Cut:
    """Find the cut of highest significance S / sqrt(S + B); of equal ones, the tightest.

    Parameters
    ----------
    curve : Roc
        Efficiencies at all cuts.
    yields : Yields
        Events before the cut.
    """
    found = significance(
        yields.signal * curve.signal_efficiency, yields.background * curve.background_efficiency
    )
    return _cut(curve, 1 + int(np.argmax(found[1:])), yields)


def cut_at(curve: Roc, cut: float, yields: Yields) -> Cut:
    """Say what a cut leaves.

    Examples
    --------
    >>> curve = roc_curve([0.9, 0.6, 0.6, 0.2], [True, True, False, False])
    >>> cut_at(curve, 0.5, Yields("by hand", 10.0, 20.0)).purity
    0.5
    """
    k = int(np.searchsorted(-curve.thresholds, -cut, side="right")) - 1
    found = _cut(curve, k, yields)
    return Cut(cut, *(getattr(found, name) for name in list(Cut.__dataclass_fields__)[1:]))


def _cut(curve: Roc, k: int, yields: Yields) -> Cut:
    eps_s, eps_b = float(curve.signal_efficiency[k]), float(curve.background_efficiency[k])
    s, b = yields.signal * eps_s, yields.background * eps_b
    return Cut(
        cut=float(curve.thresholds[k]),
        signal_efficiency=eps_s,
        background_efficiency=eps_b,
        signal=s,
        background=b,
        purity=s / (s + b) if s + b > 0 else 0.0,
        significance=float(significance(np.array(s), np.array(b))),
    )


def _given(signal: float | None, background: float | None) -> tuple[Yields, ...]:
    """Check the yields; none if none are given."""
    if signal is None and background is None:
        return ()
    if signal is None or background is None:
        missing = "signal" if signal is None else "background"
        raise ConfigError(f"yields: the {missing} yield is missing; give both, or neither for 1000 and 1000")
    for name, value in (("signal", signal), ("background", background)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} yield: given {value:g}, a positive number of events is needed")
    return (Yields("given", float(signal), float(background)),)


def _expected(splits: Mapping[str, Sequences], signal: int) -> tuple[Yields, ...]:
    """Give the yields that are taken where none are given."""
    totals = [0.0, 0.0]
    for events in splits.values():
        assert events.labels is not None
        weights = np.ones(len(events)) if events.weights is None else events.weights
        totals[0] += float(weights[events.labels == signal].sum())
        totals[1] += float(weights[events.labels != signal].sum())
    usual = Yields("as in mvaeffs", DEFAULT_YIELD, DEFAULT_YIELD)
    # Weights of validation events may be so negative that no yield is left.
    return (usual, Yields("sums of weights", *totals)) if min(totals) > 0 else (usual,)


def _inputs(config: Config) -> tuple[Path, ...]:
    patterns = [*config.data.files, *(name for c in config.data.classes.values() for name in c.files)]
    return find_files(patterns, config.base)


def _members(labels: NDArray[np.int64], signal: int, n_classes: int) -> list[NDArray[np.bool_]]:
    """Say which events each group has."""
    if n_classes > 2:
        return [labels == c for c in range(n_classes)]
    return [labels == signal, labels != signal]


def _ranking(
    names: Sequence[str], histograms: Sequence[Binned], signal: int
) -> tuple[tuple[str, float], ...]:
    found = []
    for name, histogram in zip(names, histograms, strict=True):
        inside = histogram.sums[:, 1:-1]
        row = signal if len(inside) > 2 else 0
        found.append((name, separation(inside[row], np.delete(inside, row, axis=0).sum(axis=0))))
    return tuple(sorted(found, key=lambda one: -one[1] if one[1] == one[1] else math.inf))


def _mean_difference(predicted: Predictions, signal: int) -> float | None:
    """Give TMVA's significance of the difference of means."""
    is_signal = predicted.labels == signal
    moments = [
        weighted_moments(predicted.scores[chosen, signal, None], predicted.weights[chosen])
        for chosen in (is_signal, ~is_signal)
    ]
    (mean_s, spread_s), (mean_b, spread_b) = moments
    spread = float(spread_s[0, 0] + spread_b[0, 0])
    return abs(float(mean_s[0] - mean_b[0])) / math.sqrt(spread) if spread > 0 else None
