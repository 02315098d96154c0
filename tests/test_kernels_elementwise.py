"""exp, sigmoid and tanh of the kernels, on lanes: the bounds that stand in src/kernels/math.h."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_cases import DTYPES, ISAS
from timelike import kernels

ULPS = {  # largest error allowed, in units in the last place of the exact value
    "float32": {"exp": 1.1, "sigmoid": 2.6, "tanh": 2.7},
    "float64": {"exp": 1.1, "sigmoid": 2.6, "tanh": 2.8},
}
RANGE = {  # outside it, the value at the border
    "float32": {"exp": (-87.0, 88.0), "sigmoid": (-87.0, np.inf), "tanh": (-np.inf, np.inf)},
    "float64": {"exp": (-708.0, 709.0), "sigmoid": (-708.0, np.inf), "tanh": (-np.inf, np.inf)},
}
FUNCTIONS = tuple(ULPS["float32"])
# Where the largest errors of all floats and of some 10^8 doubles were found.
WORST = {
    "float32": [37.8083534, -1.95091498, 0.173515007],
    "float64": [12.155123004424695, -36.737728885921968, 0.194534985359018],
}


def native(isa, function, x):
    y = np.full_like(x, np.nan)
    call = getattr(kernels._core, "function_f32" if x.dtype == np.float32 else "function_f64")
    call(isa, function, x.ctypes.data, y.ctypes.data, len(x))
    return y


def exact(function, x):
    """The function in the precision of x, which must be a wider one than the kernel's."""
    if function == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return {"exp": np.exp, "tanh": np.tanh}[function](x)


def errors(y, expected):
    """|y - expected| in units in the last place of `expected`, which is wider than y."""
    size = np.abs(expected.astype(y.dtype))
    bits = size.view(f"u{y.itemsize}")
    tiny, eps = np.finfo(y.dtype).tiny, np.finfo(y.dtype).eps
    power_of_two = (bits & np.array(np.inf, y.dtype).view(bits.dtype)).view(y.dtype)
    unit = np.maximum(power_of_two, tiny) * eps  # numpy.spacing, but several times as fast
    return np.abs(y - expected) / unit


def assert_within_bound(function, x):
    """On all instruction sets, since what is exact costs the most."""
    expected = exact(function, x.astype("float64" if x.dtype == np.float32 else np.longdouble))
    for isa in ISAS:
        error = errors(native(isa, function, x), expected)
        worst = error.argmax()  # a NaN, if there is one
        assert error[worst] <= ULPS[x.dtype.name][function], f"{isa}: {error[worst]:.3f} ULP at {x[worst]!r}"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_keeps_its_bound(function, dtype):
    """On all exponents, on all magnitudes, at the borders and at the worst places known."""
    rng = np.random.default_rng(2)
    limit = 709.0 if dtype == "float64" else 88.0
    magnitude = np.exp(rng.uniform(np.log(1e-30), np.log(limit), 200_000))
    spread = rng.uniform(-limit, limit, 200_000)
    special = [0.0, *WORST[dtype], *RANGE[dtype]["exp"], 1e4, np.finfo(dtype).max, np.inf]
    x = np.concatenate([magnitude, -magnitude, spread, special, np.negative(special)])
    x = x.astype(dtype)
    low, high = RANGE[dtype][function]
    assert_within_bound(function, x[(x >= low) & (x <= high)])


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_error_keeps_its_bound_on_all_floats(function):
    """Every finite float32 in the range there is; of tanh, which is odd to the bit, the positive ones."""
    largest = np.finfo("float32").max
    low, high = np.clip(RANGE["float32"][function], -largest, largest)
    chunk = np.arange(1 << 15, dtype="uint32")  # the arrays of a chunk stay in the cache
    for sign, border in ((0, high), (1 << 31, -low)) if function != "tanh" else ((0, high),):
        last = int(np.array(border, "float32").view("uint32"))
        for start in range(0, last + 1, len(chunk)):
            bits = np.minimum(chunk + np.uint32(start), np.uint32(last))
            assert_within_bound(function, (bits | np.uint32(sign)).view("float32"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetry_and_limits_hold_to_the_bit(dtype, isa):
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(0, 20, 200_000), np.exp(rng.uniform(-80, 0, 10_000)), [0.0, np.inf]])
    x = x.astype(dtype)
    tanh = native(isa, "tanh", x)
    np.testing.assert_array_equal(native(isa, "tanh", -x).view("u1"), (-tanh).view("u1"))
    assert (tanh <= 1).all()
    assert (native(isa, "sigmoid", x) <= 1).all()
    assert (
        native(isa, "tanh", np.array([0.0, -0.0], dtype)).tobytes() == np.array([0.0, -0.0], dtype).tobytes()
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_beyond_the_range_stands_the_value_at_the_border(function, dtype, isa):
    low, high = RANGE[dtype][function]
    far = np.array([np.inf, np.finfo(dtype).max, 1e3 * 709, -1e3 * 709, np.finfo(dtype).min, -np.inf], dtype)
    border = np.array([high] * 3 + [low] * 3, dtype)
    np.testing.assert_array_equal(native(isa, function, far), native(isa, function, border))
    if function == "tanh":
        np.testing.assert_array_equal(native(isa, function, far), [1, 1, 1, -1, -1, -1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_stays_nan_whatever_its_payload(function, dtype, isa):
    quiet = np.array(np.nan, dtype).view(f"i{np.dtype(dtype).itemsize}")
    payload = np.random.default_rng(1).integers(0, 1 << 22, 1000)
    x = (quiet | payload).astype(quiet.dtype).view(dtype)
    x = np.concatenate([x, -x])
    assert np.isnan(x).all()
    assert np.isnan(native(isa, function, x)).all()
