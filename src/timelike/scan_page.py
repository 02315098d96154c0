"""The page of a scan: its best trials, how it went, and which parameters mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from timelike import __version__
from timelike.canvas import INK, PALETTE, REST, drawing, figure_of, plain, render
from timelike.errors import require
from timelike.files import replacing
from timelike.report.page import Cell, Figure, Row, Section, Table, Tile, inline_svg, render_page
from timelike.report.typography import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_course", "plot_importance", "plot_parallel", "write_scan_page"]

PAGE = "scan.html"
_TOP = 10  # trials in the table
_BEST = 5  # trials in colour
_NAMES = {"auc": "Validation AUC", "loss": "Validation loss"}


def write_scan_page(folder: Path, results: Mapping[str, Any], best: str) -> Path:
    """Write the page of a scan, and its figures.

    Parameters
    ----------
    folder : Path
        The scan's folder.
    results : mapping
        As in ``scan.json``.
    best : str
        The config of the best trial; empty where no trial came to its end.
    """
    sections = [section for section in (_trials(results), _parameters(results)) if section.figures]
    sections += [_failures(results)] if any("error" in t for t in results["trials"]) else []
    sections += [_again(folder, best)] if best else []
    figures = [figure for section in sections for figure in section.figures]
    drawn = {figure.name: render(figure.axes, "svg", "png", "pdf") for figure in figures}
    page = render_page(
        name=folder.name,
        headline=_headline(results),
        sections=sections,
        drawings={f.name: inline_svg(drawn[f.name]["svg"], f.name, f.alt) for f in figures},
        version=__version__,
        numbers="scan.json",
    )
    (folder / "figures").mkdir(exist_ok=True)
    for name, forms in drawn.items():
        for form in ("png", "pdf"):
            with replacing(folder / "figures" / f"{name}.{form}") as part:
                part.write_bytes(forms[form])
    with replacing(folder / PAGE) as part:
        part.write_text(page, encoding="utf-8")
    return folder / PAGE


def _ranked(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Trials that came to their end, the best first."""
    complete = [trial for trial in results["trials"] if trial["state"] == "complete"]
    sign = -1 if results["metric"] == "auc" else 1
    return sorted(complete, key=lambda trial: sign * float(trial["value"]))


