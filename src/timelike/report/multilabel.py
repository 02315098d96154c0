"""What a report says of labels of which any number may hold: its headline, a function for each section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timelike.canvas import PALETTE, subplots
from timelike.multilabel import of_label
from timelike.plots import plot_overtraining, plot_roc
from timelike.predictions import Predictions
from timelike.report.definitions import MULTILABEL
from timelike.report.page import Cell, Figure, Row, Section, Table, Tile
from timelike.report.run import Run, parts, reproduction, subtitle, training
from timelike.report.typography import cell, measurement, percent, rejection_cell
from timelike.roc import roc_curve
from timelike.statistics import format_probability

__all__ = ["SECTIONS", "OfLabels", "definitions", "headline"]


@dataclass(frozen=True, eq=False)
class OfLabels(Run):
    """A run that finds which labels hold."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels that have figures."""
        return tuple(self.metrics["labels"])

    @property
    def area_note(self) -> str:
        """Whose area it is."""
        return " It is the mean of the labels' areas."

    def of_label(self, split: str, name: str) -> Predictions:
        """Take a label of a split as a task of two classes."""
        return of_label(self.predictions[split], self.metrics["all_labels"].index(name))


def definitions(run: OfLabels) -> tuple[tuple[str, str], ...]:
    """Give the words for what is in this report."""
    return MULTILABEL


def headline(run: OfLabels) -> dict[str, Any]:
    """Give what is seen first: title, area, tiles, verdict."""
    found = run.found
    labels = found["labels"]
    by_area = sorted(run.names, key=lambda name: float(labels[name]["auc"]["value"]))
    groups = [
        (
            "All labels",
            [
                Tile("accuracy", *parts(cell(found["accuracy"]))),
                Tile("all labels right", *parts(cell(found["subset_accuracy"]))),
            ],
        ),
        (
            "AUC of one label",
            [
                Tile(f"{kind}: {name}", *parts(cell(labels[name]["auc"], digits=4)))
                for kind, name in (("best", by_area[-1]), ("hardest", by_area[0]))
            ],
        ),
    ]
    compared = run.metrics["overtraining"] or {}
    evidence = ""
    if compared:
        p = {
            (name, words): one[key]
            for name, one in compared["one_vs_rest"].items()
            for key, words in (("ks_class", "where it holds"), ("ks_rest", "where it does not"))
        }
        (name, words), least = min(p.items(), key=lambda item: float(item[1]))
        evidence = (
            f"Kolmogorov–Smirnov p: least of {len(p)} is {format_probability(least)}, for {name} {words}. "
            f"AUC train − test = {measurement(compared['auc_difference'], 2)}."
        )
    more = ", …" if len(run.names) > 6 else ""
    return {
        "title": f"{len(run.names)} labels: {', '.join(run.names[:6])}{more}",
        "subtitle": subtitle(run),
        "area_label": "Area under the ROC curve, mean of labels",
        "area": cell(found["auc_macro"], digits=4),
        "groups": groups,
        "status": compared.get("status", ""),
        "verdict": compared.get("verdict", ""),
        "evidence": evidence,
    }


def separation_power(run: OfLabels) -> Section:
    """Say how well it is told where each label holds."""
    ax, band = None, len(run.names) <= 4
    for k, name in enumerate(run.names):
        one = run.of_label(run.split, name)
        ax = plot_roc(
            roc_curve(one.scores[:, 1], one.labels == 1, one.weights),
            run.found["labels"][name],
            label=name,
            colour=PALETTE[k % len(PALETTE)],
            linestyle=("-", "--", "-.")[k // len(PALETTE) % 3],
            signal="each label",
            band=band,
            ax=ax,
        )
    assert ax is not None
    replicas = run.metrics["bootstrap"]["replicas"]
    caption = "Each label where it holds against where it does not: up and to the right is better."
    if band and replicas > 1:
        caption += f" Bands are one standard deviation of {replicas} bootstrap replicas."
    rows = []
    for name, one in run.found["labels"].items():
        cells = (
            cell(one["auc"], 4),
            cell(one["signal_efficiency"]["at_background_0.10"]),
            rejection_cell(one["rejection"]["at_signal_0.5"]),
            Cell(percent(one["prevalence"]["value"])),
        )
        rows.append(Row(name, cells))
    head = ("label", "AUC", "efficiency at background 0.10", "rejection at efficiency 0.5", "holds for")
    decided = [
        Row(name, tuple(_cell(one[key]) for key in ("precision", "recall", "f1")))
        for name, one in run.found["labels"].items()
    ]
    lead = f"All figures are of the {run.split} {run.unit}, which the network has not seen in training."
    if left_out := run.metrics["left_out"]:
        lead += f" Without {', '.join(left_out)}, of which some part has none, or nothing else."
    return Section(
        "separation",
        "Separation power",
        lead,
        (Figure("roc", ax, "ROC curves of all labels", caption),),
        (
            Table(head, tuple(rows)),
            Table(("decided at probability ½", "precision", "recall", "F1"), tuple(decided)),
        ),
    )


def _cell(measured: Mapping[str, Any]) -> Cell:
    return Cell("–") if measured["value"] is None else cell(measured)


def overtraining(run: OfLabels) -> Section | None:
    """Say whether the network has learnt its training events by heart."""
    found = run.metrics["overtraining"]
    if found is None:
        return None
    axes = subplots(len(run.names))
    for k, (name, ax) in enumerate(zip(run.names, axes, strict=True)):
        one, without = found["one_vs_rest"][name], f"not {name}"
        plot_overtraining(
            run.of_label("train", name),
            run.of_label("test", name),
            (without, name),
            name,
            colours={name: PALETTE[k % len(PALETTE)], without: PALETTE[(k + 1) % len(PALETTE)]},
            ks=(one["ks_class"], one["ks_rest"]),
            compact=len(run.names) > 1,
            ax=ax,
        )
    caption = (
        "Points (test) should scatter around the edges of the filled histograms (train) by about their "
        f"error bars. A Kolmogorov–Smirnov probability p below {found['ks_level']:.3f} tells; "
        "larger ones are chance."
    )
    alt = "Score distributions of train and test, for each label"
    figure = Figure("overtraining", axes[0], alt, caption, wide=len(run.names) > 1)
    return Section("overtraining", "Overtraining", found["verdict"], (figure,))


SECTIONS: tuple[Callable[[OfLabels], Section | None], ...] = (
    separation_power,
    overtraining,
    training,
    reproduction,
)
