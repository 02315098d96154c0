"""The numbers of a TMVA evaluation as text: tables in the order in which TMVA's Factory prints them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from timelike.evaluate import BACKGROUND_POINTS
from timelike.roc import roc_curve
from timelike.statistics import format_probability

if TYPE_CHECKING:
    from timelike.tmva.evaluation import TmvaEvaluation

__all__ = ["DATASET", "layout"]

DATASET = "dataset"  # what TMVA's tutorials call their DataLoader, and its macros look for
MOST = 20  # variables of a printed correlation matrix: beyond, a line no longer fits anywhere
WIDTH = 120  # characters of a printed correlation matrix that may have names over its columns


def layout(e: TmvaEvaluation) -> str:
    """Lay out an evaluation as text.

    Parameters
    ----------
    e : TmvaEvaluation

    Returns
    -------
    str
        Paragraphs of aligned columns.
    """
    parts = [_samples(e), _variables(e), *_correlations(e)]
    parts += [_per_class(e), *_confusions(e)] if e.multiclass else [_results(e), _efficiencies(e)]
    parts += [_response(e), _overtraining(e), _best(e), _scan(e)]
    return "\n\n".join("\n".join(part) for part in parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Align columns between rules; the first `left` columns to the left, numbers to the right.

    Examples
    --------
    >>> for line in table(["Name", "Value"], [["a", "1.000"], ["longer", "12.000"]]):
    ...     print(line)
    ---------------
    Name     Value
    ---------------
    a        1.000
    longer  12.000
    ---------------
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = "-" * (sum(widths) + 2 * len(widths) - 1)

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    return [rule, line(head), rule, *map(line, rows), rule]


def _both(test: float, train: float) -> str:
    return f"{test:.3f} ({train:.3f})"


def _samples(e: TmvaEvaluation) -> list[str]:
    background = ", ".join(name for name in e.class_names if name != e.signal)
    rows = []
    for sample, name in (("train", "training"), ("test", "testing")):
        for c in e.class_names:
            content = e.metrics[sample]["classes"][c]
            numbers = [f"{content['events']}", f"{content['negative_weights']}"]
            sums = [f"{content['sum_of_weights']:.6g}", f"{content['effective_events']:.1f}"]
            rows.append([name, c, *numbers, *sums])
    head = ["Sample", "Class", "Events", "Weights < 0", "Sum of weights", "Effective events"]
    return [
        f"Data set: {DATASET}, method: {e.method}",
        f"Signal: {e.signal}; background: {background}",
        *table(head, rows, left=2),
    ]


def _variables(e: TmvaEvaluation) -> list[str]:
    rows = [[f"{k}", name, f"{value:.3e}"] for k, (name, value) in enumerate(e.ranking, 1)]
    return [
        "Ranking input variables (method unspecific)",
        "Summary variables of the sequences, training sample; the top variable is best ranked",
        *table(["Rank", "Variable", "Separation"], rows, left=2),
    ]


def _correlations(e: TmvaEvaluation) -> list[list[str]]:
    names = e.summaries["train"].names
    if len(names) > MOST:
        return [
            [
                f"Linear correlations of the {len(names)} summary variables: in the ROOT file; "
                f"as text for at most {MOST}"
            ]
        ]
    return [
        [f"Correlation matrix ({group}), training sample", *_matrix(names, matrix)]
        for group, matrix in zip(e.groups, e.correlations, strict=True)
    ]


def _matrix(names: Sequence[str], matrix: NDArray[np.float64]) -> list[str]:
    """Print a matrix; where names are too long for its columns, by their numbers."""
    rows = [[f"{value:+.3f}" for value in row] for row in matrix]
    lines = table(["", *names], [[f"{name}:", *row] for name, row in zip(names, rows, strict=True)], left=0)
    if len(lines[0]) > WIDTH:
        numbers = [f"{k}" for k in range(1, len(names) + 1)]
        labels = [f"{k:>2} {name}:" for k, name in enumerate(names, 1)]
        lines = table(["", *numbers], [[label, *row] for label, row in zip(labels, rows, strict=True)])
    return [lines[0], lines[1], *lines[3:]]


def _results(e: TmvaEvaluation) -> list[str]:
    rows = [[DATASET, e.method, f"{e.metrics['test']['auc']['value']:.3f}"]]
    return [
        "Evaluation results ranked by best signal efficiency and purity (area)",
        *table(["DataSet name", "MVA method", "ROC-integ"], rows, left=2),
    ]


def _efficiency(metrics: dict[str, Any], point: float) -> float:
    value: float = metrics["signal_efficiency"][f"at_background_{point:.2f}"]["value"]
    return value


def _efficiencies(e: TmvaEvaluation) -> list[str]:
    test, train = e.metrics["test"], e.metrics["train"]
    cells = [_both(_efficiency(test, point), _efficiency(train, point)) for point in BACKGROUND_POINTS]
    return [
        "Testing efficiency compared to training efficiency (overtraining check)",
        "Signal efficiency: from test sample (from training sample)",
        *table(
            ["DataSet name", "MVA method", *(f"@B={point:.2f}" for point in BACKGROUND_POINTS)],
            [[DATASET, e.method, *cells]],
            left=2,
        ),
    ]


def _per_class(e: TmvaEvaluation) -> list[str]:
    rows = []
    for name in e.class_names:
        test, train = (e.metrics[sample]["one_vs_rest"][name] for sample in ("test", "train"))
        cells = [_both(_efficiency(test, point), _efficiency(train, point)) for point in BACKGROUND_POINTS]
        rows.append([DATASET, e.method, name, _both(test["auc"]["value"], train["auc"]["value"]), *cells])
    head = ["DataSet name", "MVA method", "Class", "ROC-integ"]
    return [
        "1-vs-rest performance metrics per class: from test sample (from training sample)",
        "Each class as signal, all other classes as background",
        *table([*head, *(f"Sig eff @B={point:.2f}" for point in BACKGROUND_POINTS)], rows, left=3),
    ]


def _confusions(e: TmvaEvaluation) -> list[list[str]]:
    test, train = (e.metrics[sample]["confusion"]["fractions"] for sample in ("test", "train"))
    names = e.class_names
    rows = [
        [name, *(_both(a, b) for a, b in zip(*pair, strict=True))]
        for name, *pair in zip(names, test, train, strict=True)
    ]
    decided = [
        "Confusion matrix: from test sample (from training sample)",
        "Share of a row's class for which the column's class is the most probable",
        *table(["true \\ decided", *names], rows),
    ]
    return [decided, *(_pairs(e, point) for point in BACKGROUND_POINTS)]


def _pairs(e: TmvaEvaluation, point: float) -> list[str]:
    """Pit each class against each other by the row's score, as TMVA's confusion matrices do."""
    rows = []
    for row, name in enumerate(e.class_names):
        cells = []
        for column in range(len(e.class_names)):
            both = []
            for sample in ("test", "train"):
                p = e.predictions[sample]
                chosen = (p.labels == row) | (p.labels == column)
                if row != column:
                    curve = roc_curve(p.scores[chosen, row], p.labels[chosen] == row, p.weights[chosen])
                    both.append(float(curve.signal_efficiency_at(point)))
            cells.append(_both(both[0], both[1]) if both else "-")
        rows.append([name, *cells])
    return [
        f"Signal efficiency at background efficiency {point:.2f}, class against class: "
        "from test sample (from training sample)",
        "The row's class as signal, the column's class as background",
        *table(["signal \\ background", *e.class_names], rows),
    ]


def _response(e: TmvaEvaluation) -> list[str]:
    found = e.metrics["test"]["separation"]["value"]
    difference = "-" if e.mean_difference is None else f"{e.mean_difference:.3f}"
    return [
        "Response to signal and to background, testing sample",
        *table(
            ["DataSet name", "MVA method", "Separation", "Significance"],
            [[DATASET, e.method, f"{found:.3f}", difference]],
            left=2,
        ),
        "Separation: 1/2 int (s - b)^2 / (s + b), in 40 bins",
        "Significance: |<s> - <b>| / sqrt(rms_s^2 + rms_b^2)",
    ]


def _overtraining(e: TmvaEvaluation) -> list[str]:
    found = e.metrics["overtraining"]
    rows = []
    if e.multiclass:
        for name, one in found["one_vs_rest"].items():
            probabilities = (one["ks_class"], one["ks_rest"])
            distances = (one["ks_distance_class"], one["ks_distance_rest"])
            rows.append(
                [name, *map(format_probability, probabilities), *(f"{value:.3f}" for value in distances)]
            )
        head = ["Class", "Probability (class)", "(rest)", "Distance (class)", "(rest)"]
    else:
        for kind in ("signal", "background"):
            rows.append(
                [kind, format_probability(found[f"ks_{kind}"]), f"{found[f'ks_distance_{kind}']:.3f}"]
            )
        head = ["Response to", "Probability", "Distance"]
    return [
        "Kolmogorov-Smirnov test of the training sample against the testing sample (unbinned, weighted)",
        *table(head, rows),
        found["verdict"],
    ]


def _best(e: TmvaEvaluation) -> list[str]:
    rows = []
    for yields, cut in e.best:
        numbers = [f"{yields.signal:.6g}", f"{yields.background:.6g}", f"{cut.cut:.4f}"]
        left = [f"{cut.significance:.6g}", f"{cut.signal:.6g}", f"{cut.background:.6g}"]
        shares = [f"{cut.signal_efficiency:.4f}", f"{cut.background_efficiency:.4f}", f"{cut.purity:.4f}"]
        rows.append([e.method, yields.source, *numbers, *left, *shares])
    head = ["Classifier", "Yields", "#signal", "#backgr.", "Optimal cut", "S/sqrt(S+B)", "NSig", "NBkg"]
    return [
        "Cut of highest significance, testing sample; events whose response is at the cut or above pass",
        *table([*head, "EffSig", "EffBkg", "Purity"], rows, left=2),
    ]


def _scan(e: TmvaEvaluation) -> list[str]:
    yields = e.best[0][0]
    rows = []
    for found in e.scan:
        shares = (found.signal_efficiency, found.background_efficiency, found.purity)
        cells = [f"{share:.4f}" for share in (*shares, found.signal_efficiency * found.purity)]
        rows.append([f"{found.cut:.2f}", *cells, f"{found.significance:.4f}"])
    return [
        f"Cut efficiencies for {yields.signal:.6g} signal and {yields.background:.6g} background events, "
        "testing sample",
        *table(["Cut", "EffSig", "EffBkg", "Purity", "EffSig*Purity", "S/sqrt(S+B)"], rows, left=0),
    ]
