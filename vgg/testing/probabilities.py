"""Whether an array holds class probabilities of labelled images.

Shapes: N images, K classes.
"""

from collections.abc import Sequence

import numpy as np

SUM_TOLERANCE = 1e-3
"""By which a row's sum may differ from 1: a thousand float32 probabilities add up to within 1e-4."""


def why_no_probabilities(posteriors_NK: np.ndarray, keys: Sequence[str]) -> str | None:
    """What is wrong with the first image that has no probabilities, naming it; None if all have.

    They are finite, not negative, and add up to 1.
    """
    finite_N: np.ndarray = np.asarray(np.isfinite(posteriors_NK).all(1))
    not_negative_N: np.ndarray = np.asarray((posteriors_NK >= 0).all(1))
    with np.errstate(invalid="ignore", over="ignore"):
        sums_N: np.ndarray = posteriors_NK.sum(1, dtype=np.float64)
        one_N = np.absolute(sums_N - 1) <= SUM_TOLERANCE
    wrong_N = ~(finite_N & not_negative_N & one_N)
    if not wrong_N.any():
        return None
    first = int(wrong_N.argmax())
    if not finite_N[first]:
        what = "are not finite (NaN or infinite)"
    elif not not_negative_N[first]:
        what = "are negative for some class"
    else:
        what = f"add up to {sums_N[first]:.6g}, not to 1"
    wrong = int(wrong_N.sum())
    return f"the class probabilities of {wrong} of {len(keys)} images are none: {keys[first]}'s {what}"


def why_not_labelled(
    posteriors_NK: np.ndarray, labels_N: np.ndarray, keys: Sequence[str], classes: int
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
