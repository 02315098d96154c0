"""What every report has: the run that it is about, how its training went, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from timelike.plots import best_epoch, plot_auc, plot_loss
from timelike.report.page import Cell, Figure, Section
from timelike.report.typography import count, number

__all__ = ["Run", "parts", "reproduction", "subtitle", "training"]


@dataclass(frozen=True, eq=False)
class Run:
    """All that a report is about; what there is of one kind of task alone, its own module adds."""

    name: str
    metrics: Mapping[str, Any]
    predictions: Mapping[str, Any]  # `Predictions` or `Estimates` by split
    history: Sequence[Mapping[str, Any]]
    config_text: str
    summary: Mapping[str, Any]
    commands: tuple[str, ...] = ()  # that make it again, where these are not those of a training

    @property
    def split(self) -> str:
        """The split that counts: test, or the first there is."""
        return "test" if "test" in self.predictions else next(iter(self.predictions))

    @property
    def splits(self) -> list[str]:
        """All splits, the one that counts first."""
        return [self.split, *(name for name in self.predictions if name != self.split)]

    @property
    def found(self) -> Mapping[str, Any]:
        """Metrics of the split that counts."""
        result: Mapping[str, Any] = self.metrics[self.split]
        return result

    @property
    def unit(self) -> str:
        """What figures are made of: events or steps."""
        return f"{self.metrics['unit']}s"

    @property
    def area_note(self) -> str:
        """What is to be said of the area under the curve that a training shows."""
        return ""


def parts(cell: Cell) -> tuple[str, str, str]:
    """Take a cell apart, for a tile."""
    return cell.value, cell.error, cell.note


def subtitle(run: Run) -> str:
    """Say in a line what was trained, and of what the figures are."""
    summary, parts = run.summary, []
    if "network" in summary:
        parts.append(str(summary["network"]))
    if "n_parameters" in summary:
        parts.append(f"{count(summary['n_parameters'])} parameters")
    if "n_train" in summary:
        seconds = f" in {number(summary['seconds'], 3)}\u202fs" if "seconds" in summary else ""
        parts.append(f"trained on {count(summary['n_train'])} events{seconds}")
    of_steps = f" with {count(run.found['rows'])} steps" if run.unit == "steps" else ""
    parts.append(f"figures from {count(run.found['events'])} {run.split} events{of_steps}")
    return " · ".join(parts)


def training(run: Run) -> Section | None:
    """Show how the fit went."""
    if not run.history:
        return None
    best = int(run.summary.get("best_epoch") or best_epoch(run.history))
    kept = next((row for row in run.history if int(row["epoch"]) == best), run.history[-1])
    last = run.history[-1]
    caption = (
        f"Both losses should fall together. The weights kept are those of epoch {best} of "
        f"{len(run.history)}, validation loss {number(kept['validation_loss'], 4)}. Where it turns up "
        "while the training loss still falls, the network begins to learn its events by heart; where both "
        "still fall at the end, more epochs would help."
    )
    if int(last["epoch"]) == best and len(run.history) > 1:
        caption += " Here the last epoch is the best: try more."
    figures = [
        Figure(
            "loss",
            plot_loss(run.history, best=best, unit=run.metrics["unit"]),
            f"Loss over {len(run.history)} epochs",
            caption,
        )
    ]
    if any(row.get("validation_auc") is not None for row in run.history):
        ax = plot_auc(run.history, best=best)
        kept_auc = kept.get("validation_auc")
        caption = "The figure of merit on the validation events, which the fit does not see"
        caption += f": {number(kept_auc, 4)} at the epoch kept." if kept_auc is not None else "."
        caption += run.area_note
        figures.append(Figure("auc", ax, "Validation AUC over the epochs", caption))
    if any(row.get("validation_metric") is not None for row in run.history):
        name = str(run.summary.get("stopped_by", "figure of merit")).replace("_", " ")
        ax = plot_auc(run.history, best=best, key="validation_metric", label=name)
        caption = f"What chose the epoch whose weights were kept: {name} of the validation {run.unit}."
        figures.append(Figure("metric", ax, f"Validation {name} over the epochs", caption))
    return Section("training", "Training", figures=tuple(figures))


# Words for the keys of a summary; others are shown as they are.
_FACTS = {
    "network": "network",
    "n_parameters": "parameters",
    "n_train": "training events",
    "n_validation": "validation events",
    "n_test": "test events",
    "steps": "time steps, all events",
    "variables": "variables",
    "epochs": "epochs",
    "best_epoch": "epoch kept",
    "seconds": "training time / s",
    "stopped_by": "early stopping by",
    "threads": "threads",
    "isa": "instruction set",
    "version": "timelike version",
}


def reproduction(run: Run) -> Section:
    """Say what was trained, and how to do it again."""
    facts = [(_FACTS.get(key, key.replace("_", " ")), _fact(value)) for key, value in run.summary.items()]
    bootstrap, again = run.metrics["bootstrap"], f"{run.name}_again"
    facts.append(("bootstrap", f"{bootstrap['replicas']} replicas, seed {bootstrap['seed']}"))
    return Section(
        "reproduce",
        "Model, and how to reproduce it",
        "The config below holds every setting and seed; training it again with the same version, data and "
        "instruction set gives the same network.",
        facts=tuple(facts),
        commands=run.commands
        or (
            f"timelike train {quote(run.name + '/config.yaml')} --output {quote(again)}",
            f"timelike evaluate {quote(again)}",
        ),
        listing=run.config_text,
        listing_title="config.yaml",
    )


def _fact(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return count(value) if isinstance(value, int) else number(value, 4)
