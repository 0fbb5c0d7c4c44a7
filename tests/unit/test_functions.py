"""What emitted sources call beside NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from kqo.runtime.functions import block_diagonal, erf, sigmoid


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 6e-7), (np.float64, 1e-15)])
@pytest.mark.parametrize(("own", "exact"), [(sigmoid, special.expit), (erf, special.erf)])
def test_values_are_those_of_scipy(own, exact, dtype, most) -> None:
    v = np.concatenate([np.linspace(-200, 200, 4001), np.linspace(-6, 6, 4001), [-1e30, 1e30]])
    v = v.astype(dtype)
    out = np.empty_like(v)
    own(v, out)
    assert np.abs(out - exact(v.astype(np.float64))).max() < most
    held = v.copy()
    own(held, held)  # in place
    np.testing.assert_array_equal(held, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite(dtype) -> None:
    v = np.array([math.nan, math.inf, -math.inf], dtype=dtype)
    out = np.empty_like(v)
    sigmoid(v, out)
    np.testing.assert_array_equal(out, np.array([math.nan, 1, 0], dtype=dtype))
    erf(v, out)
    np.testing.assert_allclose(out, np.array([math.nan, 1, -1], dtype=dtype), rtol=1e-6)


def test_kernels_of_groups_side_by_side() -> None:
    kernels = np.random.default_rng(0).normal(size=(6, 2, 3, 5))
    found = block_diagonal(kernels, 2).reshape(3, 2, 2, 3, 2, 5)
    for group in range(6):
        pair, own = divmod(group, 2)
        np.testing.assert_array_equal(found[pair, :, own, :, own], kernels[group])
        assert not found[pair, :, own, :, 1 - own].any()
    np.testing.assert_array_equal(block_diagonal(kernels, 1), kernels.reshape(6, 6, 5))
