"""What a report says of a regression: its headline, and a function for each section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timelike.canvas import plain, subplots
from timelike.predictions import Estimates
from timelike.regression import middle
from timelike.report.definitions import COUNTS, QUANTILES, REGRESSION
from timelike.report.page import Cell, Figure, Row, Section, Table, Tile
from timelike.report.run import Run, parts, reproduction, subtitle, training
from timelike.report.typography import cell, measurement, number, percent
from timelike.residual_plots import plot_coverage, plot_profile, plot_residuals, plot_response

__all__ = ["SECTIONS", "OfNumbers", "definitions", "headline"]


@dataclass(frozen=True, eq=False)
class OfNumbers(Run):
    """A run that finds numbers."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(self.metrics["targets"])

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the targets that have figures: of many the first, the middle and the last."""
        if len(self.names) <= 4:
            return self.names
        return (self.names[0], self.names[len(self.names) // 2], self.names[-1])

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Shares of the quantiles that are given of each target; none where it is one number."""
        return tuple(self.metrics["quantiles"])

    def columns(self, split: str, name: str) -> tuple[Any, Any, Any]:
        """Give targets, predictions and weights of a target in a split."""
        found: Estimates = self.predictions[split]
        k, each = self.names.index(name), len(self.quantiles) or 1
        said = found.values[:, k * each + middle(self.quantiles)]
        return found.targets[:, k], said, found.weights


def definitions(run: OfNumbers) -> tuple[tuple[str, str], ...]:
    """Give the words for what is in this report."""
    counts = COUNTS if "deviance" in run.found["targets"][run.names[0]] else ()
    return REGRESSION + (QUANTILES if run.quantiles else ()) + counts


def headline(run: OfNumbers) -> dict[str, Any]:
    """Give what is seen first: title, error, tiles, verdict."""
    targets = run.found["targets"]
    first = targets[run.names[0]]
    groups = []
    for name in run.drawn[:3]:
        one = targets[name]
        tiles = [
            Tile("resolution", *parts(_cell(one["resolution"]))),
            Tile("bias", *parts(_cell(one["bias"]))),
            Tile("R²", *parts(_cell(one["r2"]))),
        ]
        if "interval" in one:
            share = percent(round(one["interval"]["nominal"], 6))
            tiles[2] = Tile(f"in the {share} interval", *parts(_cell(one["interval"]["coverage"])))
        groups.append((name, tiles))
    found = run.metrics["overtraining"] or {}
    gaps = [f"{name} {measurement(found['rmse_difference'][name], 2)}" for name in run.drawn if found]
    return {
        "title": f"Regression of {', '.join(run.names[:6])}{', …' if len(run.names) > 6 else ''}",
        "subtitle": subtitle(run),
        "area_label": f"Root mean square error of {run.names[0]}",
        "area": _cell(first["rmse"]),
        "groups": groups,
        "status": found.get("status", ""),
        "verdict": found.get("verdict", ""),
        "evidence": f"RMSE test − train: {', '.join(gaps)}." if gaps else "",
    }


def _cell(measured: Mapping[str, Any]) -> Cell:
    return Cell("–") if measured["value"] is None else cell(measured)


def accuracy(run: OfNumbers) -> Section:
    """Say how near predictions are to what they are of."""
    figures = []
    for k, name in enumerate(run.drawn):
        axes = subplots(2)
        end = "" if len(run.drawn) == 1 else f"_{k}"
        targets, predicted, weights = run.columns(run.split, name)
        plot_response(targets, predicted, weights, name=name, ax=axes[0])
        shown = {split: (said - true, w) for split in ("train", run.split) if split in run.predictions
                 for true, said, w in [run.columns(split, name)]}  # fmt: skip
        plot_residuals(shown, name=name, ax=axes[1])
        one = run.found["targets"][name]
        caption = (
            f"Left: what is predicted for which true {name}; on the dashed line it is right. Right: the "
            f"distribution of the difference, {run.split} points over the filled training {run.unit}, with "
            f"which they should agree. RMSE {measurement(one['rmse'])}, the middle 68\u202f% within "
            f"±{number(one['resolution']['value'])}: a larger RMSE than that tells of outliers. The outer "
            "half per cent on each side is not drawn."
        )
        alt = f"Predicted over true {name}, and the residuals; RMSE {measurement(one['rmse'])}"
        figures.append(Figure(f"response{end}", axes[0], alt, caption, wide=True))
    return Section(
        "accuracy",
        "Accuracy",
        f"All figures are of the {run.split} {run.unit}, which the network has not seen in training, unless "
        "another column or curve says so.",
        tuple(figures),
        tuple(_table(run, name) for name in run.names) if run.drawn == run.names else (_overview(run),),
    )


