"""One step of a training: loss and gradients of a batch, clipping, the optimiser's change of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from timelike.backpropagation import Chain, by_autograd
from timelike.batches import Batch
from timelike.config import TrainingConfig
from timelike.distributed import Ranks
from timelike.inspect.watch import Watch
from timelike.losses import loss_of, penalty
from timelike.network import Network
from timelike.nn import Ragged
from timelike.optimisers import make_optimiser
from timelike.recording import records

__all__ = ["NotFinite", "TrainingStep"]


class TrainingStep:
    """Changes a network by one batch at a time.

    Parameters
    ----------
    network : Network
    config : TrainingConfig
    watch : Watch, optional
        Looks into some of the steps.
    ranks : Ranks, optional
        Each takes a part of a batch.

    Attributes
    ----------
    network, config
        As given.
    optimiser : Optimiser
        Made for the network.
    """

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        watch: Watch | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.network, self.config, self._watch, self._ranks = network, config, watch, ranks
        self.optimiser = make_optimiser(network, config)
        self._loss = loss_of(config, network.config.head)
        self._penalty = None
        if config.regularisation is not None and (ranks is None or ranks.rank == 0):
            self._penalty = partial(penalty, network, config.regularisation)
        self._chain = None
        if self._penalty is None and Chain.is_plain(network):
            self._chain = Chain(network, self._loss, self.optimiser.gradients())

    def take(self, batch: Batch) -> float:
        """Change the weights by a batch, and give its loss as it was before.

        Raises
        ------
        NotFinite
            If the loss is not a finite number, or with clipping the gradient; the weights are unchanged.
        """
        network, optimiser, ranks, most = self.network, self.optimiser, self._ranks, self.config.clip_norm
        if ranks is not None:
            batch = ranks.share(batch, per_step=network.per_step)
        loss = self._differentiate(batch)
        if ranks is not None:
            # Asked of the sum: so all ranks stop together, and none waits for another.
            loss = ranks.sum(optimiser.gradient, loss)
        value = loss.item()
        if not math.isfinite(value):
            raise NotFinite(f"the loss is {value} ({_first_not_finite(network, batch)})")
        if most is not None:
            norm = torch.linalg.vector_norm(optimiser.gradient)
            length = norm.item()
            if not math.isfinite(length):
                raise NotFinite(f"the gradient of {self._not_finite()} is not finite")
            if length + 1e-6 > most:  # else PyTorch would multiply the gradient by 1
                optimiser.clip(norm, most)
        optimiser.step()
        return value

    def _differentiate(self, batch: Batch) -> Tensor:
        """Give the loss, and leave the gradient with the optimiser."""
        with nullcontext() if self._watch is None else self._watch.step():
            if self._chain is not None and records.get() is None:
                return self._chain(batch)
            loss, gradients = by_autograd(self.network, batch, self._loss, self._penalty)
        self.optimiser.gather(gradients)
        return loss

    def _not_finite(self) -> str:
        """Name the parameters whose gradients are not finite."""
        trained = [name for name, p in self.network.named_parameters() if p.requires_grad]
        gradients = self.optimiser.gradients()
        names = [name for name, g in zip(trained, gradients, strict=True) if _bad(g)]
        return ", ".join(names[:3]) or "all weights together"


class NotFinite(Exception):
    """A number of a training step is not finite; the message says which."""


def _bad(values: Tensor | None) -> bool:
    return values is not None and not bool(values.isfinite().all())


def _first_not_finite(network: Network, batch: Batch) -> str:
    """Say where on the way from the inputs to the loss the first number is that is not finite."""
    if _bad(batch.rows.values):
        return "inputs are not finite"
    if names := [name for name, p in network.named_parameters() if _bad(p)]:
        return f"weights are not finite: {', '.join(names[:3])}"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if _bad(getattr(first, "values", None) if isinstance(first, Ragged) else first):
                found.append(name)

        return hook

    layers = [(name, part) for name, part in network.named_modules() if not list(part.children()) and name]
    hooks = [part.register_forward_hook(look(name)) for name, part in layers]
    try:
        with torch.no_grad():
            network(batch.rows)
    finally:
        for hook in hooks:
            hook.remove()
    return f"the outputs of {found[0]} are not finite" if found else "scores are too large for a loss"
