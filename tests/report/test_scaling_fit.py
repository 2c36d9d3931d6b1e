"""Fits find the law that points were made from, and say so where the points cannot bear one."""

import numpy as np
import pytest

from hfgpt.report.scaling_fit import NoFit, fit_parabola, fit_power_law, fit_saturating_power_law, frontier

COMPUTE = np.geomspace(1e13, 1e19, 7)


def test_a_saturating_power_law_is_found_exactly():
    law = fit_saturating_power_law(COMPUTE, 0.7 + 40 * COMPUTE**-0.15)
    assert law.floor == pytest.approx(0.7, abs=0.01)
    assert law.exponent == pytest.approx(-0.15, abs=0.001)
    assert law.scale == pytest.approx(40, rel=0.05)
    assert law.r_squared > 0.999999
    assert law(np.array([1e16]))[0] == pytest.approx(0.7 + 40 * 1e16**-0.15, abs=1e-4)
    low, high = law.exponent_range
    assert low == pytest.approx(-0.15, abs=0.001) and high == pytest.approx(-0.15, abs=0.001)


def test_noise_widens_the_range_of_exponents_around_the_true_one():
    noise = np.random.default_rng(1).normal(0, 0.005, len(COMPUTE))
    law = fit_saturating_power_law(COMPUTE, 0.7 + 40 * COMPUTE**-0.15 + noise)
    low, high = law.exponent_range
    assert low < -0.15 < high and high - low > 0.01
    assert 0.99 < law.r_squared < 0.99999


def test_a_floor_below_zero_is_never_fitted():
    law = fit_saturating_power_law(COMPUTE, 3 * (COMPUTE / 1e13) ** -0.1 - 0.2)
    assert law.floor == 0.0
    assert law.exponent < -0.1


def test_four_points_make_a_law_but_no_range():
    law = fit_saturating_power_law(COMPUTE[:4], 0.7 + 40 * COMPUTE[:4] ** -0.15)
    assert law.exponent == pytest.approx(-0.15, abs=0.001) and law.exponent_range is None


@pytest.mark.parametrize(
    ("compute", "losses", "reason"),
    [
        (COMPUTE[:3], [3.0, 2.0, 1.5], "3 amounts of compute, and a fit needs at least 4"),
        ([1e13] * 5, [3.0, 2.9, 3.1, 3.0, 3.0], "1 amounts of compute"),
        (COMPUTE, np.linspace(1, 2, 7), "does not fall"),
        (COMPUTE, [3.0, 2.9, 2.8, 2.6, 2.2, 1.4, 0.1], "would explain only 68%"),
        (COMPUTE, [3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "do not bend like a power law"),
    ],
)
def test_points_that_cannot_bear_a_law_get_none(compute, losses, reason):
    with pytest.raises(NoFit, match=reason):
        fit_saturating_power_law(compute, losses)


def test_a_parabola_finds_the_best_size_between_the_sizes():
    sizes = np.array([1e6, 2e6, 5e6, 9e6])
    parabola = fit_parabola(sizes, 1.2 + 0.05 * np.log(sizes / 3e6) ** 2)
    assert parabola.best_size == pytest.approx(3e6, rel=1e-6)
    assert parabola.lowest == pytest.approx(1.2) and parabola.curvature == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("sizes", "losses", "reason"),
    [
        ([1e6, 2e6], [1.3, 1.2], "2 sizes at equal FLOPs, and a fit needs at least 3"),
        ([1e6, 2e6, 4e6], [1.3, 1.2, 1.15], "add larger ones"),
        ([1e6, 2e6, 4e6], [1.15, 1.2, 1.3], "add smaller ones"),
        ([1e6, 2e6, 4e6], [1.1, 1.2, 1.15], "the smallest size has the lowest loss: add smaller ones"),
        ([1e6, 2e6, 4e6, 8e6, 16e6], [1.4, 1.2, 1.5, 1.5, 1.3], "scatter too much for a minimum"),
    ],
)
def test_sizes_without_a_minimum_between_them_get_none(sizes, losses, reason):
    with pytest.raises(NoFit, match=reason):
        fit_parabola(sizes, losses)


def test_a_power_law_is_a_line_in_logarithms():
    law = fit_power_law([1e13, 1e14, 1e16], [2e6, 2e6 * 10**0.5, 2e6 * 10**1.5])
    assert law.exponent == pytest.approx(0.5) and law.floor == 0.0 and law.r_squared == pytest.approx(1.0)
    with pytest.raises(NoFit, match="2 points"):
        fit_power_law([1e13, 1e14], [1e6, 2e6])


def test_the_frontier_leaves_out_what_less_compute_beats():
    assert frontier([3.0, 1.0, 2.0, 2.0], [1.0, 3.0, 3.5, 2.0]) == [1, 3, 0]
