"""From a model and files of events to the page: read, choose, trace, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from timelike import data
from timelike.data.sources import tree_of
from timelike.errors import ConfigError, DataError, nearest
from timelike.inspect.page import write_page
from timelike.inspect.traces import trace
from timelike.model import Model, load_model
from timelike.network import logits
from timelike.sequences import Sequences

__all__ = ["Inspection", "choose_events", "inspect_events"]


@dataclass(frozen=True)
class Inspection:
    """What `inspect_events` gives.

    Attributes
    ----------
    page : pathlib.Path
        The page.
    events : Sequences
        The events on it.
    loss : str
        In words, what the gradients are of.
    without_labels : str
        Why the true classes are not known; empty where they are.
    """

    page: Path
    events: Sequences
    loss: str
    without_labels: str = ""


def inspect_events(
    model: Model | str | Path,
    files: Sequence[str | Path],
    page: str | Path,
    *,
    events: Sequence[int] = (),
    treename: str | None = None,
    class_name: str | None = None,
    title: str | None = None,
) -> Inspection:
    """Write the page of some events of files.

    Parameters
    ----------
    model : Model or path
        A model or its file.
    files : sequence of paths
        Files of events, globs allowed, as for `timelike.apply.apply`. The training's selection is not asked.
    page : path
        The HTML file.
    events : sequence of int
        Numbers of events, by the branch that the training's config names, else their places in the files; the
        first five when none is given.
    treename : str, optional
        The tree to read, where it is not the one of the training.
    class_name : str, optional
        Take the gradients of the logit of this class. By default they are of the cross entropy, or where
        labels cannot be read of the logit of the signal.
    title : str, optional
        Heading of the page.

    Returns
    -------
    Inspection

    Raises
    ------
    ConfigError
        If there is no such class, or the page cannot be written.
    DataError
        If an event or a variable is missing, or a file does not hold what it should.
    ModelFileError
        If the model cannot be read.
    """
    page = Path(page)
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"cannot write {page}: the page is an HTML file; give it a name that ends in .html")
    if not files:
        raise ConfigError("no input files")
    where = "" if isinstance(model, Model) else _name_of(Path(model))
    model = model if isinstance(model, Model) else load_model(model)
    if not model.data.exclusive or model.data.per == "step":
        what = "of steps" if model.data.per == "step" else f"a {model.data.kind} model"
        raise ConfigError(f"the page is of events of classes; this is {what}. Traces show it: timelike.trace")
    if class_name is not None and class_name not in model.class_names:
        raise ConfigError(
            f"class {class_name!r}: there is no such class; {nearest(class_name, model.class_names)}"
        )
    held, why = _read(model, [Path(name) for name in files], treename)
    chosen = choose_events(held, events)
    if not why:
        chosen, why = _labelled(model, chosen)
    scores = logits(model.network, model.transforms.apply(chosen)).double()
    if class_name is None and chosen.labels is not None:
        loss = "the cross entropy of the true class"
        own = nn.functional.cross_entropy(scores, torch.from_numpy(chosen.labels.copy()), reduction="none")
        found = trace(model, chosen)
    else:
        of = model.signal if class_name is None else class_name
        loss, own = f"the logit of {of}", scores[:, model.class_names.index(of)]
        found = trace(model, chosen, loss=of)
    title = title or (f"Inside {where}" if where else "Inside the network")
    write_page(found, page, title=title, class_names=model.class_names, loss=loss, losses=own.numpy())
    return Inspection(page, chosen, loss, why)


def _name_of(path: Path) -> str:
    """Name a model: a run by its folder."""
    return path.resolve().parent.name if path.stem == "model" else path.stem


def _read(model: Model, files: Sequence[Path], treename: str | None) -> tuple[Sequences, str]:
    """Read events with what their labels are made from as observers, or say why that cannot be done."""
    config = model.data.model_copy(
        update={"treename": tree_of(model.data, files, treename), "selection": None, "observers": ()}
    )

    def read(observers: Sequence[str]) -> Sequences:
        with_them = config.model_copy(update={"observers": tuple(observers)})
        return data.read(with_them, model.sequence, files=files, labelled=False, dtype=model.dtype)

    if not config.labels:
        return read(()), "in the training each class had files of its own"
    try:
        return read(list(dict.fromkeys(config.labels.values()))), ""
    except DataError as error:
        # Either the labels are at fault, or what follows raises too.
        return read(()), str(error).replace("data.observers", "data.labels")


def _labelled(model: Model, events: Sequences) -> tuple[Sequences, str]:
    """Give the events their labels, where exactly one holds for each, or say why not."""
    holds = np.stack([events.observers[text] != 0 for text in model.data.labels.values()])
    bad = np.flatnonzero(holds.sum(axis=0) != 1)
    if len(bad):
        number = "" if events.events is None else f" {events.events[bad[0]]}"
        said = "several labels hold" if holds[:, bad[0]].any() else "none of the labels holds"
        return events, f"event{number}: {said}"
    return events.replace(labels=np.argmax(holds, axis=0)), ""


def choose_events(sequences: Sequences, numbers: Sequence[int], *, first: int = 5) -> Sequences:
    """Choose the events of these numbers, all of each where several have one, or without numbers the first.

    Parameters
    ----------
    sequences : Sequences
    numbers : sequence of int
        Event numbers; where the sequences have none, the places of the sequences.
    first : int
        How many are chosen where no number is given.

    Raises
    ------
    DataError
        If an event is not there; the message names the nearest numbers that are.

    Examples
    --------
    >>> events = Sequences(np.zeros((3, 1)), [0, 1, 2, 3], events=[4, 9, 4])
    >>> choose_events(events, [9, 4]).events
    array([9, 4, 4])
    """
    if not numbers:
        return sequences[:first]
    known = np.arange(len(sequences)) if sequences.events is None else sequences.events
    wanted = list(dict.fromkeys(numbers))
    found = [np.flatnonzero(known == number) for number in wanted]
    for number, places in zip(wanted, found, strict=True):
        if len(places) == 0:
            # In Python's integers: differences of event numbers may not fit into 64 bits.
            values = np.unique(known).tolist()
            near = sorted(sorted(values, key=lambda value: abs(value - number))[:3])
            raise DataError(
                f"event {number}: not among the {len(known)} events; the nearest numbers are "
                f"{', '.join(map(str, near))}"
            )
    return sequences[np.concatenate(found)]
