"""What a report says of classes: its headline, and a function for each section.

Each function takes the run and gives a `Section`, or None where there is nothing to say (no history, no
training events). To add to the report, write another and put it in `SECTIONS`, in the order of reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from timelike.canvas import INK, class_colours, subplots
from timelike.evaluate import BACKGROUND_POINTS, SIGNAL_POINTS
from timelike.plots import (
    plot_confusion,
    plot_cut,
    plot_overtraining,
    plot_roc,
)
from timelike.report.definitions import CLASSES
from timelike.report.page import Cell, Figure, Row, Section, Table, Tile
from timelike.report.run import Run, parts, reproduction, subtitle, training
from timelike.report.typography import (
    cell,
    count,
    measurement,
    number,
    percent,
    rejection_cell,
    rejection_words,
)
from timelike.roc import Roc, roc_curve
from timelike.statistics import format_probability

__all__ = ["SECTIONS", "OfClasses", "definitions", "headline"]

LINESTYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True, eq=False)
class OfClasses(Run):
    """A run that tells classes apart."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.metrics["classes"])

    @property
    def signal(self) -> str:
        """The signal class."""
        return str(self.metrics["signal"])

    @property
    def area_note(self) -> str:
        """Of more classes than two, whose area it is."""
        return "" if self.binary else f" It is the area of {self.signal} against all other classes."

    @property
    def binary(self) -> bool:
        """Whether there are two classes."""
        return len(self.class_names) == 2

    @property
    def background(self) -> str:
        """What the signal is told from."""
        return next(n for n in self.class_names if n != self.signal) if self.binary else "all others"

    @cached_property
    def colours(self) -> dict[str, str]:
        """Colour of each class."""
        return class_colours(self.class_names, self.signal)

    def roc(self, split: str, name: str) -> Roc:
        """Make the curve of a class in a split."""
        predicted, c = self.predictions[split], self.class_names.index(name)
        return roc_curve(predicted.scores[:, c], predicted.labels == c, predicted.weights)


def definitions(run: OfClasses) -> tuple[tuple[str, str], ...]:
    """Give the words for what is in this report."""
    return CLASSES


# The headline


def headline(run: OfClasses) -> dict[str, Any]:
    """Give what is seen first: title, area, tiles, verdict."""
    found = run.found
    area = found["auc"] if run.binary else found["auc_macro"]
    value = cell(area, digits=4)
    groups: list[tuple[str, list[Tile]]] = []
    if run.binary:
        efficiencies = [
            Tile(f"at {percent(point)} background", *parts(cell(measured)))
            for point, measured in zip(BACKGROUND_POINTS, found["signal_efficiency"].values(), strict=True)
        ]
        rejections = [
            Tile(f"at {percent(point)} signal", *parts(rejection_cell(measured)))
            for point, measured in zip(SIGNAL_POINTS, found["rejection"].values(), strict=True)
        ]
        groups = [("Signal efficiency", efficiencies), ("Background rejection", rejections)]
    else:
        shown = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "log_loss": "log loss"}
        tiles = [Tile(label, *parts(cell(found[key]))) for key, label in shown.items()]
        worst = min(run.class_names, key=lambda name: float(found["one_vs_rest"][name]["auc"]["value"]))
        best = max(run.class_names, key=lambda name: float(found["one_vs_rest"][name]["auc"]["value"]))
        extremes = [
            Tile(f"{kind}: {name}", *parts(cell(found["one_vs_rest"][name]["auc"], digits=4)))
            for kind, name in (("best", best), ("hardest", worst))
        ]
        groups = [("All classes", tiles), ("AUC of one class", extremes)]
    if run.binary:
        title = f"{run.signal} against {run.background}"
    else:
        title = f"{len(run.class_names)} classes: {', '.join(run.class_names[:6])}"
        title += ", …" if len(run.class_names) > 6 else ""
    return {
        "title": title,
        "subtitle": subtitle(run),
        "area_label": "Area under the ROC curve"
        if run.binary
        else "Area under the ROC curve, mean of classes",
        "area": value,
        "groups": groups,
        "status": (run.metrics["overtraining"] or {}).get("status", ""),
        "verdict": (run.metrics["overtraining"] or {}).get("verdict", ""),
        "evidence": _evidence(run),
    }


def _evidence(run: OfClasses) -> str:
    found = run.metrics["overtraining"]
    if found is None:
        return ""
    gap = f"AUC train \u2212 test = {measurement(found['auc_difference'], 2)}"
    if run.binary:
        tested = f"{run.signal} {format_probability(found['ks_signal'])}, "
        tested += f"{run.background} {format_probability(found['ks_background'])}"
    else:
        p = {
            (name, kind): one[key]
            for name, one in found["one_vs_rest"].items()
            for kind, key in (("", "ks_class"), (" (others)", "ks_rest"))
        }
        (name, kind), least = min(p.items(), key=lambda item: float(item[1]))
        tested = f"least of {len(p)} is {format_probability(least)}, for {name}{kind}"
    return f"Kolmogorov\u2013Smirnov p: {tested}. {gap}."


