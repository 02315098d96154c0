"""The reference against finite differences, PyTorch in float64, retyped equations, and numbers in print."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from timelike import reference
from timelike.errors import ConfigError, DataError

CELLS = list(reference.CELLS)
EPS = np.finfo(np.float64).eps

# Central differences D(s) of step s err by c2 s^2 + c4 s^4 + ...; (4 D(s/2) - D(s)) / 3 has no s^2 term.
# At s = 2^-10 there remain s^4 L'''''/480 = 2e-15 L''''' and rounding, about 10 EPS |L| / s = 2e-12 |L|. Here
# |L| is about 10 and the fifth derivatives L''''' are at most 2e4 max|dL| (peepholes; 400 elsewhere), so that
# 6e-11 max|dL| is expected at most; 1e-9 leaves room for other seeds, and a wrong formula errs by order 1.
DIFFERENCE_STEP = 2.0**-10
DIFFERENCE_TOLERANCE = 1e-9
# Two evaluations of the same sums in another order, each fewer than 100 roundings deep (4e-16 is seen).
ROUNDING_TOLERANCE = 100 * EPS
# As before, with torch's own exp and tanh, over twelve steps (1e-15 is seen).
TORCH_TOLERANCE = 1e-12


def assert_close(got, want, tolerance):
    """Compare relative to the largest wanted value; NaN fails."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.isfinite(want).all()
    assert np.all(np.abs(got - want) <= tolerance * np.abs(want).max(initial=0.0))


def draw_layer(name, *, lengths=(4, 1, 0, 3), D=3, H=4, seed=0):
    """Draw arguments of `reference.forward` and N(0,1) upstream gradients for a ragged batch."""
    rng = np.random.default_rng(seed)
    cell = reference.CELLS[name]
    N, B, GH, P = sum(lengths), len(lengths), len(cell.gates) * H, H - cell.has_projection
    layer = {
        "x": rng.normal(size=(N, D)),
        "offsets": np.cumsum([0, *lengths]),
        "W": rng.normal(size=(GH, D)) / 2,
        "U": rng.normal(size=(GH, P)) / 2,
        "b_ih": rng.normal(size=GH) / 2,
        "h0": rng.normal(size=(B, P)),
    }
    if cell.has_b_hh:
        layer["b_hh"] = rng.normal(size=GH) / 2
    if cell.has_peephole:
        layer["peephole"] = rng.normal(size=3 * H)
    if cell.has_projection:
        layer["projection"] = rng.normal(size=(P, H))
    upstream = {"dy": rng.normal(size=(N, P)), "dh_T": rng.normal(size=(B, P))}
    if cell.has_cell_state:
        layer["c0"] = rng.normal(size=(B, H))
        upstream["dc_T"] = rng.normal(size=(B, H))
    return layer, upstream


def loss(run, upstream):
    """Give a scalar whose gradients with respect to y, h_T and c_T are the upstream gradients."""
    total = np.sum(run.y * upstream["dy"]) + np.sum(run.h_T * upstream["dh_T"])
    return total + np.sum(run.c_T * upstream["dc_T"]) if "dc_T" in upstream else total


def differences(function, array):
    """Derivative of a scalar function by each element of the array, by Richardson's central differences."""

    def central(index, step):
        plus, minus = array.copy(), array.copy()
        plus[index] += step
        minus[index] -= step
        return (function(plus) - function(minus)) / (2 * step)

    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        wide, narrow = central(index, DIFFERENCE_STEP), central(index, DIFFERENCE_STEP / 2)
        gradient[index] = (4 * narrow - wide) / 3
    return gradient


def gradient_of(gradients, argument):
    return getattr(gradients, "d" + argument)


def run_smoothly(name, layer, *, reverse=False, like=None):
    """Run forward; a rectifier must stay on the side of its kink on which `like` has it."""
    run = reference.forward(name, **layer, reverse=reverse)
    if name == "rnn_relu" and like is not None:
        assert np.array_equal(run.gates > 0, like.gates > 0), "a difference crosses the kink: choose a seed"
    return run