def _headline(results: Mapping[str, Any]) -> dict[str, Any]:
    ranked, trials = _ranked(results), results["trials"]
    states = [trial["state"] for trial in trials]
    tiles = [Tile(state, str(states.count(state))) for state in ("complete", "pruned", "failed")]
    groups = [("Trials", tiles)]
    if ranked:
        middle = ranked[len(ranked) // 2]
        of_best = [
            Tile("trial", str(ranked[0]["number"])),
            Tile("epoch kept", str(ranked[0].get("best_epoch", ""))),
            Tile("the middle trial", number(middle["value"], 4)),
        ]
        groups.append(("The best", of_best))
    names = [_short(key, results["space"]) for key in results["space"]]
    return {
        "title": f"Scan of {len(names)} parameter{'s' * (len(names) != 1)}",
        "subtitle": ", ".join(names),
        "area_label": f"{_NAMES[results['metric']]} of the best trial",
        "area": Cell(number(ranked[0]["value"], 4) if ranked else "none"),
        "groups": groups,
        "status": "",
        "verdict": "",
        "evidence": "",
    }


def _trials(results: Mapping[str, Any]) -> Section:
    ranked, space = _ranked(results), results["space"]
    if not ranked:
        return Section("trials", "Trials")
    rows = []
    for trial in ranked[:_TOP]:
        cells = [Cell(number(trial["value"], 4)), Cell(str(trial.get("best_epoch", "")))]
        cells += [Cell(_text(trial["parameters"][key])) for key in space]
        rows.append(Row(f"trial {trial['number']}", tuple(cells)))
    head = ("", _NAMES[results["metric"]], "epoch kept", *(_short(key, space) for key in space))
    caption = (
        "Each point is a trial that came to its end, the line the best so far: where it is flat for long, "
        "more trials of the same space will not help much. Crosses are trials that were given up, at what "
        "they had then."
    )
    course = Figure("course", plot_course(results), "Validation metric of each trial", caption)
    figures = [course]
    if results["importance"]:
        caption = (
            "Which parameter makes the difference between good trials and the others; the shares sum to one. "
            "One that does not matter can stay as it is."
        )
        ax = plot_importance(results)
        figures.append(Figure("importance", ax, "Importance of each parameter", caption))
    lead = "" if results["importance"] else f"Importance is not known: {results['no_importance']}."
    return Section("trials", "Best trials", lead, tuple(figures), (Table(head, tuple(rows)),))


def _parameters(results: Mapping[str, Any]) -> Section:
    if not _ranked(results):
        return Section("parameters", "Parameters")
    caption = (
        f"A line is a trial. Red is the best, blue the next {_BEST - 1}, grey the others, dotted those that "
        "were given up. Where the coloured lines meet on an axis, the value there matters; where they run to "
        "an end of it, the space should be wider."
    )
    ax = plot_parallel(results)
    figure = Figure("parallel", ax, "Parameters and metric of all trials", caption, wide=True)
    facts = tuple((key, _range(p)) for key, p in results["space"].items())
    return Section("parameters", "Parameters", "", (figure,), facts=facts)


def _failures(results: Mapping[str, Any]) -> Section:
    failed = tuple((f"trial {t['number']}", t["error"]) for t in results["trials"] if "error" in t)
    return Section("failed", "Trials that failed", facts=failed)


def _again(folder: Path, best: str) -> Section:
    run = quote(folder.name)
    return Section(
        "best",
        "The best config",
        "best.yaml beside this page trains the best trial again, to the same weights to the bit.",
        commands=(f"timelike train {run}/best.yaml", f"timelike evaluate {run}/best"),
        listing=best,
        listing_title="best.yaml",
    )


def _short(key: str, keys: Mapping[str, Any]) -> str:
    """Name a key by as few of its last parts as tell it from the others."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        name = ".".join(parts[-n:])
        if not parts[-n].isdecimal() and sum(k == name or k.endswith(f".{name}") for k in keys) == 1:
            return name
    return key


def _text(value: Any) -> str:
    if isinstance(value, float):
        return number(value, 3)
    return value if isinstance(value, str) else json.dumps(value)


def _range(given: Mapping[str, Any]) -> str:
    if "choices" in given:
        return ", ".join(_text(choice) for choice in given["choices"])
    how = ", logarithmic" if given.get("log") else f", in steps of {given['step']}" if "step" in given else ""
    return f"{given['low']} to {given['high']}{how}"


def plot_course(results: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the metric of each trial, and the best so far.

    Parameters
    ----------
    results : mapping
        As in ``scan.json``.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    """
    best = np.maximum if results["metric"] == "auc" else np.minimum

    def of(state: str) -> tuple[list[int], list[float]]:
        chosen = [t for t in results["trials"] if t["state"] == state and t["value"] is not None]
        return [t["number"] for t in chosen], [t["value"] for t in chosen]

    with drawing(ax) as ax:
        numbers, values = of("complete")
        ax.plot(*of("pruned"), "x", color=REST, markersize=5, label="given up")
        ax.plot(numbers, values, "o", color=PALETTE[0], markersize=5, label="complete")
        ax.step(
            numbers,
            best.accumulate(values),
            where="post",
            color=PALETTE[1],
            linewidth=1.4,
            label="best so far",
        )
        ax.set(xlabel="Trial", ylabel=_NAMES[results["metric"]])
        ax.xaxis.set_major_locator(require("matplotlib.ticker", "train").MaxNLocator(integer=True))
        spread = max(values) - min(values) or abs(values[0]) or 1.0  # trials given up may lie far away
        ax.set_ylim(min(values) - 0.15 * spread, max(values) + 0.45 * spread)
        ax.legend(loc="upper right", ncols=3, columnspacing=1.0, handletextpad=0.3)
    return ax


def plot_importance(results: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the importance of each parameter, the largest on top; arguments as of `plot_course`."""
    shares = dict(sorted(results["importance"].items(), key=lambda item: float(item[1])))
    with drawing(ax) as ax:
        at = np.arange(len(shares))
        ax.barh(at, list(shares.values()), height=0.6, color=PALETTE[0])
        ax.set_yticks(at, [plain(_short(key, results["space"])) for key in shares])
        ax.tick_params(axis="y", which="both", length=0)
        ax.set(xlabel="Importance", xlim=(0, 1.15 * max(shares.values())), ylim=(-0.6, len(at) - 0.4))
        for y, share in zip(at, shares.values(), strict=True):
            ax.text(share, float(y), f" {share:.2f}", va="center")
        ax.minorticks_off()
    return ax


def plot_parallel(results: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw parallel coordinates: an axis for each parameter and one for the metric, a line for each trial.

    Inselberg, The Visual Computer 1 (1985) 69. Arguments as of `plot_course`.
    """
    space, ranked = results["space"], _ranked(results)
    pruned = [t for t in results["trials"] if t["state"] == "pruned" and t["value"] is not None]
    values = [trial["value"] for trial in ranked]
    scales = [_Scale(given) for given in space.values()]
    scales.append(_Scale({"low": min(values), "high": max(values)}))

    def line(trial: Mapping[str, Any]) -> list[float]:
        point = [*(trial["parameters"][key] for key in space), trial["value"]]
        return [scale(value) for scale, value in zip(scales, point, strict=True)]

    own = ax is None
    with drawing(ax) as ax:
        if own:
            figure_of(ax).set_size_inches(9.6, 4.2)
        at = range(len(scales))
        for trial in pruned:  # what they had may lie beyond the last axis
            ax.plot(at[:-1], line(trial)[:-1], color=REST, linewidth=0.8, linestyle=":", zorder=1)
        for rank in reversed(range(len(ranked))):
            colour = PALETTE[1] if rank == 0 else PALETTE[0] if rank < _BEST else REST
            width = 2.4 if rank == 0 else 1.6 if rank < _BEST else 0.8
            ax.plot(
                at, line(ranked[rank]), color=colour, linewidth=width, zorder=3 + (rank < _BEST) - rank * 1e-6
            )
        for x, scale in zip(at, scales, strict=True):
            ax.plot([x, x], [0, 1], color=INK, linewidth=1.0, zorder=6)
            for y, text in scale.ticks():  # those at the ends stand clear of the lines
                beyond = {0.0: (x, -0.045), 1.0: (x, 1.045)}.get(y)
                at_end = {"ha": "center", "va": "center", "fontsize": 9.5}
                if beyond:
                    ax.text(*beyond, plain(text), **at_end)  # type: ignore[arg-type]
                else:
                    ax.text(x + 0.04, y + 0.035, plain(text), fontsize=9.5, va="center", zorder=7)
        names = [plain(_short(key, space)) for key in space]
        ax.set(xlim=(-0.5, len(scales) - 0.5), ylim=(-0.09, 1.09), yticks=[])
        ax.set_xticks(list(at), [*names, _NAMES[results["metric"]]], fontsize=10.5)
        ax.minorticks_off()
        ax.tick_params(axis="both", which="both", length=0, top=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return ax


class _Scale:
    """Where on an axis from 0 to 1 a value lies."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.choices: Sequence[Any] | None = given.get("choices")
        if self.choices is None:
            self.log = bool(given.get("log"))
            low, high = float(given["low"]), float(given["high"])
            if low == high:
                low, high = low - 0.5, high + 0.5
            self.low, self.high = self._of(low), self._of(high)

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value

    def __call__(self, value: Any) -> float:
        if self.choices is not None:
            return list(self.choices).index(value) / max(1, len(self.choices) - 1)
        return (self._of(float(value)) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and texts of some values."""
        if self.choices is not None:
            texts = [_text(choice) for choice in self.choices]
            short = [text if len(text) <= 20 else text[:18] + "…" for text in texts]
            return [(self(choice), text) for choice, text in zip(self.choices, short, strict=True)]
        return [(h, f"{math.exp(v) if self.log else v:.4g}") for h, v in ((0.0, self.low), (1.0, self.high))]
