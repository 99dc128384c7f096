"""Published and hand-made correlations."""

import math

import numpy as np
import pytest

from ditscale.scaling.correlations import pearson_log_x, spearman
from ditscale.scaling.status import Status

# DiT (arXiv 2212.09748) Table 4, the 12 models after 400K steps: "Gflops" (multiply-adds / 1e9), FID-50K unguided.
DIT_TABLE_4 = [
    (0.36, 153.60), (1.41, 100.41), (6.06, 68.40),                        # S/8, S/4, S/2
    (1.42, 122.74), (5.56, 68.38), (23.01, 43.47),                        # B
    (5.01, 118.87), (19.70, 45.64), (80.71, 23.33),                       # L
    (7.39, 106.41), (29.05, 43.01), (118.64, 19.47),                      # XL
]


def test_dit_figure_8():
    gmacs, fid = zip(*DIT_TABLE_4)
    correlation = pearson_log_x(gmacs, fid)
    assert correlation.value == pytest.approx(-0.92985, abs=5e-6)         # the figure prints -0.93
    assert correlation.n == 12 and correlation.status is Status.CONVERGED


def test_spearman_sees_order_alone():
    x = np.array([1.0, 5.0, 2.0, 9.0])
    assert spearman(x, np.exp(-x)).value == pytest.approx(-1.0)
    assert spearman(x, x ** 3).value == pytest.approx(1.0)


@pytest.mark.parametrize("correlate", [pearson_log_x, spearman])
@pytest.mark.parametrize(
    "x, y, status",
    [
        ([1, 2, 3], [1.0, np.nan, 2.0], Status.BAD_DATA),
        ([-1, 2, 3], [1.0, 2.0, 2.0], Status.BAD_DATA),
        ([1, 2], [1.0, 2.0], Status.TOO_FEW_POINTS),
        ([1, 2, 3], [2.0, 2.0, 2.0], Status.NO_SPREAD),
    ],
)
def test_hopeless_data_is_told_so(correlate, x, y, status):
    correlation = correlate(x, y)
    assert correlation.status is status and math.isnan(correlation.value)


def test_scores_may_be_negative():
    """Only x is in logarithms."""
    assert pearson_log_x([1, 10, 100], [1.0, 0.0, -1.0]).value == pytest.approx(-1.0)
