"""Optimisers of a config: those of torch, and what it lacks of others.

All weights of a network are one tensor to them, of which the network's own are pieces: a step of a small
network is calls more than arithmetic, and so it is one call in place of one for each weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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

__all__ = ["EpsilonInRoot", "Optimiser", "make_optimiser"]


class Optimiser:
    """An optimiser of torch for all weights of a network at once.

    From now on the weights that are trained lie one behind the other, in the order of ``parameters()``.

    Parameters
    ----------
    network : torch.nn.Module
        Its weights move to other memory, and stay what they are.
    make : callable
        Gives the optimiser of a list of parameters, which has one element. Its update of a number may depend
        on the gradients of that number alone.

    Attributes
    ----------
    torch : torch.optim.Optimizer
    parameters : tuple of Parameter
        The weights that are trained.
    gradient : Tensor
        Of all of them, flat; `gather` fills it.
    """

    def __init__(
        self, network: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> None:
        self.parameters = tuple(p for p in network.parameters() if p.requires_grad)
        self._sizes = [p.numel() for p in self.parameters]
        self._whole = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in self.parameters]))
        for p, piece in zip(self.parameters, self._pieces(self._whole.detach()), strict=True):
            p.data = piece
        self.gradient = self._whole.grad = torch.zeros_like(self._whole)
        self.torch = make([self._whole])

    def gather(self, gradients: Sequence[Tensor | None]) -> None:
        """Take the gradients of the parameters, in their order; None stands for zeros."""
        flat = [
            p.new_zeros(p.numel()) if g is None else g.reshape(-1)
            for p, g in zip(self.parameters, gradients, strict=True)
        ]
        torch.cat(flat, out=self.gradient)

    def gradients(self) -> list[Tensor]:
        """Give the gradient as those of the parameters: views of it."""
        return self._pieces(self.gradient)

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        pieces = torch.split(flat, self._sizes)
        return [piece.view_as(p) for p, piece in zip(self.parameters, pieces, strict=True)]

    def clip(self, norm: Tensor, most: float) -> None:
        """Scale the gradient, whose norm is `norm`, to a norm of at most `most`."""
        nn.utils.clip_grads_with_norm_([self._whole], most, norm)

    def step(self) -> None:
        """Change the weights by the gradient."""
        self.torch.step()


def make_optimiser(network: nn.Module, config: TrainingConfig) -> Optimiser:
    """Make the optimiser of a config; fused where torch has that, which is three times as fast here."""
    return Optimiser(network, lambda parameters: _of_config(parameters, config))


def _of_config(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    given = config.optimiser
    common: dict[str, Any] = {"lr": given.learning_rate, "weight_decay": given.weight_decay}
    if isinstance(given, AdamConfig):
        kind = _AdamW if given.name == "adamw" else _Adam
        made = kind(parameters, betas=(given.beta1, given.beta2), eps=given.epsilon, fused=True, **common)
        made.epsilon_hat = given.epsilon if given.epsilon_hat else None
        return made
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


class _Adam(torch.optim.Adam):
    """Adam of one tensor by the kernel of ``Adam(fused=True)``, without what its `step` does around it.

    That takes longer than the step of a small network: it looks for other devices, types, states and hooks.
    """

    _kernel: Callable[..., None] = staticmethod(torch._fused_adam_)
    epsilon_hat: float | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by their gradient."""
        loss = None if closure is None else closure()
        (group,) = self.param_groups
        (p,) = group["params"]
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        steps, (beta1, beta2), epsilon = state["step"], group["betas"], group["eps"]
        steps += 1
        if self.epsilon_hat is not None:
            # What is to the corrected root what epsilon-hat is to the other.
            epsilon = self.epsilon_hat / math.sqrt(1 - beta2 ** int(steps))
        self._kernel(
            [p],
            [p.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [steps],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=epsilon,
            amsgrad=False,
            maximize=False,
        )
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # or torch would put a profiler's record around it


class _AdamW(_Adam):
    """AdamW likewise."""

    _kernel = staticmethod(torch._fused_adamw_)


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
