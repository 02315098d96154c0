"""The pieces of a report's page, and how they become one HTML file that needs nothing else.

A page is a list of `Section`; a section holds figures and tables. Whoever has something to add to a
report makes another `Section`: the template knows no section by name. All text is escaped on its way in,
so that a class may be called ``<b>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timelike.canvas import INK, OTHERS, PALETTE, REST
from timelike.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Cell", "Figure", "Row", "Section", "Table", "Tile", "inline_svg", "render_page"]


@dataclass(frozen=True)
class Figure:
    """A figure with its caption: what one sees, what to look for, and the numbers."""

    name: str  # of the files, without suffix
    axes: Axes  # one of the figure's axes
    alt: str  # what it shows, for those who cannot see it
    caption: str
    wide: bool = False  # as wide as the page


@dataclass(frozen=True)
class Cell:
    """A number in a table: value and what stands behind it are aligned separately."""

    value: str
    error: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    cells: tuple[Cell, ...]
    group: bool = False  # a heading between lines, without cells


@dataclass(frozen=True)
class Table:
    """A table of numbers."""

    head: tuple[str, ...]  # of the label's column and of each cell's
    rows: tuple[Row, ...]

    @property
    def measured(self) -> bool:
        """Whether there are uncertainties in it."""
        return any(cell.error for row in self.rows for cell in row.cells)


@dataclass(frozen=True)
class Tile:
    """A number of the headline."""

    label: str
    value: str
    error: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    anchor: str
    title: str
    lead: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()  # names and values
    commands: tuple[str, ...] = ()
    listing: str = ""  # a file, shown as it is
    listing_title: str = ""


# The figures' colours become variables of the page, so that they change with light and dark.
_VARIABLES = {
    INK: "currentColor",
    REST: "var(--guide)",
    OTHERS: "var(--others)",
    **{colour: f"var(--class-{k})" for k, colour in enumerate(PALETTE)},
}


def inline_svg(svg: bytes, name: str, alt: str) -> str:
    """Turn a figure's SVG file into an element of the page.

    Identifiers get the figure's name in front (a page has many figures), colours become variables of the
    page, and what refers to anything outside is left out.

    Parameters
    ----------
    svg : bytes
        As `timelike.canvas.render` gives it.
    name : str
        Name of the figure.
    alt : str
        What it shows, for those who cannot see it.

    Returns
    -------
    str
        The element; safe to put into a page as it is.
    """
    escape = require("markupsafe", "train").escape
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', text)
    if box is None:
        raise ValueError(f"figure {name}: the drawing has no viewBox")
    text = re.sub(r"<svg[^>]*>", "", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return f'<svg {box.group()} role="img" aria-label="{escape(alt)}">{text}'


def render_page(**content: Any) -> str:
    """Fill the page's template.

    Parameters
    ----------
    **content
        What the template asks for: ``title``, ``headline``, ``sections``, ``drawings`` and the like; see
        ``templates/report.html``. Drawings, the figures' elements by name, are the only text that is put in
        as it is. ``definitions`` are terms with their meaning, for the end of the page, or none;
        ``numbers`` is the file that has all of them.

    Returns
    -------
    str
        The page.
    """
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("timelike"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    markup = require("markupsafe", "train").Markup
    content["drawings"] = {name: markup(drawing) for name, drawing in content["drawings"].items()}
    content = {"definitions": (), "numbers": "metrics.json", **content}
    page: str = environment.get_template("report.html").render(**content)
    return page