_ROWS = {
    "rmse": "root mean square error (RMSE)",
    "mae": "mean absolute error (MAE)",
    "resolution": "resolution (half of the middle 68 %)",
    "bias": "bias, mean of predicted − true",
    "median": "median of predicted − true",
    "r2": "R²",
    "correlation": "correlation",
    "deviance": "Poisson deviance",
    "mean": "mean of the target",
    "spread": "standard deviation of the target",
}


def _table(run: OfNumbers, name: str) -> Table:
    of = {split: run.metrics[split]["targets"][name] for split in run.splits}
    rows = [
        Row(label, tuple(_cell(of[split][key]) for split in run.splits))
        for key, label in _ROWS.items()
        if key in of[run.split]
    ]
    return Table((name, *run.splits), tuple(rows))


def _overview(run: OfNumbers) -> Table:
    """Give a line to each of many targets."""
    keys = ("rmse", "mae", "resolution", "bias", "r2")
    rows = [Row(name, tuple(_cell(one[key]) for key in keys)) for name, one in run.found["targets"].items()]
    return Table((f"target, {run.split}", "RMSE", "MAE", "resolution", "bias", "R²"), tuple(rows))


def profile(run: OfNumbers) -> Section:
    """Show where on the scale predictions are biased or coarse."""
    axes = subplots(len(run.drawn))
    for name, ax in zip(run.drawn, axes, strict=True):
        plot_profile(*run.columns(run.split, name), name=name, ax=ax)
    caption = (
        "Points are medians of the difference in bins of equal numbers of targets, bars hold the middle "
        "68\u202f%. Points above zero at the low end and below it at the high end are the pull to the middle "
        "of whatever makes an error small: it is the stronger the less the sequence tells."
    )
    wide = len(run.drawn) > 1
    names = ", ".join(run.drawn)
    figure = Figure("profile", axes[0], f"Bias and resolution over true {names}", caption, wide)
    return Section("profile", "Bias and resolution over the target", figures=(figure,))


def coverage(run: OfNumbers) -> Section | None:
    """Show whether quantiles are where they are to be."""
    if not run.quantiles:
        return None
    axes = subplots(len(run.drawn))
    tables = []
    for name, ax in zip(run.drawn, axes, strict=True):
        one = run.found["targets"][name]
        plot_coverage(one["quantiles"], ax=ax)
        ax.set_title(plain(name), fontsize=13)
        rows = [
            Row(f"quantile {q}", (_cell(of["coverage"]), _cell(of["pinball"])))
            for q, of in one["quantiles"].items()
        ]
        if "interval" in one:
            rows.append(Row(f"between: {one['interval']['nominal']:g}", (_cell(one["interval"]["coverage"]),
                            Cell(number(one["interval"]["width"]["value"]), note="mean width"))))  # fmt: skip
        tables.append(Table((name, "share below", "pinball loss"), tuple(rows)))
    caption = (
        "Of a quantile q, the share q of the targets is to lie below. Points above the line: the quantile is "
        "too high; an interval whose share is below its nominal one is too narrow."
    )
    figure = Figure(
        "coverage", axes[0], "Share of targets below each quantile", caption, wide=len(run.drawn) > 1
    )
    return Section("coverage", "Coverage of the quantiles", figures=(figure,), tables=tuple(tables))


SECTIONS: tuple[Callable[[OfNumbers], Section | None], ...] = (
    accuracy,
    profile,
    coverage,
    training,
    reproduction,
)
