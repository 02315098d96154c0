"""What figures are drawn on: the field's style, class colours, and files that are the same in every run.

Nothing global is touched: figures are made without pyplot, and rcParams are as before when a block ends.
matplotlib and mplhep are imported when the first figure is made.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from timelike.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "OTHERS",
    "PALETTE",
    "REST",
    "class_colours",
    "drawing",
    "figure_of",
    "plain",
    "render",
    "style",
    "subplots",
]

INK = "#1b1f24"  # text, axes
# M. A. Petroff, arXiv:2107.02270, ten colours; ordered so that the first two are the furthest apart.
PALETTE = (
    "#3f90da",
    "#bd1f01",
    "#ffa90e",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#92dadd",
)
REST = "#94a4a2"  # guides for the eye
OTHERS = "#717581"  # all other classes together; both are greys of the palette

# Left out of files, so that the same figure gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}

_OURS = "timelike"  # gid of the figures that are drawn in our style


@contextmanager
def style() -> Iterator[None]:
    """Set the figures' style for the length of a block; rcParams are as before afterwards.

    mplhep's ROOT style, with the sizes of a figure that is shown half a page wide.
    """
    plots = require("matplotlib.style", "train")
    ours = {
        **require("mplhep", "train").style.ROOT,
        "figure.figsize": (6.4, 4.8),
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        # Letters that the first one lacks (Greek, in class names) are taken from the second.
        "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
        "font.size": 13,
        "axes.linewidth": 1.0,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "legend.labelspacing": 0.35,
        "lines.linewidth": 1.8,
        "pdf.fonttype": 42,  # editable text in PDF, as journals ask for
        "svg.hashsalt": "timelike",
    }
    for axis in ("xtick", "ytick"):
        ours |= {f"{axis}.color": INK, f"{axis}.major.size": 7, f"{axis}.minor.size": 3.5}
        ours |= {f"{axis}.major.width": 0.9, f"{axis}.minor.width": 0.7, f"{axis}.major.pad": 5}
    with plots.context(ours, after_reset=True):
        yield


@contextmanager
def drawing(ax: Axes | None) -> Iterator[Axes]:
    """Give the axes to draw into: those of a user's figure in its style, others in ours.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        Where to draw; None for a new figure.

    Yields
    ------
    matplotlib.axes.Axes
    """
    if ax is None:
        with style():
            yield subplots(1)[0]
    elif figure_of(ax).get_gid() == _OURS:
        with style():
            yield ax
    else:
        yield ax


def subplots(n: int) -> list[Axes]:
    """Make a figure of n axes in our style, two beside each other where there are several.

    Examples
    --------
    >>> len(subplots(3))
    3
    """
    columns = min(n, 2)
    rows = -(-n // columns)
    with style():
        figure = require("matplotlib.figure", "train").Figure(
            figsize=(6.4, 4.8) if n == 1 else (9.6, 3.6 * rows)
        )
        figure.set_gid(_OURS)
        return [figure.add_subplot(rows, columns, k + 1) for k in range(n)]


def figure_of(ax: Axes) -> Figure:
    """Give the figure that axes belong to."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("these axes have been removed from their figure")
    return figure


def render(ax: Axes, *forms: str) -> dict[str, bytes]:
    """Draw the figure of these axes as files.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes of the figure.
    *forms : {"png", "pdf", "svg"}
        Formats of the files. SVG is transparent, its text is drawn as paths.

    Returns
    -------
    dict of str to bytes
        The file of each format; the same bytes for the same figure, without date.

    Raises
    ------
    ValueError
        For a format that is not one of these, naming it.
    """
    rc_context = require("matplotlib", "train").rc_context
    figure, files = figure_of(ax), {}
    engine = figure.get_layout_engine()
    for form in forms:
        if form not in _METADATA:
            raise ValueError(f"format '{form}': possible are {', '.join(_METADATA)}")
    try:
        for form in forms:
            file = io.BytesIO()
            with style():
                figure.savefig(file, format=form, metadata=_METADATA[form], transparent=form == "svg")
            files[form] = file.getvalue()
            # The layout is made with the first file and kept for the others: half of the time of each.
            with rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
                figure.set_layout_engine(None)
    finally:
        figure.set_layout_engine(engine)
    return files


def class_colours(class_names: Sequence[str], signal: str) -> dict[str, str]:
    """Give each class its colour: the signal the first of the palette, the others theirs in order.

    Examples
    --------
    >>> class_colours(["qcd", "top"], "top")
    {'top': '#3f90da', 'qcd': '#bd1f01'}
    """
    ordered = [signal, *(name for name in class_names if name != signal)]
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(ordered)}


def plain(name: str) -> str:
    r"""Write a name so that matplotlib shows it letter by letter: no mathematics, no hidden legend entry.

    Examples
    --------
    >>> plain("$x$"), plain("_qcd")
    ('\\$x\\$', ' _qcd')
    """
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