# Sections


def separation_power(run: OfClasses) -> Section:
    """Say how well signal and background are told apart."""
    figures = [_roc_figure(run)]
    if run.binary:
        figures.append(_cut_figure(run))
    tables = [_main_table(run)] if run.binary else [_main_table(run), _class_table(run)]
    return Section(
        "separation",
        "Separation power",
        f"All figures are of the {run.split} {run.unit}, which the network has not seen in training, "
        "unless another column or curve says so.",
        tuple(figures),
        tuple(tables),
    )


def _roc_figure(run: OfClasses) -> Figure:
    found, replicas = run.found, run.metrics["bootstrap"]["replicas"]
    band = f" Bands are one standard deviation of {replicas} bootstrap replicas; " if replicas > 1 else ""
    band += "they open upwards where only a few background events are left." if replicas > 1 else ""
    if not run.binary:
        ax = None
        for k, name in enumerate(run.class_names):
            ax = plot_roc(
                run.roc(run.split, name),
                found["one_vs_rest"][name],
                label=name,
                colour=run.colours[name],
                linestyle=LINESTYLES[k % len(LINESTYLES)],
                signal="each class",
                band=len(run.class_names) <= 4,
                ax=ax,
            )
        assert ax is not None
        caption = (
            "Each class against all others: up and to the right is better. A class whose curve runs below "
            "the rest is mistaken for others; the confusion matrix shows for which."
        )
        caption += band if len(run.class_names) <= 4 else ""
        return Figure("roc", ax, "ROC curves, each class against all others", caption)
    ax = plot_roc(
        run.roc(run.split, run.signal),
        found,
        label=run.split,
        colour=run.colours[run.signal],
        signal=run.signal,
        points=SIGNAL_POINTS,
    )
    if "train" in run.predictions and run.split != "train":
        trained = run.roc("train", run.signal)
        plot_roc(trained, run.metrics["train"], label="train", colour=INK, linestyle="--", band=False, ax=ax)
    half = found["rejection"]["at_signal_0.5"]
    caption = (
        "How much background a cut removes for the signal it keeps: up and to the right is better. "
        f"Keeping half of {run.signal}, {rejection_words(half)}. Dots mark the working points of the table."
        + band
    )
    caption += (
        " The training curve should agree with the test curve within the band." if len(run.splits) > 1 else ""
    )
    alt = f"ROC curve of {run.signal} against {run.background}, AUC {measurement(found['auc'], 4)}"
    return Figure("roc", ax, alt, caption)


def _cut_figure(run: OfClasses) -> Figure:
    found = run.found
    yields = tuple(found["classes"][name]["sum_of_weights"] for name in (run.signal, run.background))
    ax = plot_cut(
        run.roc(run.split, run.signal),
        (yields[0], yields[1]),
        signal=run.signal,
        background=run.background,
        colours=(run.colours[run.signal], run.colours[run.background]),
    )
    tenth = found["signal_efficiency"]["at_background_0.10"]
    at = f"P({run.signal}) ≥ {number(tenth['cut'])}" if tenth["cut"] is not None else "the tightest cut"
    caption = (
        f"Where to cut: {at} keeps {percent(tenth['value'])} of {run.signal} and 10\u202f% of "
        f"{run.background}. Purity is the share of {run.signal} among what passes, with the yields of these "
        f"{run.split} events ({count(yields[0])} to {count(yields[1])}); other yields move it."
    )
    return Figure("cut", ax, f"Efficiencies and purity over the cut on P({run.signal})", caption)


def _main_table(run: OfClasses) -> Table:
    rows = []

    def row(label: str, pick: Callable[[Mapping[str, Any]], Cell]) -> None:
        rows.append(Row(label, tuple(pick(run.metrics[split]) for split in run.splits)))

    if run.binary:
        row("Area under the ROC curve (AUC)", lambda m: cell(m["auc"], 4))
        rows.append(Row("Signal efficiency", (), group=True))
        for point, key in zip(BACKGROUND_POINTS, run.found["signal_efficiency"], strict=True):
            row(f"at background {point:.2f}", lambda m, key=key: cell(m["signal_efficiency"][key]))  # type: ignore[misc]
        rows.append(Row("Background rejection", (), group=True))
        for signal_point, key in zip(SIGNAL_POINTS, run.found["rejection"], strict=True):
            row(
                f"at signal efficiency {signal_point:.1f}",
                lambda m, key=key: rejection_cell(m["rejection"][key]),  # type: ignore[misc]
            )
        rows.append(Row("Overall", (), group=True))
        row("separation", lambda m: cell(m["separation"]))
    else:
        row("AUC, mean of one against rest", lambda m: cell(m["auc_macro"], 4))
    row("accuracy", lambda m: cell(m["accuracy"]))
    row("balanced accuracy", lambda m: cell(m["balanced_accuracy"]))
    row("log loss", lambda m: cell(m["log_loss"]))
    return Table(("", *run.splits), tuple(rows))


