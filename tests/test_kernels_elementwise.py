"""exp, sigmoid and tanh of the kernels, on lanes."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_cases import DTYPES, ISAS
from timelike import kernels


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("function", "ulps"), [("exp", 1.1), ("sigmoid", 2.6), ("tanh", 2.7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise_functions_keep_their_bound(function, ulps, dtype, isa):
    """The bounds that stand in src/kernels/math.h, on all exponents, the borders and the worst known."""
    rng = np.random.default_rng(2)
    limit = {"float32": 87.0, "float64": 708.0}[dtype]
    magnitude = np.exp(rng.uniform(np.log(1e-30), np.log(limit), 200_000))
    worst = {
        "float32": [-5.85670471, -5.84420681, -16.635704, 0.0622862317, 0.0623535849],
        "float64": [-21.124203998233899, -36.742146021243201, 0.22138534057894263, -0.20603363111958253],
    }[dtype]
    x = np.concatenate([magnitude, -magnitude, rng.uniform(-limit, limit, 200_000), [0.0, limit, -limit]])
    x = np.concatenate([x, worst])
    if function == "tanh":
        x = np.concatenate([x, [1e4, -1e4, np.inf, -np.inf]])
    x = x.astype(dtype)
    y = np.full_like(x, np.nan)
    call = getattr(kernels._core, "function_f32" if dtype == "float32" else "function_f64")
    call(isa, function, x.ctypes.data, y.ctypes.data, len(x))
    exact = np.longdouble(x)  # 64 bits of mantissa: enough to judge 53
    exact = {
        "exp": np.exp,
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "tanh": np.tanh,
    }[function](exact)
    unit = np.spacing(np.abs(exact).astype(dtype))
    error = np.abs(np.longdouble(y) - exact) / unit
    assert np.isfinite(y).all()
    assert error.max() <= ulps, f"{float(error.max()):.2f} ULP at {x[error.argmax()]!r}"


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise_functions_beyond_their_range(isa):
    x = np.array([np.inf, -np.inf, 1000, -1000, np.nan], "float32")
    y = np.empty_like(x)
    expected = {
        "exp": [np.exp(88.0), np.exp(-87.0)] * 2,
        "sigmoid": [1, 1.6458115e-38] * 2,
        "tanh": [1, -1] * 2,
    }
    for name, values in expected.items():
        kernels._core.function_f32(isa, name, x.ctypes.data, y.ctypes.data, len(x))
        np.testing.assert_allclose(y[:4], values, rtol=1e-6)
        assert np.isnan(y[4])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["exp", "sigmoid", "tanh"])
def test_nan_stays_nan_whatever_its_payload(function, dtype, isa):
    quiet = np.array(np.nan, dtype).view(f"i{np.dtype(dtype).itemsize}")
    payload = np.random.default_rng(1).integers(0, 1 << 22, 1000)
    x = (quiet | payload).astype(quiet.dtype).view(dtype)
    x = np.concatenate([x, -x])
    y = np.zeros_like(x)
    call = getattr(kernels._core, "function_f32" if dtype == "float32" else "function_f64")
    call(isa, function, x.ctypes.data, y.ctypes.data, len(x))
    assert np.isnan(x).all()
    assert np.isnan(y).all()