# ---------------------------------------------------------------------------------- finite differences


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_all_arguments_are_the_derivatives_of_the_loss(name, reverse):
    layer, upstream = draw_layer(name, D=2, H=3)
    run = reference.forward(name, **layer, reverse=reverse)
    gradients = reference.backward(name, run, **upstream)
    for argument in layer.keys() - {"offsets"}:

        def of_argument(values, argument=argument):
            varied = run_smoothly(name, {**layer, argument: values}, reverse=reverse, like=run)
            return loss(varied, upstream)

        want = differences(of_argument, layer[argument])
        assert_close(gradient_of(gradients, argument), want, DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("name", CELLS)
def test_dgates_are_the_derivatives_by_the_pre_activations_of_every_step(name):
    # G*H further inputs, each added to one pre-activation with weight 1, vary them one step at a time.
    layer, upstream = draw_layer(name, D=2, H=3)
    D, GH = layer["x"].shape[1], len(layer["W"])
    layer["x"] = np.hstack([layer["x"], np.zeros((len(layer["x"]), GH))])
    layer["W"] = np.hstack([layer["W"], np.eye(GH)])
    run = reference.forward(name, **layer)

    def of_pre_activations(added):
        x = np.hstack([layer["x"][:, :D], added])
        return loss(run_smoothly(name, {**layer, "x": x}, like=run), upstream)

    want = differences(of_pre_activations, layer["x"][:, D:])
    assert_close(reference.backward(name, run, **upstream).dgates, want, DIFFERENCE_TOLERANCE)


@pytest.mark.parametrize("name", CELLS)
def test_dgates_are_the_gradients_of_the_gate_values_times_the_slopes(name):
    layer, upstream = draw_layer(name, D=2, H=3)
    run = reference.forward(name, **layer)
    gradients = reference.backward(name, run, **upstream)
    slopes = {letter: lambda v: v * (1 - v) for letter in "iforz"}
    slopes |= {letter: lambda v: 1 - v**2 for letter in "gn"}
    slopes["h"] = (lambda v: v > 0) if name == "rnn_relu" else (lambda v: 1 - v**2)
    slope = np.hstack([slopes[letter](run.gate(letter)) for letter in run.cell.gates])
    assert_close(gradients.dgate_values * slope, gradients.dgates, ROUNDING_TOLERANCE)


@pytest.mark.parametrize("name", CELLS)
def test_dh_and_dc_are_the_derivatives_by_the_states_of_every_step(name):
    # What comes after step t depends on the past through h_t and c_t alone: vary these as its initial states.
    layer, upstream = draw_layer(name, lengths=(5,), D=2, H=3)
    run = reference.forward(name, **layer)
    gradients = reference.backward(name, run, **upstream)
    for t in range(5):
        rest = {**layer, "x": layer["x"][t + 1 :], "offsets": [0, 4 - t]}
        rest_upstream = {**upstream, "dy": upstream["dy"][t + 1 :]}

        def of_states(h, c, t=t, rest=rest, rest_upstream=rest_upstream):
            states = {"h0": h} if c is None else {"h0": h, "c0": c}
            after = reference.forward(name, **{**rest, **states})
            return upstream["dy"][t] @ h[0] + loss(after, rest_upstream)

        h, c = run.y[t : t + 1], None if run.c is None else run.c[t : t + 1]
        want = differences(lambda h, c=c, of=of_states: of(h, c), h)
        assert_close(gradients.dh[t : t + 1], want, DIFFERENCE_TOLERANCE)
        if c is not None:
            of_c = partial(h_of_c, layer, run, t)  # c_t acts through h_t, too
            want = differences(lambda c, of_c=of_c, of=of_states: of(of_c(c), c), c)
            assert_close(gradients.dc[t : t + 1], want, DIFFERENCE_TOLERANCE)


def h_of_c(layer, run, t, c):
    """Give the hidden state of step t as a function of its cell state."""
    o = run.gate("o")[t]
    if "peephole" in layer:
        p_o = np.split(layer["peephole"], 3)[2]
        o = expit(logit(o) + p_o * (c - run.c[t]))
    m = o * np.tanh(c)
    return m @ layer["projection"].T if "projection" in layer else m


# --------------------------------------------------------------------------------------------- PyTorch

TORCH_LAYERS = {
    "rnn_tanh": lambda D, H: torch.nn.RNN(D, H, nonlinearity="tanh", dtype=torch.float64),
    "rnn_relu": lambda D, H: torch.nn.RNN(D, H, nonlinearity="relu", dtype=torch.float64),
    "lstm": lambda D, H: torch.nn.LSTM(D, H, dtype=torch.float64),
    "lstm_projected": lambda D, H: torch.nn.LSTM(D, H, proj_size=H - 1, dtype=torch.float64),
    "gru": lambda D, H: torch.nn.GRU(D, H, dtype=torch.float64),
}
TORCH_NAMES = {
    "W": "weight_ih_l0",
    "U": "weight_hh_l0",
    "b_ih": "bias_ih_l0",
    "b_hh": "bias_hh_l0",
    "projection": "weight_hr_l0",
}


def run_torch(name, layer, upstream, *, reverse):
    """Run torch and its autograd over each sequence alone; the results bear the names of the reference."""
    D, H = layer["x"].shape[1], len(layer["W"]) // len(reference.CELLS[name].gates)
    module = TORCH_LAYERS[name](D, H)
    names = {key: TORCH_NAMES[key] for key in layer if key in TORCH_NAMES}
    module.load_state_dict({name: torch.tensor(layer[key]) for key, name in names.items()})
    x, h0, c0 = (
        torch.tensor(layer[key], requires_grad=True) if key in layer else None for key in ("x", "h0", "c0")
    )
    dy, dh_T, dc_T = (
        torch.tensor(upstream[key]) if key in upstream else None for key in ("dy", "dh_T", "dc_T")
    )
    y, h_T, c_T = torch.zeros_like(dy), torch.zeros_like(dh_T), torch.zeros(len(dh_T), H, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for b, (start, stop) in enumerate(zip(layer["offsets"], layer["offsets"][1:], strict=False)):
        rows = np.arange(start, stop)[::-1].copy() if reverse else np.arange(start, stop)
        h, c, out = h0[b : b + 1], None if c0 is None else c0[b : b + 1], dy[rows]
        if len(rows) and c is not None:
            out, (h, c) = module(x[rows], (h, c))
        elif len(rows):
            out, h = module(x[rows], h)
        y[rows], h_T[b] = out.detach(), h.detach()[0]
        total = total + (out * dy[rows]).sum() + (h[0] * dh_T[b]).sum()
        if c is not None:
            c_T[b] = c.detach()[0]
            total = total + (c[0] * dc_T[b]).sum()
    total.backward()
    results = {"y": y, "h_T": h_T, "dx": x.grad, "dh0": h0.grad}
    results |= {"d" + key: getattr(module, name).grad for key, name in names.items()}
    return results if c0 is None else {**results, "c_T": c_T, "dc0": c0.grad}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", TORCH_LAYERS)
def test_equals_torch_in_float64(name, reverse):
    layer, upstream = draw_layer(name, lengths=(7, 1, 0, 12, 3), D=5, H=6, seed=1)
    run = reference.forward(name, **layer, reverse=reverse)
    gradients = reference.backward(name, run, **upstream)
    got = vars(run) | vars(gradients)
    for key, want in run_torch(name, layer, upstream, reverse=reverse).items():
        assert_close(got[key], want.numpy(), TORCH_TOLERANCE)


# ---------------------------------------------------------------------------------- equations, retyped


def gru_single_bias_step(x, h, c, W, U, b_ih):
    r, z = expit(W[:2] @ x + U[:2] @ h + b_ih[:2])
    n = np.tanh(W[2] @ x + r * (U[2] @ h) + b_ih[2])
    return (1 - z) * n + z * h, c


def gru_reset_before_step(x, h, c, W, U, b_ih, b_hh):
    r, z = expit(W[:2] @ x + U[:2] @ h + b_ih[:2] + b_hh[:2])
    n = np.tanh(W[2] @ x + U[2] @ (r * h) + b_ih[2] + b_hh[2])
    return (1 - z) * n + z * h, c


def lstm_peephole_step(x, h, c, W, U, b_ih, b_hh, peephole):
    i, f, g, o = W @ x + U @ h + b_ih + b_hh
    c_new = expit(f + peephole[1] * c) * c + expit(i + peephole[0] * c) * np.tanh(g)
    return expit(o + peephole[2] * c_new) * np.tanh(c_new), c_new


def lstm_coupled_step(x, h, c, W, U, b_ih, b_hh):
    i, g, o = W @ x + U @ h + b_ih + b_hh
    c = c + expit(i) * (np.tanh(g) - c)
    return expit(o) * np.tanh(c), c


@pytest.mark.parametrize(
    "step",
    [gru_single_bias_step, gru_reset_before_step, lstm_peephole_step, lstm_coupled_step],
    ids=lambda step: step.__name__.removesuffix("_step"),
)
def test_cells_that_torch_lacks_follow_their_equations(step):
    name, H = step.__name__.removesuffix("_step"), 4
    layer, _ = draw_layer(name, lengths=(6,), H=H)
    run = reference.forward(name, **layer)
    parameters = layer.keys() - {"x", "offsets", "h0", "c0"}
    # one block [H, ...] per gate
    blocks = {key: layer[key].reshape(-1, H, *layer[key].shape[1:]) for key in parameters}
    h, c = layer["h0"][0], layer["c0"][0] if "c0" in layer else None
    for t in range(6):
        h, c = step(layer["x"][t], h, c, **blocks)
        assert_close(run.y[t], h, ROUNDING_TOLERANCE)
        if c is not None:
            assert_close(run.c[t], c, ROUNDING_TOLERANCE)


def test_peepholes_of_zero_and_a_projection_of_one_change_nothing():
    layer, upstream = draw_layer("lstm")
    plain = reference.forward("lstm", **layer)
    dplain = reference.backward("lstm", plain, **upstream)
    for name, extra in [("lstm_peephole", {}), ("lstm_projected", {"projection": np.eye(4)})]:
        run = reference.forward(name, **layer, **extra)
        gradients = reference.backward(name, run, **upstream)
        np.testing.assert_array_equal(run.y, plain.y)
        np.testing.assert_array_equal(gradients.dx, dplain.dx)


def test_single_bias_gru_is_the_gru_of_torch_whose_second_bias_is_zero():
    layer, upstream = draw_layer("gru_single_bias")
    single, double = (reference.forward(name, **layer) for name in ("gru_single_bias", "gru"))
    np.testing.assert_array_equal(single.y, double.y)
    dsingle = reference.backward("gru_single_bias", single, **upstream)
    ddouble = reference.backward("gru", double, **upstream)
    np.testing.assert_array_equal(dsingle.dU, ddouble.dU)
    assert dsingle.db_hh is None
    assert np.any(ddouble.db_hh != 0)  # training would move that bias away from zero


def test_sigmoid_keeps_its_accuracy_in_both_tails_and_does_not_overflow():
    a = np.concatenate([np.linspace(-40, 40, 1001), [-700.0, 700.0, -1e300, 1e300, -np.inf, np.inf]])
    np.testing.assert_allclose(reference.sigmoid(a), expit(a), rtol=4 * EPS, atol=0)


# ------------------------------------------------------------------------------------ numbers in print


def assert_prints_as(values, text):
    """Compare to all the digits printed."""
    printed = text.split()
    decimals = [len(number.partition(".")[2]) for number in printed]
    # adding 0.0 turns -0.0 into 0.0
    got = [f"{value + 0.0:.{k}f}" for value, k in zip(np.ravel(values), decimals, strict=True)]
    assert got == printed


def test_worked_example_to_every_digit_in_print():
    """Compare a two-step LSTM of one unit with two inputs to numbers worked out by hand.

    A. Gomez, Backpropogating an LSTM: a numerical example (2016); digits beyond those in print there were
    computed in float64 and confirmed by central differences. That text stacks its gates as g i f o.
    """
    ifgo = [1, 2, 0, 3]  # rows of a g i f o stack, in the order i f g o
    gifo = [2, 0, 1, 3]  # and back
    W = np.array([[0.45, 0.25], [0.95, 0.8], [0.7, 0.45], [0.6, 0.4]])[ifgo]
    U = np.array([[0.15], [0.8], [0.1], [0.25]])[ifgo]
    b = np.array([0.2, 0.65, 0.15, 0.1])[ifgo]
    x, target = np.array([[1.0, 2.0], [0.5, 3.0]]), np.array([[0.5], [1.25]])

    run = reference.forward("lstm", x, [0, 2], W, U, b)
    assert_prints_as(run.gate("g"), "0.81775408 0.84980402")
    assert_prints_as(run.gate("i"), "0.96083428 0.98118397")
    assert_prints_as(run.gate("f"), "0.85195280 0.87030197")
    assert_prints_as(run.gate("o"), "0.81757448 0.84993334")
    assert_prints_as(run.c, "0.78572615 1.5176331")
    assert_prints_as(run.y, "0.53631340 0.77198111")
    assert np.sum((run.y - target) ** 2) / 2 == pytest.approx(0.11491036305861509, rel=8 * EPS, abs=0)

    gradients = reference.backward("lstm", run, dy=run.y - target)
    assert_prints_as(gradients.dh[1], "-0.47801889")
    assert_prints_as(gradients.dc[1], "-0.07110771")
    assert_prints_as(gradients.dgates[1][gifo], "-0.01938435 -0.00111561 -0.00630654 -0.05537783")
    assert_prints_as(gradients.dx[1], "-0.04742407 -0.03072765")
    assert_prints_as(U.T @ gradients.dgates[1], "-0.01827526")
    assert_prints_as(gradients.dh[0], "0.01803814")
    assert_prints_as(gradients.dc[0], "-0.05348368")
    assert_prints_as(gradients.dgates[0][gifo], "-0.01702404 -0.00164588 0.00000000 0.00176480")
    assert_prints_as(gradients.dx[0], "-0.00816553 -0.00486680")
    assert_prints_as(gradients.dh0, "-0.00342911")

    assert_prints_as(
        gradients.dW[gifo],
        "-0.02671622 -0.09220113 -0.00220369 -0.00663861 -0.00315327 -0.01891963 -0.02592411 -0.16260389",
    )
    assert_prints_as(gradients.dU[gifo], "-0.01039609 -0.00059832 -0.00338228 -0.02969987")
    assert_prints_as(gradients.db_ih[gifo], "-0.03640839 -0.00276150 -0.00630654 -0.05361303")
    np.testing.assert_array_equal(gradients.db_hh, gradients.db_ih)

    W, U, b = W - 0.1 * gradients.dW, U - 0.1 * gradients.dU, b - 0.1 * gradients.db_ih
    assert_prints_as(
        W[gifo], "0.45267162 0.25922011 0.95022037 0.80066386 0.70031533 0.45189196 0.60259241 0.41626039"
    )
    assert_prints_as(U[gifo], "0.15103961 0.80005983 0.10033823 0.25296999")
    assert_prints_as(b[gifo], "0.20364084 0.65027615 0.15063065 0.10536130")
    after = reference.forward("lstm", x, [0, 2], W, U, b)
    assert np.sum((after.y - target) ** 2) / 2 == pytest.approx(0.11088080130722884, rel=8 * EPS, abs=0)


# ------------------------------------------------------------------------------------- ragged batches


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
def test_state_carried_over_two_halves_equals_the_whole(name, reverse):
    layer, upstream = draw_layer(name, lengths=(7,))
    whole = reference.forward(name, **layer, reverse=reverse)
    dwhole = reference.backward(name, whole, **upstream)

    rows = [slice(0, 3), slice(3, 7)]
    first, second = rows[::-1] if reverse else rows

    def run_half(half, **states):
        steps = {"x": layer["x"][half], "offsets": [0, half.stop - half.start]}
        return reference.forward(name, **{**layer, **steps, **states}, reverse=reverse)

    run_1 = run_half(first)
    run_2 = run_half(second, h0=run_1.h_T, **({} if run_1.c_T is None else {"c0": run_1.c_T}))
    dsecond = reference.backward(name, run_2, **{**upstream, "dy": upstream["dy"][second]})
    dfirst = reference.backward(name, run_1, upstream["dy"][first], dsecond.dh0, dsecond.dc0)

    assert_close(run_2.h_T, whole.h_T, ROUNDING_TOLERANCE)
    assert_close(dfirst.dh0, dwhole.dh0, ROUNDING_TOLERANCE)
    for key in ("y", "gates"):
        halves = np.empty_like(getattr(whole, key))
        halves[first], halves[second] = getattr(run_1, key), getattr(run_2, key)
        assert_close(halves, getattr(whole, key), ROUNDING_TOLERANCE)
    for key in ("dx", "dgates", "dgate_values", "dh"):
        halves = np.empty_like(getattr(dwhole, key))
        halves[first], halves[second] = getattr(dfirst, key), getattr(dsecond, key)
        assert_close(halves, getattr(dwhole, key), ROUNDING_TOLERANCE)
    for argument in layer.keys() - {"x", "offsets", "h0", "c0"}:
        halves = gradient_of(dfirst, argument) + gradient_of(dsecond, argument)
        assert_close(halves, gradient_of(dwhole, argument), ROUNDING_TOLERANCE)
    if whole.c_T is not None:
        assert_close(run_2.c_T, whole.c_T, ROUNDING_TOLERANCE)
        assert_close(dfirst.dc0, dwhole.dc0, ROUNDING_TOLERANCE)


@pytest.mark.parametrize("name", CELLS)
@given(lengths=st.lists(st.integers(0, 4), max_size=4), reverse=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=20)
def test_sequences_of_a_batch_do_not_touch_each_other(name, lengths, reverse):
    layer, upstream = draw_layer(name, lengths=lengths, D=2, H=3)
    batch = reference.forward(name, **layer, reverse=reverse)
    dbatch = reference.backward(name, batch, **upstream)
    summed = {key: np.zeros_like(layer[key]) for key in layer.keys() - {"x", "offsets", "h0", "c0"}}
    for b, length in enumerate(lengths):
        rows, one = slice(layer["offsets"][b], layer["offsets"][b + 1]), slice(b, b + 1)
        alone = {**layer, "x": layer["x"][rows], "offsets": [0, length], "h0": layer["h0"][one]}
        alone_upstream = {"dy": upstream["dy"][rows], "dh_T": upstream["dh_T"][one]}
        if "c0" in layer:
            alone["c0"], alone_upstream["dc_T"] = layer["c0"][one], upstream["dc_T"][one]
        run = reference.forward(name, **alone, reverse=reverse)
        drun = reference.backward(name, run, **alone_upstream)
        assert_close(batch.y[rows], run.y, ROUNDING_TOLERANCE)
        assert_close(batch.h_T[one], run.h_T, ROUNDING_TOLERANCE)
        assert_close(dbatch.dx[rows], drun.dx, ROUNDING_TOLERANCE)
        assert_close(dbatch.dh0[one], drun.dh0, ROUNDING_TOLERANCE)
        for key in summed:
            summed[key] += gradient_of(drun, key)
    for key, want in summed.items():
        assert_close(gradient_of(dbatch, key), want, ROUNDING_TOLERANCE)


@pytest.mark.parametrize("name", CELLS)
def test_sequence_without_steps_ends_where_it_began(name):
    layer, upstream = draw_layer(name, lengths=(2, 0, 1))
    run = reference.forward(name, **layer)
    gradients = reference.backward(name, run, **upstream)
    np.testing.assert_array_equal(run.h_T[1], layer["h0"][1])
    np.testing.assert_array_equal(gradients.dh0[1], upstream["dh_T"][1])
    if "c0" in layer:
        np.testing.assert_array_equal(run.c_T[1], layer["c0"][1])
        np.testing.assert_array_equal(gradients.dc0[1], upstream["dc_T"][1])


@pytest.mark.parametrize("name", CELLS)
def test_reverse_reads_each_sequence_from_its_end(name):
    layer, upstream = draw_layer(name, lengths=(3, 4))
    flip = [2, 1, 0, 6, 5, 4, 3]
    run = reference.forward(name, **layer, reverse=True)
    flipped = reference.forward(name, **{**layer, "x": layer["x"][flip]})
    np.testing.assert_array_equal(run.y, flipped.y[flip])
    np.testing.assert_array_equal(run.h_T, run.y[[0, 3]])
    gradients = reference.backward(name, run, **upstream)
    dflipped = reference.backward(name, flipped, **{**upstream, "dy": upstream["dy"][flip]})
    np.testing.assert_array_equal(gradients.dx, dflipped.dx[flip])
    np.testing.assert_array_equal(gradients.dgates, dflipped.dgates[flip])


def test_list_of_sequences_is_the_same_batch():
    layer, _ = draw_layer("gru", lengths=(2, 0, 3))
    sequences = np.split(layer["x"], layer["offsets"][1:-1])
    run = reference.forward("gru", **{**layer, "x": sequences, "offsets": None})
    np.testing.assert_array_equal(run.offsets, layer["offsets"])
    np.testing.assert_array_equal(run.y, reference.forward("gru", **layer).y)


def test_what_is_not_given_is_zero():
    layer, upstream = draw_layer("lstm")
    bare = {key: layer[key] for key in ("x", "offsets", "W", "U")}
    zeros = {key: np.zeros_like(layer[key]) for key in ("b_ih", "b_hh", "h0", "c0")}
    run, explicit = reference.forward("lstm", **bare), reference.forward("lstm", **bare, **zeros)
    np.testing.assert_array_equal(run.y, explicit.y)
    gradients = reference.backward("lstm", run, upstream["dy"])
    zeros = {key: np.zeros_like(upstream[key]) for key in ("dh_T", "dc_T")}
    explicit = reference.backward("lstm", explicit, upstream["dy"], **zeros)
    for field in dataclasses.fields(gradients):
        np.testing.assert_array_equal(getattr(gradients, field.name), getattr(explicit, field.name))


def test_arrays_written_over_after_forward_do_not_change_backward():
    layer, upstream = draw_layer("lstm")
    want = reference.backward("lstm", reference.forward("lstm", **layer), **upstream)
    run = reference.forward("lstm", **layer)
    for array in layer.values():
        array[:] = 0
    got = reference.backward("lstm", run, **upstream)
    np.testing.assert_array_equal(got.dx, want.dx)
    np.testing.assert_array_equal(got.dW, want.dW)


# -------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("lsmt", {}, ConfigError, "unknown cell 'lsmt'; nearest: 'lstm'"),
        ("gru", {"c0": np.zeros((4, 4))}, ConfigError, "GRU has no c0; cells with one: 'lstm'"),
        (
            "gru_single_bias",
            {"b_hh": np.zeros(12)},
            ConfigError,
            "GRUSingleBias has no b_hh; cells with one: 'rnn_tanh'",
        ),
        ("lstm", {"x": np.zeros(8)}, DataError, r"x: shape \[N, D\] is needed, got \(8,\)"),
        ("lstm", {"offsets": [0, 5, 4, 8, 8]}, DataError, "offsets: must rise from 0 to N = 8"),
        ("lstm", {"offsets": [0, 7]}, DataError, "offsets: must rise from 0 to N = 8"),
        ("lstm", {"offsets": [1, 8]}, DataError, "offsets: must rise from 0 to N = 8"),
        ("lstm", {"offsets": []}, DataError, "offsets: must rise from 0 to N = 8"),
        ("lstm", {"offsets": None}, DataError, r"a list of arrays \[T, D\] of one D is needed"),
        ("lstm", {"peephole": np.zeros(12)}, ConfigError, "LSTM has no peephole; cells with one: 'lstm_pee"),
        ("gru", {"projection": np.eye(4)}, ConfigError, "GRU has no projection; cells with one: 'lstm_pro"),
        ("lstm_projected", {"projection": None}, DataError, r"projection: an array of two axes is needed"),
        ("lstm_projected", {"projection": np.eye(4)}, DataError, r"projection: shape \(3, 4\) is needed"),
        ("lstm", {"U": np.zeros((12, 4))}, DataError, r"U: shape \(16, 4\) is needed, got \(12, 4\)"),
        ("lstm", {"U": np.zeros(16)}, DataError, r"U: an array of two axes is needed, got shape \(16,\)"),
        ("lstm", {"W": np.zeros((16, 2))}, DataError, r"W: shape \(16, 3\) is needed, got \(16, 2\)"),
        ("lstm", {"h0": np.zeros(4)}, DataError, r"h0: shape \(4, 4\) is needed, got \(4,\)"),
    ],
)
def test_mistakes_are_named_in_one_line(name, change, error, message):
    layer, _ = draw_layer(name if name in reference.CELLS else "lstm")
    with pytest.raises(error, match=message) as caught:
        reference.forward(name, **{**layer, **change})
    assert "\n" not in str(caught.value)


def test_backward_refuses_the_forward_of_another_cell():
    layer, _ = draw_layer("gru_single_bias")
    with pytest.raises(ConfigError, match="backward of GRU was given the forward of GRUSingleBias"):
        reference.backward("gru", reference.forward("gru_single_bias", **layer))


def test_backward_refuses_a_gradient_of_a_state_that_is_not_there():
    layer, _ = draw_layer("gru")
    with pytest.raises(ConfigError, match="GRU has no dc_T; cells with one: 'lstm'"):
        reference.backward("gru", reference.forward("gru", **layer), dc_T=np.zeros((4, 4)))


def test_gate_that_a_cell_does_not_have_is_refused():
    layer, _ = draw_layer("gru")
    with pytest.raises(ConfigError, match="GRU has no gate 'f'; known: 'r', 'z', 'n'"):
        reference.forward("gru", **layer).gate("f")
