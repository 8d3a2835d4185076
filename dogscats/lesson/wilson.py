"""Confidence interval of a proportion."""

import math


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of the proportion `right / n`.

    Unlike the normal approximation, it stays within 0 and 1 and keeps a positive width at both ends
    (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
    """
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
