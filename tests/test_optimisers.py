"""Optimisers against their formulas, step by step, in plain NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from timelike.config import TrainingConfig
from timelike.optimisers import make_optimiser

RATE, STEPS, EPSILON = 0.05, 6, 1e-3  # an epsilon that can be seen


def adam(w, gradients, epsilon_hat):
    m = v = np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if epsilon_hat:
            rate = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            w = w - rate * m / (np.sqrt(v) + EPSILON)
        else:
            w = w - RATE * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + EPSILON)
    return w


def rmsprop(w, gradients, in_root):
    v = b = np.zeros_like(w)
    for g in gradients:
        v = 0.9 * v + 0.1 * g * g
        b = 0.3 * b + g / (np.sqrt(v + EPSILON) if in_root else np.sqrt(v) + EPSILON)
        w = w - RATE * b
    return w


def adagrad(w, gradients, in_root):
    v = np.zeros_like(w)
    for g in gradients:
        v = v + g * g
        w = w - RATE * g / (np.sqrt(v + EPSILON) if in_root else np.sqrt(v) + EPSILON)
    return w


def adadelta(w, gradients):
    v = u = np.zeros_like(w)
    for g in gradients:
        v = 0.95 * v + 0.05 * g * g
        step = np.sqrt(u + EPSILON) / np.sqrt(v + EPSILON) * g
        u = 0.95 * u + 0.05 * step * step
        w = w - RATE * step
    return w


def sgd(w, gradients):
    b = np.zeros_like(w)
    for g in gradients:
        b = 0.3 * b + g
        w = w - RATE * b
    return w


CASES = {
    "adam": ({}, lambda w, g: adam(w, g, False)),
    "adam, epsilon hat": ({"epsilon_hat": True}, lambda w, g: adam(w, g, True)),
    "rmsprop": ({"alpha": 0.9, "momentum": 0.3}, lambda w, g: rmsprop(w, g, False)),
    "rmsprop, in root": (
        {"alpha": 0.9, "momentum": 0.3, "epsilon_in_root": True},
        lambda w, g: rmsprop(w, g, True),
    ),
    "adagrad": ({}, lambda w, g: adagrad(w, g, False)),
    "adagrad, in root": ({"epsilon_in_root": True}, lambda w, g: adagrad(w, g, True)),
    "adadelta": ({"rho": 0.95}, adadelta),
    "sgd": ({"momentum": 0.3}, sgd),
}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_formula(name: str) -> None:
    options, expected = CASES[name]
    optimiser = {"name": name.partition(",")[0], "learning_rate": RATE, **options}
    if name != "sgd":
        optimiser["epsilon"] = EPSILON
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(STEPS, 3, 4)) * 0.1
    layer = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    start = layer.weight.detach().numpy().copy()
    stepper = make_optimiser(layer, TrainingConfig.model_validate_json(json.dumps({"optimiser": optimiser})))
    for g in gradients:
        stepper.gather([torch.from_numpy(g)])
        stepper.step()
    moved = layer.weight.detach().numpy() - start
    # Numbers of order 1, some ten roundings for each of 6 steps.
    assert np.abs(moved - (expected(start, gradients) - start)).max() <= 1e-14
    assert np.abs(moved).min() > 1e-4


@pytest.mark.parametrize("name", ["rmsprop", "adagrad"])
def test_weight_decay_adds_to_the_gradient(name: str) -> None:
    def weight_after(decay: float, gradient: float) -> float:
        layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(layer.weight, 2.0)
        given = {"name": name, "epsilon_in_root": True, "weight_decay": decay}
        stepper = make_optimiser(layer, TrainingConfig.model_validate_json(json.dumps({"optimiser": given})))
        for _ in range(2):
            stepper.gather([torch.full((1, 1), gradient, dtype=torch.float64)])
            stepper.step()
        return layer.weight.item()

    def by_hand(decay: float, gradient: float) -> float:
        w, v = 2.0, 0.0
        rate, alpha, epsilon = (0.001, 0.99, 1e-8) if name == "rmsprop" else (0.01, None, 1e-10)
        for _ in range(2):
            g = gradient + decay * w
            v = v + g * g if alpha is None else alpha * v + (1 - alpha) * g * g
            w -= rate * g / np.sqrt(v + epsilon)
        return w

    assert weight_after(0.1, 0.3) == pytest.approx(by_hand(0.1, 0.3), rel=1e-14)
    assert weight_after(0.1, 0.3) != weight_after(0.0, 0.3)


def test_a_state_goes_on_where_it_was_left() -> None:
    options = {"name": "adam", "epsilon_hat": True, "epsilon": EPSILON}
    config = TrainingConfig.model_validate_json(json.dumps({"optimiser": options}))
    gradients = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))

    def run(layer, steps, state=None):
        stepper = make_optimiser(layer, config)
        if state is not None:
            stepper.torch.load_state_dict(state)
        for g in steps:
            stepper.gather([g])
            stepper.step()
        return stepper.torch.state_dict()

    whole, parts = (nn.Linear(3, 2, bias=False) for _ in range(2))
    parts.load_state_dict(whole.state_dict())
    run(whole, gradients)
    run(parts, gradients[2:], run(parts, gradients[:2]))
    assert torch.equal(whole.weight, parts.weight)
