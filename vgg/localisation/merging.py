"""Greedy merging of the boxes that nets answer at many places (paper, appendix A.2; Sermanet et al. 2014).

The two boxes that overlap most are replaced by their mean, until no two overlap by the threshold. A merged box
is the mean of all that went into it, whatever the order, and its rating the sum of their class scores.

The paper prints neither the measure of closeness nor its threshold. Ours is the overlap by which the test
itself tells right from wrong: boxes that would count as the same answer are one.

Shapes: P boxes; 4: xmin, ymin, xmax, ymax.
"""

import numpy as np
from numba import njit

THRESHOLD = 0.5


@njit(nogil=True, cache=True)
def _overlap(one_4: np.ndarray, other_4: np.ndarray) -> float:
    across = min(one_4[2], other_4[2]) - max(one_4[0], other_4[0])
    down = min(one_4[3], other_4[3]) - max(one_4[1], other_4[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    one = (one_4[2] - one_4[0]) * (one_4[3] - one_4[1])
    other = (other_4[2] - other_4[0]) * (other_4[3] - other_4[1])
    return shared / (one + other - shared)


@njit(nogil=True, cache=True)
def _nearest(boxes_P4: np.ndarray, alive_P: np.ndarray, i: int) -> tuple[int, float]:
    """The later box that overlaps most with box `i`, the first of equals; -1 if none does."""
    found, most = -1, 0.0
    for j in range(i + 1, len(boxes_P4)):
        if alive_P[j]:
            overlap = _overlap(boxes_P4[i], boxes_P4[j])
            if overlap > most:
                found, most = j, overlap
    return found, most


@njit(nogil=True, cache=True)
def merge(boxes_P4: np.ndarray, scores_P: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The merged boxes, float64 [m, 4], and their ratings, [m]; of equally close pairs the first is merged.

    Each box keeps its nearest later one, which is sought again only where a merge may have changed it.
    """
    boxes_P4, ratings_P = boxes_P4.astype(np.float64), scores_P.astype(np.float64)
    count = len(boxes_P4)
    alive_P, members_P = np.ones(count, np.bool_), np.ones(count)
    nearest_P, most_P = np.full(count, -1), np.zeros(count)
    for i in range(count):
        nearest_P[i], most_P[i] = _nearest(boxes_P4, alive_P, i)
    while count:
        i = 0
        for k in range(count):
            if alive_P[k] and (not alive_P[i] or most_P[k] > most_P[i]):
                i = k
        j = nearest_P[i]
        if j < 0 or most_P[i] < threshold:
            break
        together = members_P[i] + members_P[j]
        boxes_P4[i] = (members_P[i] * boxes_P4[i] + members_P[j] * boxes_P4[j]) / together
        members_P[i], alive_P[j] = together, False
        ratings_P[i] += ratings_P[j]
        for k in range(count):
            if not alive_P[k]:
                continue
            if k == i or nearest_P[k] == i or nearest_P[k] == j:
                nearest_P[k], most_P[k] = _nearest(boxes_P4, alive_P, k)
            elif k < i:
                overlap = _overlap(boxes_P4[k], boxes_P4[i])
                if overlap > most_P[k] or (overlap == most_P[k] and overlap > 0 and i < nearest_P[k]):
                    nearest_P[k], most_P[k] = i, overlap
    return boxes_P4[alive_P], ratings_P[alive_P]


def best_box(boxes_P4: np.ndarray, scores_P: np.ndarray, threshold: float) -> np.ndarray:
    """The merged box of the highest rating, the first of equals, [4]."""
    if len(boxes_P4) == 1:
        return np.asarray(boxes_P4[0], np.float64)
    merged_m4, ratings_m = merge(np.ascontiguousarray(boxes_P4), np.ascontiguousarray(scores_P), threshold)
    return merged_m4[int(ratings_m.argmax())]
