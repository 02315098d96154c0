"""The composition of PyTorch's own operations: held to the reference, and differentiable twice."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from timelike import reference
from timelike.composition import composition
from timelike.kernels import Rows

F64 = torch.float64
D, H = 3, 4
LENGTHS = [4, 0, 1, 6, 4, 0, 3]
# Two evaluations of the same sums in another order, over six steps, with torch's own exp and tanh.
TOLERANCE = 1e-13

# kernel's cell, biases -> cell of the reference
CASES = {name: (name, 2) for name in reference.CELLS if name != "gru_single_bias"}
CASES |= {
    "gru_single_bias": ("gru", 1),
    "lstm without bias": ("lstm", 0),
    "peephole without": ("lstm_peephole", 0),
}
CASES |= {"projected with one": ("lstm_projected", 1), "reset before with one": ("gru_reset_before", 1)}


def law_of(case):
    """The cell of the reference that judges a case."""
    return case if case in reference.CELLS else CASES[case][0]


def draw(case, *, seed=1):
    """Weights of one direction, by name, in the order of the layer."""
    rng = np.random.default_rng(seed)
    law, n_biases = reference.CELLS[law_of(case)], CASES[case][1]
    GH, R = len(law.gates) * H, H - 2 * law.has_projection
    weights = {"W": rng.normal(size=(GH, D)), "U": rng.normal(size=(GH, R))}
    weights |= {name: rng.normal(size=GH) for name in ("b_ih", "b_hh")[:n_biases]}
    if law.has_peephole:
        weights["peephole"] = rng.normal(size=3 * H)
    if law.has_projection:
        weights["projection"] = rng.normal(size=(R, H))
    return weights


def leaf(array):
    return torch.tensor(array, dtype=F64, requires_grad=True)


def assert_close(got, expected, what):
    got = got.detach().numpy()
    assert got.shape == expected.shape, what
    assert np.isfinite(got).all(), what
    assert np.abs(got - expected).max(initial=0) <= TOLERANCE * np.abs(expected).max(initial=0), what


@pytest.mark.parametrize("with_states", [True, False])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, both, with_states):
    law, K, B, N = law_of(case), 1 + both, len(LENGTHS), sum(LENGTHS)
    has_c = reference.CELLS[law].has_cell_state
    directions = [draw(case, seed=k) for k in range(K)]
    R = directions[0]["U"].shape[1]
    rng = np.random.default_rng(7)
    offsets = np.cumsum([0, *LENGTHS])
    x = rng.normal(size=(N, D))
    h0, c0 = (rng.normal(size=(K, B, size)) if with_states else None for size in (R, H))
    dy, dhT, dcT = (rng.normal(size=shape) for shape in ((N, K * R), (K, B, R), (K, B, H)))

    leaves = {"x": leaf(x)}
    leaves |= {"h0": leaf(h0)} | ({"c0": leaf(c0)} if has_c else {}) if with_states else {}
    weights = [leaf(w) for p in directions for w in p.values()]
    y, hT, cT = composition(
        CASES[case][0], Rows.ragged(offsets), K, leaves["x"], leaves.get("h0"), leaves.get("c0"), *weights
    )
    outputs, upstream = [y, hT, *([cT] if has_c else [])], [dy, dhT, *([dcT] if has_c else [])]
    assert (cT is not None) == has_c
    gradients = torch.autograd.grad(
        outputs, (*leaves.values(), *weights), [torch.tensor(d) for d in upstream]
    )
    found = dict(zip(leaves, gradients, strict=False))

    dx = np.zeros_like(x)
    for k, p in enumerate(directions):
        states = ({"h0": h0[k]} | ({"c0": c0[k]} if has_c else {})) if with_states else {}
        run = reference.forward(law, x, offsets, **p, **states, reverse=k == 1)
        back = reference.backward(law, run, dy[:, k * R : (k + 1) * R], dhT[k], dcT[k] if has_c else None)
        assert_close(y[:, k * R : (k + 1) * R], run.y, "y")
        assert_close(hT[k], run.h_T, "hT")
        if has_c:
            assert_close(cT[k], run.c_T, "cT")
        for name in states:
            assert_close(found[name][k], getattr(back, "d" + name), "d" + name)
        d_weights = gradients[len(leaves) + k * len(p) : len(leaves) + (k + 1) * len(p)]
        for name, d in zip(p, d_weights, strict=True):
            assert_close(d, getattr(back, "d" + name), "d" + name)
        dx += back.dx
    assert_close(found["x"], dx, "dx")


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_derivatives(case):
    p = draw(case)
    rows = Rows.packed([3, 2, 2])
    inputs = [leaf(np.random.default_rng(3).normal(size=(7, D))), *map(leaf, p.values())]

    def run(x, *weights):
        y, hT, cT = composition(CASES[case][0], rows, 1, x, None, None, *weights)
        return y, hT, *(() if cT is None else (cT,))

    assert gradcheck(run, inputs, fast_mode=True)
    assert gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("layout", ["time-major", "batch-major", "gaps", "index"])
def test_rows_are_found_in_every_layout_and_those_of_no_step_are_zero(layout):
    rows = {
        "time-major": Rows.time_major(3, 2),
        "batch-major": Rows.batch_major(2, 3),
        "gaps": Rows([1, 5], np.arange(3), [3, 2], 9),
        "index": Rows.indexed([6, 0, 5, 2], [0, 1, 4], 8),
    }[layout]
    x = torch.randn(rows.n_rows, D, dtype=F64, generator=torch.Generator().manual_seed(1))
    p = [torch.tensor(w) for w in draw("gru").values()]
    y, hT, _ = composition("gru", rows, 2, x, None, None, *p, *p)
    used = np.zeros(rows.n_rows, bool)
    for b, (start, n) in enumerate(zip(rows.start, rows.lengths, strict=True)):
        at = start + rows.step[:n] if rows.index is None else rows.index[start : start + n].copy()
        used[at] = True
        for k in range(2):
            run = reference.forward("gru", x[at].numpy(), [0, n], *(w.numpy() for w in p), reverse=k == 1)
            assert_close(y[at, k * H : (k + 1) * H], run.y, "y")
            assert_close(hT[k, b : b + 1], run.h_T, "hT")
    assert not y[~torch.tensor(used)].any()


def test_a_batch_without_steps_hands_its_states_on():
    p = [torch.tensor(w) for w in draw("lstm").values()]
    h0, c0 = leaf(np.ones((1, 2, H))), leaf(np.full((1, 2, H), 2.0))
    y, hT, cT = composition("lstm", Rows.ragged([0, 0, 0]), 1, torch.empty(0, D, dtype=F64), h0, c0, *p)
    assert y.shape == (0, H)
    assert torch.equal(hT, h0)
    assert torch.equal(cT, c0)
