"""Gradients of a plain network without autograd: those of autograd to the bit; other networks go by it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from timelike.backpropagation import Chain, by_autograd
from timelike.batches import Batch
from timelike.config import NetworkConfig, TrainingConfig
from timelike.losses import LOSSES
from timelike.network import Network
from timelike.nn import Ragged
from timelike.trainingstep import TrainingStep

LENGTHS = [4, 0, 7, 1, 3, 9, 2]
STACKS: dict[str, list[dict[str, Any]]] = {
    "lstm": [{"cell": "lstm", "units": 33}],
    "gru, both directions, and a projection": [
        {"cell": "gru", "units": 5, "bidirectional": True},
        {"cell": "lstm", "units": 4, "projection": 2, "bidirectional": True},
    ],
    "rnn without its second bias, and peepholes": [
        {"cell": "rnn_relu", "units": 7, "inner_bias": False},
        {"cell": "lstm", "units": 6, "peephole": True},
    ],
    "none": [],
}
HEADS: dict[str, dict[str, Any]] = {
    "one layer": {"units": ()},
    "relu": {"units": (8,), "activation": ("relu",)},
    "tanh, sigmoid": {"units": (8, 5), "activation": ("tanh", "sigmoid"), "dropout": 0.3},
    "linear, gauss, elu": {"units": (4, 70, 3), "activation": ("linear", "gauss", "elu")},
}


def network(stack: str = "lstm", head: str = "relu", pooling: str = "last", **more: Any) -> Network:
    torch.manual_seed(1)
    dtype = more.pop("dtype", torch.float32)
    given = {"recurrent": STACKS[stack], "pooling": pooling, "head": HEADS[head] | more}
    if pooling == "flatten":
        given["steps"] = 4
    if len(STACKS[stack]) > 1:
        given["dropout"] = 0.2
    made = Network(NetworkConfig.model_validate_json(json.dumps(given)), 5, 3, dtype=dtype)
    return made.train()


def a_batch(net: Network, targets: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor(LENGTHS if net.config.steps is None else [net.config.steps] * 7)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    n_rows, dtype = int(offsets[-1]), next(net.parameters()).dtype
    n = n_rows if net.per_step else len(lengths)
    rows = Ragged(torch.randn(n_rows, 5, generator=generator, dtype=dtype), offsets)
    answers = (
        torch.rand(n, 3, generator=generator, dtype=dtype)
        if targets
        else torch.randint(0, 2 if net.sigmoid else 3, (n,), generator=generator)
    )
    return Batch(rows, answers, torch.randn(n, generator=generator, dtype=dtype))


def same(net: Network, batch: Batch, loss: Any) -> None:
    assert Chain.is_plain(net)
    places = [torch.full_like(p, torch.nan) for p in net.parameters() if p.requires_grad]
    chain = Chain(net, loss, places)
    for _ in range(2):  # the second time with what was left of the first
        torch.manual_seed(2)  # of dropout
        mine = chain(batch)
        torch.manual_seed(2)
        expected, gradients = by_autograd(net, batch, loss)
        assert torch.equal(mine, expected)
        assert mine.isfinite()
        for place, g in zip(places, gradients, strict=True):
            assert torch.equal(place, torch.zeros_like(place) if g is None else g)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "flatten", "none"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stack", STACKS)
def test_the_chain_gives_what_autograd_gives(stack: str, head: str, pooling: str) -> None:
    if stack == "none" and pooling == "last":
        pytest.skip("there is no last state")
    for dtype in (torch.float32, torch.float64):
        net = network(stack, head, pooling, dtype=dtype)
        same(net, a_batch(net), LOSSES["cross_entropy"])


@pytest.mark.parametrize("name", LOSSES)
def test_with_every_loss(name: str) -> None:
    net = network()
    same(net, a_batch(net, targets=name in ("huber", "poisson")), LOSSES[name])


def test_with_one_score_for_two_classes() -> None:
    net = network(output="sigmoid")
    same(net, a_batch(net), LOSSES["cross_entropy"])


def normed(_net: Network) -> Network:
    return network(batch_norm={"before": (0,)})


def penalised(net: Network) -> Network:
    return net


def hooked(net: Network) -> Network:
    net.head[0].register_forward_hook(lambda _layer, _given, y: 2 * y)
    return net


def frozen(net: Network) -> Network:
    net.head[0].weight.requires_grad_(False)
    return net


def parametrised(net: Network) -> Network:
    nn.utils.parametrizations.weight_norm(net.head[0])
    return net


def derived(net: Network) -> Network:
    class Doubled(Network):
        def forward(self, batch: Ragged) -> torch.Tensor:
            return 2 * super().forward(batch)

    net.__class__ = Doubled
    return net


@pytest.mark.parametrize("change", [penalised, normed, hooked, frozen, parametrised, derived])
def test_what_is_not_plain_goes_by_autograd(change: Any) -> None:
    given: dict[str, Any] = {"optimiser": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0}}
    given |= {"clip_norm": None}
    if change is penalised:
        given["regularisation"] = {"name": "l2", "strength": 0.1}
    config = TrainingConfig.model_validate_json(json.dumps(given))
    net, other = change(network()), change(network())
    before = [p.detach().clone() for p in net.parameters()]
    batch = a_batch(net)
    loss = TrainingStep(net, config).take(batch)
    value = LOSSES["cross_entropy"](other(batch.rows), batch.labels, batch.weights)
    if change is penalised:
        value = value + 0.1 * sum(p.square().sum() for p in other.parameters() if p.ndim > 1)
    value.backward()
    assert loss == pytest.approx(value.item(), rel=1e-6)
    for p, q, was in zip(net.parameters(), other.parameters(), before, strict=True):
        expected = was if q.grad is None else was - 0.1 * q.grad
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)
    assert sum(not torch.equal(p, was) for p, was in zip(net.parameters(), before, strict=True)) >= 6
