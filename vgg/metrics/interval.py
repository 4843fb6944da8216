"""Confidence interval of a proportion, and what it says of a net."""

import math

Z_95 = 1.959963984540054
"""The standard normal distribution's 97.5 % quantile."""


def wilson_interval(wrong: int, seen: int) -> tuple[float, float]:
    """95 % score interval of an error rate, in percent (Wilson 1927).

    Unlike a bootstrap's, it has a width where none or all are wrong, and it lies within 0 to 100 %.
    """
    rate, z2 = wrong / seen, Z_95**2
    centre = (rate + z2 / (2 * seen)) / (1 + z2 / seen)
    half_width = Z_95 * math.sqrt(rate * (1 - rate) / seen + z2 / (4 * seen**2)) / (1 + z2 / seen)
    low = 0.0 if wrong == 0 else centre - half_width
    high = 1.0 if wrong == seen else centre + half_width
    return 100 * low, 100 * high


def learnt_nothing(error_interval: tuple[float, float], majority: float) -> bool:
    """Whether the 95 % interval of a top-1 error, in percent, reaches the error of always answering the largest
    class; `majority`: its share of the images, a fraction."""
    return error_interval[1] >= 100 * (1 - majority)
