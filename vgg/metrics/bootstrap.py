"""Whether two nets differ by more than the images that they were tested on would explain.

Shapes: N images, S seeds.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Of two error rates on the same images, in percentage points."""

    mean: float
    interval: tuple[float, float]
    """95 % percentile interval over resampled images."""


def paired_bootstrap(wrong_NS: np.ndarray, other_NS: np.ndarray, seed: int = 0) -> Difference:
    """The error of one configuration less that of another, each averaged over its seeds.

    Images are drawn with replacement, with whatever both made of them (Efron and Tibshirani 1993, chapter 13:
    the percentile interval). Only how many images of each difference come up matters, which is a multinomial
    count, so that 10,000 drawings of 50,000 images take milliseconds. `wrong_NS`, `other_NS`: 1 where an image
    is wrong, 0 where it is right.
    """
    assert len(wrong_NS) == len(other_NS), "tested on the same images"
    difference_N = wrong_NS.mean(1) - other_NS.mean(1)
    values, counts = np.unique(difference_N.round(12), return_counts=True)
    images = len(difference_N)
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, size=DRAWS)
    low, high = np.percentile(drawn @ values / images, [2.5, 97.5])
    return Difference(100 * float(difference_N.mean()), (100 * float(low), 100 * float(high)))
