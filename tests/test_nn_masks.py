"""Masks of padded tensors: what they leave out is not there, neither in the walk nor in the gradients."""

import pytest
import torch

from layer_cases import (
    F32,
    F64,
    KINDS,
    assert_same_bits,
    everything,
    flat,
    layer,
    leaf,
    new_memory_full_of_nan,
    normal,
    pair,
    state_sizes,
    states,
)
from timelike.nn import Ragged

T, B, D, H = 9, 6, 5, 7


def mask_of(kind):
    """A mask [B, T], with a sequence without steps and one with all of them."""
    lengths = torch.tensor([4, 0, 9, 1, 7, 9])
    at = torch.arange(T)
    if kind == "right padding":
        return at < lengths[:, None]
    if kind == "left padding":
        return at >= T - lengths[:, None]
    if kind == "padding at both ends":
        return (at >= 2) & (at < lengths[:, None])
    if kind == "holes":
        holes = normal(B, T, seed=5) > -0.3
        holes[1], holes[2] = False, True
        return holes
    return {"all": torch.ones(B, T, dtype=torch.bool), "none": torch.zeros(B, T, dtype=torch.bool)}[kind]


MASKS = ["right padding", "left padding", "padding at both ends", "holes", "all", "none"]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("there", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_batch_is_a_ragged_one(kind, there, batch_first):
    dtype = F32 if kind in ("lstm", "gru") else F64
    module = layer(kind, D, H, 2, bidirectional=True, batch_first=batch_first, dtype=dtype)
    mask = mask_of(there)
    at = mask if batch_first else mask.T

    def arranged(x):  # [B, T, ...] as the layer takes it, or back
        return x if batch_first else x.transpose(0, 1).contiguous()

    x = normal(B, T, D, seed=1, dtype=dtype)
    x[~mask] = torch.nan  # never looked at
    hx = states(kind, 4, B, H=H, dtype=dtype)
    width = 2 * state_sizes(kind, H)[0]
    upstream = normal(B, T, width, seed=4, dtype=dtype)
    upstream[~mask] = torch.nan
    d_last = [normal(*s.shape, seed=6 + k, dtype=dtype) for k, s in enumerate(flat(hx))]

    padded = leaf(arranged(x))
    with new_memory_full_of_nan():
        y, last = module(padded, hx, mask=at)
        leaves = (padded, *flat(hx), *module.parameters())
        got = torch.autograd.grad((y, *flat(last)), leaves, (arranged(upstream), *d_last))
    assert y.shape == (*padded.shape[:2], width)
    assert y.is_contiguous()

    rows = leaf(x[mask])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])
    ragged, ragged_last = module(Ragged(rows, offsets), hx)
    outputs = (ragged.values, *flat(ragged_last))
    expected = torch.autograd.grad(outputs, (rows, *leaves[1:]), (upstream[mask], *d_last))
    for name, of_padded, of_ragged in [("y", y, ragged.values), ("dx", got[0], expected[0])]:
        assert_same_bits(arranged(of_padded.detach())[mask], of_ragged.detach(), name)
        assert not arranged(of_padded.detach())[~mask].any(), name
    for of_padded, of_ragged in zip((*flat(last), *got[1:]), (*outputs[1:], *expected[1:]), strict=True):
        assert_same_bits(of_padded, of_ragged)


@pytest.mark.parametrize("kind", ["right padding", "left padding"])
def test_padding_is_not_copied_away(kind):
    _, lstm = pair(D, H)
    x = leaf(normal(T, B, D, seed=1))
    y, _ = lstm(x, mask=mask_of(kind).T)
    assert any(t is not None and t.data_ptr() == x.data_ptr() for t in y.grad_fn.saved_tensors)


def test_a_full_mask_is_none():
    _, lstm = pair(D, H, bidirectional=True)
    x = normal(T, B, D, seed=1)
    hx = normal(2, B, H, seed=2), normal(2, B, H, seed=3)
    masked = everything(lstm, x, hx, mask=torch.ones(T, B, dtype=torch.bool))
    plain = everything(lstm, x, hx)
    for name, got in masked.items():
        assert_same_bits(got, plain[name], name)


@pytest.mark.parametrize("holes", [False, True])
def test_unbatched_input_has_a_mask_of_one_axis(holes):
    _, lstm = pair(D, H)
    x, mask = normal(T, D, seed=1), torch.arange(T) > 2
    mask[5] = not holes
    y, (h, c) = lstm(x, mask=mask)
    expected, (h_alone, c_alone) = lstm(x[mask])
    assert_same_bits(y[mask], expected)
    assert not y[~mask].any()
    assert_same_bits(h, h_alone)
    assert_same_bits(c, c_alone)


@pytest.mark.parametrize("holes", [False, True])
def test_a_mask_that_changes_before_backward_does_not_matter(holes):
    _, lstm = pair(D, H)
    x, mask = leaf(normal(T, B, D, seed=1)), mask_of("holes" if holes else "left padding").T.contiguous()
    y, _ = lstm(x, mask=mask)
    expected = torch.autograd.grad(y, x, normal(T, B, H, seed=2), retain_graph=True)[0]
    mask.logical_not_()
    assert_same_bits(torch.autograd.grad(y, x, normal(T, B, H, seed=2))[0], expected)


@pytest.mark.parametrize("kind", ["holes", "left padding"])
def test_gradients_through_a_mask_pass_gradcheck(kind):
    _, lstm = pair(2, 3)
    mask = mask_of(kind)[:, :4]
    lstm.batch_first = True
    point = leaf(normal(B, 4, 2, seed=1))

    def run(x):
        y, last = lstm(x, mask=mask)
        return y, *last

    assert torch.autograd.gradcheck(run, point, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, point, fast_mode=True)
