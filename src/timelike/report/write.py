"""The report of a run: ``metrics.json``, ``figures/*.png`` and ``*.pdf``, and one ``report.html``.

The page needs nothing but itself: no network, no other files; it reads in light and dark, on a phone and
on paper. What it says of a task is in `timelike.report.classes`, `timelike.report.multilabel` and
`timelike.report.regression`, of every run in `timelike.report.run`; how it looks is in
``templates/report.html``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timelike import __version__
from timelike.canvas import render
from timelike.errors import ConfigError
from timelike.files import replacing
from timelike.predictions import Estimates, Predictions
from timelike.report import classes, multilabel, regression
from timelike.report.page import Section, inline_svg, render_page

__all__ = ["write_report"]


class _Task(NamedTuple):
    """What a report of a kind of task is made by."""

    run: type[Any]
    headline: Callable[[Any], dict[str, Any]]
    sections: tuple[Callable[[Any], Section | None], ...]
    definitions: Callable[[Any], tuple[tuple[str, str], ...]]


_TASKS = {
    "classes": _Task(classes.OfClasses, classes.headline, classes.SECTIONS, classes.definitions),
    "multilabel": _Task(
        multilabel.OfLabels, multilabel.headline, multilabel.SECTIONS, multilabel.definitions
    ),
    "regression": _Task(
        regression.OfNumbers, regression.headline, regression.SECTIONS, regression.definitions
    ),
}


def write_report(
    folder: str | Path,
    *,
    metrics: Mapping[str, Any],
    predictions: Mapping[str, Predictions | Estimates],
    history: Sequence[Mapping[str, Any]] = (),
    config_text: str = "",
    summary: Mapping[str, Any] | None = None,
    more: Sequence[Section] = (),
    commands: Sequence[str] = (),
) -> Path:
    """Write numbers, figures and the page that shows them into a run's folder.

    Everything is made in memory first and then written aside and renamed, the page last: on an error the
    folder is as it was, and a page never shows numbers of another evaluation than its own.

    Parameters
    ----------
    folder : path
        The run's folder; its name is the run's name in the report. It is made if it is not there.
    metrics : mapping
        As `timelike.evaluate.evaluate` gives them, or `timelike.regression.evaluate_regression` or
        `timelike.multilabel.evaluate_multilabel`: their ``task`` decides what is told.
    predictions : mapping of str to Predictions or Estimates
        The splits that were evaluated.
    history : sequence of mapping
        Numbers of each epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``validation_auc``. Without
        any, the report has no section on training.
    config_text : str
        The config as it is in its file.
    summary : mapping, optional
        Facts about the run, shown in this order. Used by name where they are there: ``network``,
        ``n_parameters``, ``n_train``, ``seconds``, ``best_epoch``.
    more : sequence of Section
        Sections of the caller's own; they stand before the last, which says how to make the run again.
    commands : sequence of str
        The commands that do that, where they are not those of a training.

    Returns
    -------
    pathlib.Path
        ``report.html`` in the folder.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    MissingExtraError
        If matplotlib, mplhep or Jinja2 is not installed.
    """
    folder = Path(folder)
    of_task = _TASKS[metrics["task"]]
    run = of_task.run(
        name=folder.resolve().name,
        metrics=metrics,
        predictions=predictions,
        history=history,
        config_text=config_text,
        summary=dict(summary or {}),
        commands=tuple(commands),
    )
    own = [section for make in of_task.sections if (section := make(run)) is not None]
    sections = [*own[:-1], *more, *own[-1:]]
    figures = [figure for section in sections for figure in section.figures]
    drawn = {figure.name: render(figure.axes, "svg", "png", "pdf") for figure in figures}
    page = render_page(
        name=run.name,
        headline=of_task.headline(run),
        sections=sections,
        drawings={f.name: inline_svg(drawn[f.name]["svg"], f.name, f.alt) for f in figures},
        version=__version__,
        definitions=of_task.definitions(run),
    )
    files = {"metrics.json": _as_json(metrics).encode()}
    for name, forms in drawn.items():
        files |= {f"figures/{name}.{form}": forms[form] for form in ("png", "pdf")}
    files["report.html"] = page.encode()
    _write(folder, files)
    return folder / "report.html"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder / 'figures'}: {error.strerror}") from error
    for name, content in files.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)


def _as_json(value: Any, indent: str = "") -> str:
    """Write nested mappings one key a line, lists in one line each; NaN raises."""
    if not isinstance(value, Mapping):
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    if not value:
        return "{}"
    inner = indent + " "
    lines = [
        f"{inner}{json.dumps(str(key), ensure_ascii=False)}: {_as_json(v, inner)}" for key, v in value.items()
    ]
    end = "\n" if not indent else ""
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}" + end