def _class_table(run: OfClasses) -> Table:
    rows = []
    for name in run.class_names:
        one = run.found["one_vs_rest"][name]
        cells = (
            cell(one["auc"], 4),
            cell(one["signal_efficiency"]["at_background_0.10"]),
            rejection_cell(one["rejection"]["at_signal_0.5"]),
        )
        rows.append(Row(name, cells))
    head = ("class against rest", "AUC", "efficiency at background 0.10", "rejection at efficiency 0.5")
    return Table(head, tuple(rows))


def overtraining(run: OfClasses) -> Section | None:
    """Say whether the network has learnt its training events by heart."""
    found = run.metrics["overtraining"]
    if found is None:
        return None
    train, test = run.predictions["train"], run.predictions["test"]
    advice = (
        "Points (test) should scatter around the edges of the filled histograms (train) by about their error "
        "bars. Points that lie below at the class's own end and above at the other are events that the "
        f"network knew by heart. A Kolmogorov–Smirnov probability p below {found['ks_level']:.3f} tells; "
        "larger ones are chance. The areas differ by "
        f"{measurement(found['auc_difference'], 2)} (train \u2212 test)."
    )
    if run.binary:
        p_values = (found["ks_signal"], found["ks_background"])
        ax = plot_overtraining(train, test, run.class_names, run.signal, colours=run.colours, ks=p_values)
        alt = f"Score distributions of train and test; KS p {p_values[0]:.2f} and {p_values[1]:.2f}"
        figure = Figure("overtraining", ax, alt, advice)
        return Section("overtraining", "Overtraining", found["verdict"], (figure,), (_ks_table(run),))
    axes = subplots(len(run.class_names))
    for name, ax in zip(run.class_names, axes, strict=True):
        one = found["one_vs_rest"][name]
        plot_overtraining(
            train,
            test,
            run.class_names,
            name,
            colours=run.colours,
            ks=(one["ks_class"], one["ks_rest"]),
            compact=True,
            ax=ax,
        )
    figure = Figure(
        "overtraining",
        axes[0],
        "Score distributions of train and test, for each class",
        advice,
        wide=True,
    )
    return Section("overtraining", "Overtraining", found["verdict"], (figure,), (_ks_table(run),))


def _ks_table(run: OfClasses) -> Table:
    found = run.metrics["overtraining"]
    if run.binary:
        lines = [(run.signal, found, "signal"), (run.background, found, "background")]
    else:
        lines = [
            (name if key == "class" else f"all but {name}", found["one_vs_rest"][name], key)
            for name in run.class_names
            for key in ("class", "rest")
        ]
    rows = tuple(
        Row(
            label,
            (
                Cell(format_probability(one[f"ks_{key}"])),
                Cell(number(one[f"ks_distance_{key}"])),
                Cell(count(round(one[f"effective_{key}"]["train"], 1))),
                Cell(count(round(one[f"effective_{key}"]["test"], 1))),
            ),
        )
        for label, one, key in lines
    )
    head = ("train against test", "KS p", "distance", "eff. events, train", "eff. events, test")
    return Table(head, rows)


def decisions(run: OfClasses) -> Section:
    """Show which class each event is given to."""
    found = run.found
    names = run.class_names
    ax = plot_confusion(found["confusion"], names, colour=run.colours[run.signal])
    wrong = [
        (found["confusion"]["fractions"][i][j], names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j
    ]
    share, true, taken = max(wrong)
    caption = (
        "Every event is given to its most probable class. Rows are true classes and sum to 100\u202f%, with "
        f"numbers of events below; the diagonal is right. The most frequent mistake: {percent(share)} of "
        f"{true} taken for {taken}. Accuracy {measurement(found['accuracy'])}."
    )
    figure = Figure("confusion", ax, "Confusion matrix", caption)
    table = Table(
        (f"{run.split} events", "events", "negative weights", "sum of weights", "effective events"),
        tuple(
            Row(
                name,
                (
                    Cell(count(content["events"])),
                    Cell(count(content["negative_weights"])),
                    Cell(count(round(content["sum_of_weights"], 1))),
                    Cell(count(round(content["effective_events"], 1))),
                ),
            )
            for name, content in found["classes"].items()
        ),
    )
    return Section("decisions", "Decisions", figures=(figure,), tables=(table,))


SECTIONS: tuple[Callable[[OfClasses], Section | None], ...] = (
    separation_power,
    overtraining,
    training,
    decisions,
    reproduction,
)
