"""What the tests of timelike.runtime share: weights, sessions, states, and a ragged batch."""

from __future__ import annotations

import numpy as np

from timelike.cells import CELLS, parameter_shapes
from timelike.runtime import Recurrent

DTYPES = ["float32", "float64"]
LENGTHS = [4, 0, 7, 1, 7, 3]
OFFSETS = [0, 4, 4, 11, 12, 19, 22]
ARGUMENT = {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b_ih", "bias_hh": "b_hh"}
ARGUMENT |= {"weight_hr": "projection", "weight_peephole": "peephole"}


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def random_weights(cell, D, H, *, R=None, layers=1, bidirectional=False, n_biases=2, dtype="float32", seed=1):
    """Weights by torch's names, each sum of order one."""
    rng = np.random.default_rng(seed)
    R, suffixes = R if CELLS[cell].has_projection else H, ("", "_reverse") if bidirectional else ("",)
    weights = {}
    for layer in range(layers):
        columns = R * len(suffixes) if layer else D
        shapes = parameter_shapes(cell, columns, H, proj_size=R, n_biases=n_biases)
        for suffix in suffixes:
            for name, shape in shapes.items():
                values = rng.normal(size=shape) / np.sqrt(shape[-1] if len(shape) == 2 else 1)
                weights[f"{name}_l{layer}{suffix}"] = values.astype(dtype)
    return weights


def session_of(cell="lstm", D=5, H=9, *, batch_first=False, **options):
    return Recurrent(random_weights(cell, D, H, R=4, **options), cell, batch_first=batch_first)


def states_of(session, B, seed=3):
    """N(0, 1) states as `run` takes them, without an axis for B = None."""
    n = session.num_layers * (2 if session.bidirectional else 1)
    axes = (n,) if B is None else (n, B)
    h = normal(*axes, session.state_size, seed=seed, dtype=session.dtype)
    if not CELLS[session.cell].has_cell_state:
        return h
    return h, normal(*axes, session.hidden_size, seed=seed + 1, dtype=session.dtype)


def upstream_of(y, state, seed=7):
    """N(0, 1) gradients of all outputs."""
    d_last = tuple(normal(*s.shape, seed=seed + k, dtype=s.dtype) for k, s in enumerate(flat(state)))
    return normal(*y.shape, seed=seed + 5, dtype=y.dtype), d_last if isinstance(state, tuple) else d_last[0]


def flat(state):
    return state if isinstance(state, tuple) else (state,)


def assert_same_bits(got, expected):
    assert isinstance(got, tuple) == isinstance(expected, tuple)
    for a, b in zip(flat(got), flat(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.isfinite(a).all()
        assert (a == b).all()


def of_padded(padded, batch_first=False):
    """The steps of a padded batch as ragged rows."""
    padded = padded if batch_first else padded.swapaxes(0, 1)
    return np.concatenate([padded[b, :n] for b, n in enumerate(LENGTHS)])
