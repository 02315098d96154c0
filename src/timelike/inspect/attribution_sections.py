"""The section of a report on what the network looks at: variables by importance, steps of one event."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from timelike.errors import DataError
from timelike.inspect.attribution import Attribution, integrated_gradients
from timelike.inspect.attribution_figures import (
    plot_permutation_importance,
    plot_step_attributions,
    plot_variable_attributions,
)
from timelike.inspect.importance import PermutationImportance, permutation_importance
from timelike.model import Model
from timelike.report.page import Cell, Figure, Row, Section, Table
from timelike.report.typography import cell, count, number
from timelike.sequences import Sequences

__all__ = ["attribution_sections"]

_REPEATS, _REPLICAS, _POINTS = 5, 100, 100
_POINTS_OF_ONE = 2000  # of one event alone: cheap, and its figure shows the error
_ROWS_OF_GRADIENTS = 20_000  # with 100 points each: about a second per 32 units


def attribution_sections(
    model: Model, sequences: Sequences, *, n_events: int = 2000, seed: int = 0
) -> list[Section]:
    """Say which variables a model uses, and for one event which steps.

    Parameters
    ----------
    model : timelike.model.Model
    sequences : Sequences
        As read, not transformed, with labels; test events, best of all.
    n_events : int
        Of more events than this a sample is taken, of each class its share.
    seed : int
        Of the sample and of what is done with it.

    Returns
    -------
    list of Section
        One section. Where the event weights of a class do not sum to more than 0 in the sample, its lead says
        so, and there is nothing else in it.

    Raises
    ------
    DataError
        If there are no events or no labels, a variable is missing, or a value is not finite.
    """
    if sequences.labels is None or len(sequences) == 0:
        raise DataError("attributions by class need events with labels")
    title, anchor = "What the network looks at", "attributions"
    sample = _sample(sequences, n_events, seed)
    reason = _in_the_way(model, sample)
    if reason:
        return [Section(anchor, title, reason)]
    shuffled = permutation_importance(model, sample, n_repeats=_REPEATS, n_bootstrap=_REPLICAS, seed=seed)
    mean = max(1.0, float(sample.lengths.mean()))
    fewer = _sample(sample, max(20, int(_ROWS_OF_GRADIENTS / mean)), seed + 1)
    fewer = sample if _in_the_way(model, fewer) else fewer
    attributed = integrated_gradients(model, fewer, n_steps=_POINTS)
    event = _typical(attributed, model)
    what = f"Of {count(len(sample))} events"
    what += f", {count(len(fewer))} of them for the attributions" if len(fewer) < len(sample) else ""
    lead = (
        f"{what}. Both explain the network, not nature: of two variables that say the same it may use "
        "either, and where variables are correlated shuffling makes steps that never occur."
    )
    figures = (
        _importance_figure(shuffled),
        _variables_figure(attributed),
        _steps_figure(
            integrated_gradients(model, fewer[[event]], n_steps=_POINTS_OF_ONE),
            None if fewer.events is None else int(fewer.events[event]),
        ),
    )
    return [Section(anchor, title, lead, figures, (_table(shuffled, attributed),))]


def _sample(sequences: Sequences, n: int, seed: int) -> Sequences:
    """Choose about n events, of each class its share and at least one, in their order."""
    if len(sequences) <= n:
        return sequences
    assert sequences.labels is not None
    rng, chosen = np.random.default_rng(seed), []
    for c in np.unique(sequences.labels):
        members = np.flatnonzero(sequences.labels == c)
        share = max(1, round(n * len(members) / len(sequences)))
        chosen.append(rng.choice(members, share, replace=False))
    return sequences[np.sort(np.concatenate(chosen))]


def _in_the_way(model: Model, sample: Sequences) -> str:
    """Say which class has no positive sum of weights."""
    assert sample.labels is not None
    weights = np.ones(len(sample)) if sample.weights is None else sample.weights
    for c, name in enumerate(model.class_names):
        total = float(weights[sample.labels == c].sum())
        if not total > 0:
            return (
                f"The {count(int((sample.labels == c).sum()))} events of {name} in a sample of "
                f"{count(len(sample))} have weights that sum to {number(total)}: there is nothing to average."
            )
    return ""


def _typical(attributed: Attribution, model: Model) -> int:
    """Choose the event of the signal whose score is the median of those with steps."""
    assert attributed.labels is not None
    there = np.diff(attributed.offsets) > 0
    signal = attributed.labels == model.class_names.index(model.signal)
    members = np.flatnonzero(signal & there) if (signal & there).any() else np.arange(len(attributed))
    return int(members[np.argsort(attributed.score[members], kind="stable")[len(members) // 2]])


def _importance_figure(found: PermutationImportance) -> Figure:
    name, loss, _ = found.table()[0]
    caption = (
        "What is lost when the values of one variable are shuffled among all steps of all events: "
        f"{name} matters most, with {number(loss)} of the area under the ROC curve. Bars are means of "
        f"{found.repeats.shape[1]} shuffles, error bars the standard deviation of {_REPLICAS} bootstrap "
        "replicas of the events. Where a bar agrees with 0, shuffling the variable costs nothing that these "
        "events could show."
    )
    return Figure(
        "importance", plot_permutation_importance(found), "Importance of the variables by shuffling", caption
    )


def _variables_figure(found: Attribution) -> Figure:
    error = np.abs(found.completeness_error)
    caption = (
        f"Where the score comes from: integrated gradients of the {_score_words(found)}, from the mean of "
        "each variable to the event's own values, summed over its steps. To the right speaks for "
        f"{found.target}, to the left against it; ticks are means of absolute values. The attributions of an "
        "event sum to its score minus the baseline's within "
        f"{number(float(np.median(error)), 2)} in the median and {number(float(error.max()), 2)} at most "
        f"({_POINTS} points)."
    )
    return Figure(
        "attributions", plot_variable_attributions(found), "Attributions of the variables by class", caption
    )


def _steps_figure(found: Attribution, event: int | None) -> Figure:
    which = "one event" if event is None else f"event {event}"
    caption = (
        f"Step by step: {which} of {found.target}, the one whose score is the median of its class, in the "
        f"order in which the network reads. Blue speaks for {found.target}, red against it; bars are the "
        "sums of each step."
    )
    axes = plot_step_attributions(found)
    return Figure("steps", axes, "Attributions of the steps of one event", caption, wide=True)


def _score_words(found: Attribution) -> str:
    return f"log odds of {found.target}" if len(found.class_names) == 2 else f"logit of {found.target}"


def _table(shuffled: PermutationImportance, attributed: Attribution) -> Table:
    means = attributed.averages()
    at: dict[str, int] = {name: d for d, name in enumerate(means.names)}

    def mean(c: int, d: int) -> Cell:
        return cell({"value": float(means.mean[c, d]), "error": _known(means.error[c, d])})

    rows = tuple(
        Row(
            name,
            (
                cell({"value": loss, "error": None if error is None else _known(error)}),
                *(mean(c, at[name]) for c in range(len(means.class_names))),
            ),
        )
        for name, loss, error in shuffled.table()
    )
    metric = "loss of AUC" if shuffled.metric == "auc" else "rise of log loss"
    return Table(("variable", metric, *(f"attribution, {name}" for name in means.class_names)), rows)


def _known(error: float | npt.NDArray[np.float64]) -> float | None:
    """Give an error that can be written: none where too few replicas could be computed."""
    return float(error) if np.isfinite(error) else None
