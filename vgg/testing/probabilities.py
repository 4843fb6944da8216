"""Whether an array holds class probabilities of labelled images.

Shapes: N images, B images of a block, K classes.
"""

from collections.abc import Sequence

import numpy as np

from vgg.metrics.rows import Rows, blocks_of

SUM_TOLERANCE = 1e-3
"""By which a row's sum may differ from 1: a thousand float32 probabilities add up to within 1e-4."""


def why_no_probabilities(posteriors_NK: np.ndarray | Rows, keys: Sequence[str]) -> str | None:
    """What is wrong with the first image that has no probabilities, naming it; None if all have.

    They are finite, not negative, and add up to 1.
    """
    wrong, what = 0, ""
    for rows in blocks_of(len(keys)):
        found, fault = _faults(posteriors_NK[rows], keys[rows])
        wrong, what = wrong + found, what or fault
    return f"the class probabilities of {wrong} of {len(keys)} images are none: {what}" if wrong else None


def _faults(posteriors_BK: np.ndarray, keys: Sequence[str]) -> tuple[int, str]:
    """How many images of a block have no probabilities, and what is wrong with the first."""
    finite_B: np.ndarray = np.asarray(np.isfinite(posteriors_BK).all(1))
    not_negative_B: np.ndarray = np.asarray((posteriors_BK >= 0).all(1))
    with np.errstate(invalid="ignore", over="ignore"):
        sums_B: np.ndarray = posteriors_BK.sum(1, dtype=np.float64)
        one_B = np.absolute(sums_B - 1) <= SUM_TOLERANCE
    wrong_B = ~(finite_B & not_negative_B & one_B)
    if not wrong_B.any():
        return 0, ""
    first = int(wrong_B.argmax())
    if not finite_B[first]:
        what = "are not finite (NaN or infinite)"
    elif not not_negative_B[first]:
        what = "are negative for some class"
    else:
        what = f"add up to {sums_B[first]:.6g}, not to 1"
    return int(wrong_B.sum()), f"{keys[first]}'s {what}"


def why_not_labelled(
    posteriors_NK: np.ndarray | Rows, labels_N: np.ndarray, keys: Sequence[str], classes: int
) -> str | None:
    """What is wrong with the images' probabilities, labels or numbers; None if nothing is."""
    if posteriors_NK.shape != (len(keys), classes) or labels_N.shape != (len(keys),):
        return (
            f"{len(keys)} images of {classes} classes have class probabilities of shape "
            f"{list(posteriors_NK.shape)} and {len(labels_N)} labels"
        )
    wrong_N = (labels_N < 0) | (labels_N >= classes)
    if wrong_N.any():
        first = int(wrong_N.argmax())
        return f"the label {int(labels_N[first])} of {keys[first]} is none of the {classes} classes"
    return why_no_probabilities(posteriors_NK, keys)
