"""Average precision of a class by the two definitions of PASCAL VOC's development kits.

Shapes: N images, the most probable first.
"""

import numpy as np


def average_precision_2007(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """VOC 2007: the mean over recalls 0, 0.1, … 1 of the best precision at that recall or a higher one.

    NaN without a positive image. Of images scored alike the earlier one counts as ranked higher.
    """
    ranked_N, precision_N = _ranked(scores_N, positive_N)
    hits_N = np.cumsum(ranked_N)
    positives = int(positive_N.sum())
    if not positives:
        return float("nan")
    # In integers: recall ≥ k / 10 is hits · 10 ≥ k · positives, which fractions would round.
    best = [precision_N[10 * hits_N >= k * positives].max() for k in range(11)]
    return float(np.mean(best))


def average_precision_2010(scores_N: np.ndarray, positive_N: np.ndarray) -> float:
    """VOC 2010 and later: the area under precision by recall, each precision raised to the best at that recall
    or a higher one. Otherwise as `average_precision_2007`."""
    ranked_N, precision_N = _ranked(scores_N, positive_N)
    if not positive_N.any():
        return float("nan")
    raised_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    return float(raised_N[ranked_N].mean())


def _ranked(scores_N: np.ndarray, positive_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the image is positive, and precision, at each rank."""
    assert positive_N.dtype == bool
    ranked_N = positive_N[np.argsort(-scores_N, kind="stable")]
    return ranked_N, np.cumsum(ranked_N) / np.arange(1, len(scores_N) + 1)
