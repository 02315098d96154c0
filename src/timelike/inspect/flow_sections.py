"""The section of a report on gradient flow: how far the network remembers, and what stands in its way."""

from __future__ import annotations

import numpy as np

from timelike.inspect.diagnosis import diagnose
from timelike.inspect.figures import plot_gradient_flow
from timelike.inspect.flow import gradient_flow, is_finite, memory
from timelike.inspect.traces import trace
from timelike.model import Model
from timelike.report.page import Figure, Section
from timelike.sequences import Sequences

__all__ = ["flow_sections"]


def flow_sections(model: Model, sequences: Sequences, *, n_events: int = 300, seed: int = 0) -> list[Section]:
    """Trace some events, and say how far back the gradient reaches in each layer.

    Parameters
    ----------
    model : timelike.model.Model
    sequences : Sequences
        As read, not transformed.
    n_events : int
        So many at most, drawn with `seed`.

    Returns
    -------
    list of Section
        One; none where no event has two steps.
    """
    n = len(sequences)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_events])
    found = trace(model, sequences[chosen])
    if found.layers[0].lengths.max(initial=0) < 2:
        return []
    facts, figures = [], []
    names = list(dict.fromkeys(layer.name for layer in found.layers))  # both directions have one
    for k, layer in enumerate(found.layers):
        if not is_finite(layer):  # the diagnosis says so
            continue
        name = f"layer {names.index(layer.name) + 1}" + (", reverse" if layer.reverse else "")
        remembers = memory(layer)
        facts.append((f"memory of {name}", f"nine tenths of the gradient are gone after {remembers}"))
        axes = plot_gradient_flow(gradient_flow(layer), remembers)
        caption = (
            f"Gradient of the loss with respect to the states of {name}, by the number of steps to the end: "
            f"median of those of {len(chosen)} events that reach so far; the bands hold 68 % of them. The "
            "dashed line is the horizon, after which less than a tenth of the gradient of the last hidden "
            "state is left, by its Jacobians."
        )
        alt = f"Norm of the gradient over the distance from the end, {name}"
        figures.append(Figure(f"flow-{k + 1}", axes, alt, caption))
    facts += [("diagnosis", line) for line in str(diagnose(found)).splitlines()]
    lead = "What of the gradient arrives at a step is what training can change there."
    return [Section("memory", "How far it remembers", lead, tuple(figures), facts=tuple(facts))]
