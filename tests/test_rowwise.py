"""Products whose rows do not depend on their company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from timelike.rowwise import blocks


def product(x: np.ndarray[Any, Any], w: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    return np.matmul(blocks(x, size), w).reshape(-1, w.shape[1])[: len(x)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [16, 128])
def test_a_row_has_the_same_bits_wherever_it_stands(size: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    for K in (1, 5, 20, 33, 64, 128):
        for N in (1, 2, 3, 8, 10, 32):
            x, w = (random.standard_normal(shape).astype(dtype) for shape in ((300, K), (K, N)))
            whole = product(x, w, size)
            for n in (1, 2, 7, 64, 129):
                parts = [product(x[first : first + n], w, size) for first in range(0, len(x), n)]
                np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=f"{K} {N} {n}")
            atol = 2 * (8 + K**0.5) * np.finfo(dtype).eps * np.abs(x).max() * np.abs(w).max()
            np.testing.assert_allclose(whole, x @ w, rtol=0, atol=atol)


def test_no_rows_are_no_blocks() -> None:
    assert product(np.empty((0, 3)), np.ones((3, 2)), 16).shape == (0, 2)
