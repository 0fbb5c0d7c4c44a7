"""Metrics of heatmaps against scikit-image, SciPy and hand-made cases."""

import numpy as np
import pytest
from scipy import stats
from skimage.metrics import structural_similarity

from kqo.approximate.quality import ranks, ssim, top_rank_correlation
from kqo.errors import ArgumentError


def maps(seed, noise):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:23, :31]
    exact = np.exp(-((y - 9) ** 2 + (x - 20) ** 2) / 30) + 0.05 * rng.standard_normal((23, 31))
    return exact + noise * rng.standard_normal(exact.shape), exact


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 1.0])
def test_ssim_is_that_of_scikit_image(noise):
    approximate, exact = maps(0, noise)
    expected = structural_similarity(
        approximate,
        exact,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=np.ptp(exact),
    )
    assert ssim(approximate, exact) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_a_constant_heatmap_is_one_or_zero():
    flat = np.full((12, 12), 3.0)
    assert ssim(flat, flat) == 1
    assert ssim(flat + 1e-6, flat) == 0


@pytest.mark.parametrize("share", [0.1, 0.37, 1.0])
@pytest.mark.parametrize("digits", [8, 1])
def test_the_rank_correlation_is_spearmans_over_the_top(share, digits):
    """Rounded to one digit the heatmaps are full of ties."""
    approximate, exact = (values.round(digits) for values in maps(1, 0.1))
    count = int(np.ceil(share * exact.size))
    top = sorted(range(exact.size), key=lambda i: (-exact.flat[i], i))[:count]
    expected = stats.spearmanr(approximate.flat[top], exact.flat[top]).statistic
    assert top_rank_correlation(approximate, exact, share) == pytest.approx(expected, abs=1e-12)


def test_the_rank_correlation_looks_at_the_top_only():
    exact = np.arange(100.0).reshape(10, 10)
    assert top_rank_correlation(np.where(exact < 90, -exact, exact), exact) == 1
    assert top_rank_correlation(-exact, exact) == pytest.approx(-1)


def test_the_rank_correlation_of_constant_tops():
    flat, slope = np.zeros((4, 5)), np.arange(20.0).reshape(4, 5)
    assert top_rank_correlation(flat, flat) == 1
    assert top_rank_correlation(flat, slope) == 0


def test_ranks_are_scipys():
    values = np.array([3.0, 1.0, 3.0, 2.0, 3.0])
    assert ranks(values).tolist() == stats.rankdata(values).tolist()


def test_arguments_that_are_refused():
    with pytest.raises(ArgumentError, match="shape"):
        ssim(np.zeros((12, 12)), np.zeros((12, 13)))
    with pytest.raises(ArgumentError, match="at least 11"):
        ssim(np.zeros((9, 12)), np.zeros((9, 12)))
    with pytest.raises(ArgumentError, match="shape"):
        top_rank_correlation(np.zeros(4), np.zeros(5))
    with pytest.raises(ArgumentError, match="share"):
        top_rank_correlation(np.zeros(4), np.zeros(4), 0.0)
