import math

import numpy as np
import pytest
from scipy import integrate, stats

from flowparts.monitor import sequential


@pytest.mark.parametrize("errors", [0.5, 2.0, -6.0])
@pytest.mark.parametrize(("variance", "scale"), [(0.001, 0.1), (0.01, 0.05), (4e-5, 0.02)])
def test_p_value_is_one_over_the_mixture_of_the_likelihood_ratios(
    errors: float, variance: float, scale: float
) -> None:
    error = math.sqrt(variance)
    effect = errors * error

    def weighed(other: float) -> float:
        return float(stats.norm.pdf(effect, other, error) * stats.norm.pdf(other, 0, scale))

    reach = 10 * error + abs(effect)
    mixture, _ = integrate.quad(weighed, -reach, reach, points=[0.0, effect], limit=500)
    ratio = mixture / stats.norm.pdf(effect, 0, error)
    assert sequential.p_value(effect, variance, scale) == pytest.approx(min(1, 1 / ratio), rel=1e-6)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_an_effect_at_the_end_of_the_sequence_has_the_level_as_its_p_value(level: float) -> None:
    half = sequential.half_width(0.002, 0.07, level)
    assert sequential.p_value(half, 0.002, 0.07) == pytest.approx(level)


def test_half_width_is_that_of_the_asymptotic_confidence_sequence() -> None:
    # Theorem 2.2 of Waudby-Smith et al. with t observations of standard deviation 2 and rho² = 0.01.
    t, rho2, deviation, level = 500, 0.01, 2.0, 0.05
    inner = 2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(math.sqrt(t * rho2 + 1) / level)
    expected = deviation * math.sqrt(inner)
    assert sequential.half_width(deviation**2 / t, deviation * 0.1, level) == pytest.approx(expected)


def test_the_detectable_effect_is_detected_with_the_stated_power() -> None:
    effect = sequential.detectable(0.01, 0.3, 0.05, 0.8)
    estimates = np.random.default_rng(1).normal(effect, 0.1, 20_000)
    found = np.mean(estimates > sequential.half_width(0.01, 0.3, 0.05))
    assert found == pytest.approx(0.8, abs=0.01)


def test_a_mismatch_is_weighed_against_all_other_shares() -> None:
    def weighed(share: float) -> float:
        return float(stats.binom.pmf(70, 120, share) * stats.beta.pdf(share, 30, 70))

    mixture, _ = integrate.quad(weighed, 0, 1, points=[0.3, 70 / 120])
    expected = stats.binom.pmf(70, 120, 0.3) / mixture
    assert sequential.mismatch_p_value(50, 70, 0.3) == pytest.approx(expected, rel=1e-6)
    assert sequential.mismatch_p_value(7_010, 3_000, 0.3) == 1.0
    assert sequential.mismatch_p_value(0, 0, 0.3) == 1.0


def test_few_sound_assignments_are_ever_called_a_mismatch() -> None:
    new = np.random.default_rng(2).random((300, 3_000)) < 0.2
    counts = new.cumsum(axis=1)[:, 9::30]
    looks = np.arange(1, 3_001)[9::30]
    ever = [
        any(
            sequential.mismatch_p_value(int(n - k), int(k), 0.2) < 0.05
            for n, k in zip(looks, row, strict=True)
        )
        for row in counts
    ]
    assert sum(ever) <= 15
