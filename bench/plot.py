"""The picture of the document: how many times as fast timelike is, for each rival and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from bench.drive import PEERS
from bench.markdown import size_of
from bench.tables.common import ratio_to

__all__ = ["draw"]

# Okabe and Ito's colours, told apart by those who do not see all of them; and markers of different shapes.
_LOOK = {
    "pytorch": ("#D55E00", "o"),
    "jax": ("#0072B2", "s"),
    "keras": ("#009E73", "^"),
    "onnxruntime": ("#CC79A7", "D"),
}
_STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#888888",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


class _Line(NamedTuple):
    """A line of a panel: its label, and the ratios to show on it."""

    label: str
    ratios: list[tuple[str, float]]  # peer and ratio


def draw(tables: dict[str, Any], path: Path) -> None:
    """Draw the tables that have rivals; those that were not measured are left out."""
    panels = [(title, make(tables[name])) for name, (title, make) in _PANELS.items() if name in tables]
    if not panels:
        raise ValueError("none of the tables that the picture shows was measured: " + ", ".join(_PANELS))
    with mpl.rc_context(_STYLE):
        across = min(2, len(panels))
        down = -(-len(panels) // across)
        height = 0.9 + 3.3 * down
        figure, grid = plt.subplots(down, across, figsize=(5.5 * across, height), squeeze=False)
        axes = list(grid.flat)
        for axis, (title, lines) in zip(axes, panels, strict=False):
            _panel(axis, title, lines)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        shown = {peer for _, lines in panels for line in lines for peer, _ in line.ratios}
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="", markersize=8, label=PEERS[peer].name)
            for peer, (color, marker) in _LOOK.items()
            if peer in shown
        ]
        above = 0.9 / height
        figure.text(
            0.015,
            1 - 0.22 * above,
            "How many times as fast as other libraries, layers prepared",
            size=14,
            weight="bold",
            va="top",
        )
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - 0.5 * above),
            ncols=len(handles),
            frameon=False,
            handletextpad=0.2,
            fontsize=11,
        )
        figure.tight_layout(rect=(0, 0, 1, 1 - above), h_pad=2.0, w_pad=2.5)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _panel(axis: Axes, title: str, lines: Sequence[_Line]) -> None:
    """One line per label: a dot for each rival, on a scale where twice as fast is as far as half as fast."""
    ratios = [ratio for line in lines for _, ratio in line.ratios]
    low, high = min([0.8, *ratios]) / 1.15, max([2.0, *ratios]) * 1.15
    axis.set_xscale("log", base=2)
    axis.set_xlim(low, high)
    axis.axvspan(low, 1.0, color="#F3E4E0", zorder=0, linewidth=0)
    axis.axvline(1.0, color="#888888", linewidth=1.2, zorder=1)
    for y, line in enumerate(lines):
        axis.axhline(y, color="#EEEEEE", linewidth=1, zorder=0.5)
        if line.ratios:
            nearest = min(ratio for _, ratio in line.ratios)
            axis.plot([1.0, nearest], [y, y], color="#BBBBBB", linewidth=3, zorder=2, solid_capstyle="butt")
        for peer, ratio in line.ratios:
            color, marker = _LOOK[peer]
            axis.plot(ratio, y, marker, color=color, markersize=7.5, markeredgecolor="white", zorder=3)
    axis.set_yticks(range(len(lines)), [line.label for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    ticks = [2.0**k * part for k in range(-4, 8) for part in ((1.0, 1.5) if high / low < 10 else (1.0,))]
    axis.set_xticks([tick for tick in ticks if low < tick < high])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.minorticks_off()
    axis.set_xlabel("time of the other / time of timelike")
    axis.set_title(title, pad=8)
    if lines[0].label[0].isdigit():
        axis.text(-0.015, 1.02, "B, T, D, H", transform=axis.transAxes, ha="right", color="#777777")


def _by_size(ours: str) -> Callable[[dict[str, Any]], list[_Line]]:
    """Lines by size, for the peer that stands for timelike where it is there."""

    def lines(data: dict[str, Any]) -> list[_Line]:
        return [
            _Line(size_of(row), _ratios(row, ours if ours in row["times"] else "ours"))
            for row in data["rows"]
        ]

    return lines


def _by_cell(data: dict[str, Any]) -> list[_Line]:
    """A line for each cell that has a rival, all its sizes on it."""
    lines: dict[str, list[tuple[str, float]]] = {}
    for row in data["rows"]:
        lines.setdefault(row["what"], []).extend(_ratios(row, "session"))
    return [_Line(what, ratios) for what, ratios in lines.items() if ratios]


def _ratios(row: dict[str, Any], ours: str) -> list[tuple[str, float]]:
    return [(peer, r) for peer in _LOOK if (r := ratio_to(row, peer, ours)) is not None]


_PANELS: dict[str, tuple[str, Callable[[dict[str, Any]], list[_Line]]]] = {
    "training": ("LSTM, training step", _by_size("session")),
    "inference": ("LSTM, inference", _by_size("session")),
    "ragged": ("LSTM, training step, ragged batch", _by_size("session")),
    "cells": ("Other cells, training step, four sizes", _by_cell),
}
