"""Tests and intervals that stay valid under repeated looks and optional stopping."""

import math

from scipy.special import betaln, ndtri


def half_width(variance: float, scale: float, level: float) -> float:
    """Return half the width of the confidence sequence around an estimated effect.

    With a normal mixture of standard deviation s over the effects and the estimate's variance V, the effect
    stays, at all looks together and with probability 1 - a, within sqrt(2 V (V + s²) / s² ln(sqrt(1 + s²/V)
    / a)) of its estimate. Source: Johari, Koomen, Pekelis and Walsh, "Always Valid Inference", Operations
    Research 70(3), 2022; for estimated variances Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024.

    Args:
        variance: Estimated variance V of the estimate, above 0.
        scale: Standard deviation s of the mixture, in the unit of the effect; the same at all looks.
        level: Error rate a.
    """
    ratio = scale**2 / variance
    return math.sqrt(2 * variance * (1 + 1 / ratio) * (math.log1p(ratio) / 2 - math.log(level)))


def p_value(effect: float, variance: float, scale: float) -> float:
    """Return the p-value of no effect, the smallest level whose `half_width` leaves out zero (mSPRT)."""
    ratio = scale**2 / variance
    likelihood = effect**2 / (2 * variance) * ratio / (1 + ratio) - math.log1p(ratio) / 2
    return math.exp(-max(likelihood, 0.0))


def detectable(variance: float, scale: float, level: float, power: float) -> float:
    """Return the smallest effect whose sequence leaves out zero at this look with probability `power`.

    Earlier looks add to the power, so the effect that the whole test detects is no larger.
    """
    return max(half_width(variance, scale, level) + float(ndtri(power)) * math.sqrt(variance), 0.0)


def mismatch_p_value(current: int, new: int, share: float) -> float:
    """Return the p-value of a sample-ratio mismatch, valid at all looks together, exact at all sizes.

    Under the alternative the share of the new revision has a beta distribution around the planned one that
    weighs as much as 100 units. Source: Lindon and Malek, "Anytime-valid inference for multinomial count
    data", NeurIPS 2022.

    Args:
        current: Units of the current revision.
        new: Units of the new revision.
        share: Planned share of the new revision, between 0 and 1.
    """
    first, second = 100 * share, 100 * (1 - share)
    likelihood = betaln(first + new, second + current) - betaln(first, second)
    likelihood -= new * math.log(share) + current * math.log1p(-share)
    return math.exp(-max(float(likelihood), 0.0))
