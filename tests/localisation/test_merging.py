"""Greedy merging against a brute-force reference on torchvision's IoU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from vgg.localisation.merging import best_box, merge


def by_brute_force(boxes_P4, scores_P, threshold):
    """All pairs anew after every merge; each group is kept with its members, whose plain mean is its box."""
    groups = [[i] for i in range(len(boxes_P4))]
    while len(groups) > 1:
        means = torch.tensor(np.array([boxes_P4[group].mean(0) for group in groups]))
        iou = torch.triu(box_iou(means, means), diagonal=1).numpy()
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        if iou[i, j] < threshold or iou[i, j] == 0:
            break
        groups[i] += groups.pop(j)
    return [(boxes_P4[group].mean(0), scores_P[group].sum()) for group in groups]


def around(rng, count, objects, spread):
    """Boxes strewn around some objects, as places of a map answer."""
    centres_O4 = np.concatenate([rng.uniform(0.2, 0.8, (objects, 2)), rng.uniform(0.15, 0.5, (objects, 2))], 1)
    found_P4 = centres_O4[rng.integers(0, objects, count)] + rng.normal(0, spread, (count, 4))
    return np.concatenate([found_P4[:, :2] - found_P4[:, 2:] / 2, found_P4[:, :2] + found_P4[:, 2:] / 2], 1)


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 45),
    objects=st.integers(1, 5),
    threshold=st.sampled_from([0.2, 0.5, 0.75, 1.0]),
    spread=st.sampled_from([0.01, 0.05, 0.2]),
)
def test_merged_boxes_are_those_of_brute_force(seed, count, objects, threshold, spread):
    rng = np.random.default_rng(seed)
    boxes_P4, scores_P = around(rng, count, objects, spread), rng.random(count)
    wanted = by_brute_force(boxes_P4, scores_P, threshold)
    found_m4, ratings_m = merge(boxes_P4, scores_P, threshold)
    assert len(found_m4) == len(wanted)
    np.testing.assert_allclose(found_m4, [box for box, _ in wanted], atol=1e-9)
    np.testing.assert_allclose(ratings_m, [rating for _, rating in wanted], atol=1e-9)
    best = max(wanted, key=lambda group: group[1])[0]
    np.testing.assert_allclose(best_box(boxes_P4, scores_P, threshold), best, atol=1e-9)


def test_by_hand():
    """Two close boxes outweigh a better one that stands alone."""
    boxes_P4 = np.array([[0, 0, 4, 4], [8, 8, 12, 12], [0, 0, 4, 5]], np.float32)
    scores_P = np.array([0.4, 0.6, 0.3], np.float32)
    found_m4, ratings_m = merge(boxes_P4, scores_P, 0.5)
    assert found_m4.tolist() == [[0, 0, 4, 4.5], [8, 8, 12, 12]]
    assert ratings_m == pytest.approx([0.7, 0.6])
    assert best_box(boxes_P4, scores_P, 0.5).tolist() == [0, 0, 4, 4.5]
    assert best_box(boxes_P4, scores_P, 0.9).tolist() == [8, 8, 12, 12]


def test_a_mean_is_of_all_members_however_they_came_together():
    """Three boxes in a row: the third weighs as much as each of the first two."""
    boxes_P4 = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 15]], np.float64)
    found_m4, _ = merge(boxes_P4, np.ones(3), 0.5)
    assert found_m4.tolist() == [[0, 0, 10, 12]]


def test_boxes_the_wrong_way_round_merge_with_nothing():
    boxes_P4 = np.array([[4, 4, 0, 0], [4, 4, 0, 0], [0, 0, 4, 4]], np.float64)
    assert len(merge(boxes_P4, np.ones(3), 0.5)[0]) == 3
    assert not len(merge(np.empty((0, 4)), np.empty(0), 0.5)[0])
