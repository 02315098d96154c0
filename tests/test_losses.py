"""Losses by hand, stable where their definitions are not, and the gradients of regularisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from timelike.config import HeadConfig, RegularisationConfig, TrainingConfig
from timelike.config.task import LOSSES_OF
from timelike.losses import loss_of, penalty
from timelike.nn import LSTM

SCORES = [[0.3, -1.2, 2.0], [0.0, 0.5, -0.5]]
LABELS, WEIGHTS = [2, 0], [1.5, -0.5]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(name: str, scores: list[float], label: int) -> float:
    targets = [float(k == label) for k in range(len(scores))]
    if name == "cross_entropy":
        return -math.log(math.exp(scores[label]) / sum(map(math.exp, scores)))
    if name == "squared_error":
        return float(np.mean([(s - t) ** 2 for s, t in zip(scores, targets, strict=True)]))
    if name == "huber":
        away = [abs(s - t) for s, t in zip(scores, targets, strict=True)]
        return float(np.mean([a - 0.5 if a > 1 else a * a / 2 for a in away]))
    pairs = zip(scores, targets, strict=True)
    return -float(np.mean([t * math.log(sigmoid(s)) + (1 - t) * math.log(1 - sigmoid(s)) for s, t in pairs]))


def given(scores: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(LABELS),
        torch.tensor(WEIGHTS, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", LOSSES_OF["classes"])
def test_losses_by_hand(name: str) -> None:
    expected = sum(
        w * by_hand(name, s, label) for s, label, w in zip(SCORES, LABELS, WEIGHTS, strict=True)
    ) / len(SCORES)
    got = loss_of(TrainingConfig(loss=name), HeadConfig())(*given(SCORES))
    assert math.isclose(got.item(), expected, rel_tol=1e-14)


@pytest.mark.parametrize("name", LOSSES_OF["classes"])
def test_of_one_score_for_two_classes_the_losses_are_of_its_sigmoid(name: str) -> None:
    scores, labels, weights = given([[0.0, 0.7], [0.0, -1.1]])
    labels = torch.tensor([1, 0])
    got = loss_of(TrainingConfig(loss=name), HeadConfig(output="sigmoid"))(scores, labels, weights).item()
    if name == "squared_error":
        expected = (1.5 * (0.7 - 1) ** 2 - 0.5 * 1.1**2) / 2
    elif name == "huber":
        expected = (1.5 * (0.7 - 1) ** 2 / 2 - 0.5 * (1.1 - 0.5)) / 2
    else:
        expected = (-1.5 * math.log(sigmoid(0.7)) + 0.5 * math.log(1 - sigmoid(-1.1))) / 2
    assert math.isclose(got, expected, rel_tol=1e-14)


@pytest.mark.parametrize("name", ["cross_entropy", "sigmoid_cross_entropy"])
@pytest.mark.parametrize("one", [False, True])
def test_scores_far_out_give_finite_losses_and_gradients(name: str, one: bool) -> None:
    far = torch.tensor([[0.0, -500.0], [0.0, 500.0]], requires_grad=True)  # both on the wrong side
    loss = loss_of(TrainingConfig(loss=name), HeadConfig(output="sigmoid" if one else "softmax"))(
        far, torch.tensor([1, 0]), torch.ones(2)
    )
    # 500 for each event; the plain sum over two scores of which one is right
    assert loss.item() == pytest.approx(500.0 if name == "cross_entropy" or one else 250.0, abs=1.0)
    loss.backward()
    assert far.grad.isfinite().all()
    assert far.grad[:, 1].abs().min() > 0.2


@pytest.mark.parametrize(("name", "slope"), [("l2", lambda w: 2 * w), ("l1", torch.sign)])
def test_regularisation_reaches_all_weights_and_no_biases(name: str, slope) -> None:
    torch.manual_seed(1)
    net = torch.nn.ModuleList([LSTM(3, 4, bidirectional=True), torch.nn.Linear(8, 2)])
    found = penalty(net, RegularisationConfig(name=name, strength=0.01))
    weights = [p for p in net.parameters() if p.ndim == 2]
    assert len(weights) == 5
    size = sum(float((p.detach() ** 2 if name == "l2" else p.detach().abs()).sum()) for p in weights)
    assert found.item() == pytest.approx(0.01 * size, rel=1e-5)
    found.backward()
    for p in net.parameters():
        if p.ndim == 2:
            torch.testing.assert_close(p.grad, 0.01 * slope(p.detach()), rtol=1e-6, atol=0)
        else:
            assert p.grad is None
