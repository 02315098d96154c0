"""Optimisers of a config: those of torch, and what it lacks of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from timelike.config import (
    AdadeltaConfig,
    AdagradConfig,
    AdamConfig,
    RMSpropConfig,
    SGDConfig,
    TrainingConfig,
)

__all__ = ["EpsilonInRoot", "make_optimiser"]


def make_optimiser(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser of a config; fused where torch has that, which is three times as fast here."""
    given, parameters = config.optimiser, list(network.parameters())
    common: dict[str, Any] = {"lr": given.learning_rate, "weight_decay": given.weight_decay}
    if isinstance(given, AdamConfig):
        kind = torch.optim.AdamW if given.name == "adamw" else torch.optim.Adam
        betas = (given.beta1, given.beta2)
        adam = kind(parameters, betas=betas, eps=given.epsilon, fused=True, **common)
        if given.epsilon_hat:
            adam.register_step_pre_hook(_with_epsilon_hat(given.epsilon))
        return adam
    if isinstance(given, SGDConfig):
        return torch.optim.SGD(
            parameters, momentum=given.momentum, nesterov=given.nesterov, fused=True, **common
        )
    if isinstance(given, AdadeltaConfig):
        return torch.optim.Adadelta(parameters, rho=given.rho, eps=given.epsilon, **common)
    if given.epsilon_in_root:
        alpha, momentum = (given.alpha, given.momentum) if isinstance(given, RMSpropConfig) else (None, 0.0)
        return EpsilonInRoot(parameters, alpha=alpha, momentum=momentum, eps=given.epsilon, **common)
    if isinstance(given, AdagradConfig):
        return torch.optim.Adagrad(parameters, eps=given.epsilon, fused=True, **common)
    return torch.optim.RMSprop(
        parameters, alpha=given.alpha, momentum=given.momentum, eps=given.epsilon, **common
    )


def _with_epsilon_hat(epsilon: float) -> Callable[..., None]:
    """Give each step of Adam the epsilon that is to the corrected root what epsilon-hat is to the other."""

    def before(optimiser: torch.optim.Optimizer, *_: object) -> None:
        for group in optimiser.param_groups:
            state = optimiser.state.get(group["params"][0])
            step = 1 + (int(state["step"]) if state else 0)
            group["eps"] = epsilon / math.sqrt(1 - group["betas"][1] ** step)

    return before


class EpsilonInRoot(torch.optim.Optimizer):
    """RMSprop and Adagrad with epsilon below the root, as TMVA has them.

    ``v = alpha v + (1 - alpha) g^2``, or without `alpha` (Adagrad) ``v = v + g^2``; then
    ``b = momentum b + g / sqrt(v + eps)`` and ``w = w - lr b``.

    Parameters
    ----------
    params : iterable of Tensor
    lr, eps, momentum, weight_decay : float
        The last is added to the gradient, times the weight.
    alpha : float or None
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        eps: float,
        alpha: float | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "eps": eps, "alpha": alpha, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradients."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["v"], state["b"] = torch.zeros_like(p), torch.zeros_like(p)
                g = p.grad + group["weight_decay"] * p if group["weight_decay"] else p.grad
                alpha, v, b = group["alpha"], state["v"], state["b"]
                if alpha is None:
                    v.addcmul_(g, g)
                else:
                    v.mul_(alpha).addcmul_(g, g, value=1 - alpha)
                b.mul_(group["momentum"]).addcdiv_(g, (v + group["eps"]).sqrt_())
                p.sub_(b, alpha=group["lr"])
        return loss
