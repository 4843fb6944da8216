"""Which nets of a study are said to have learnt nothing."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from pipelines.storage.folder import Folder
from tests.testing.test_posteriors import made_up
from vgg.studies import results as study_results
from vgg.studies.tables import test_row as row_of
from vgg.testing import posteriors

IMAGES, CLASSES = 500, 5


def row_for(root, right, largest=IMAGES // CLASSES):
    """A row of a seed for each of `right`: how many images its net gets right; `largest`: images of class 0."""
    others_N = 1 + np.arange(IMAGES - largest, dtype=np.int32) % (CLASSES - 1)
    labels_N = np.r_[np.zeros(largest, np.int32), others_N]
    results, files = {}, {}
    for seed, count in enumerate(right):
        answers_N = np.where(np.arange(IMAGES) < count, labels_N, (labels_N + 1) % CLASSES)
        posteriors_NK = np.full((IMAGES, CLASSES), 0.1, np.float32)
        posteriors_NK[np.arange(IMAGES), answers_N] = 0.6
        files[seed] = Folder(str(root / str(seed)))
        made = made_up(0, images=IMAGES, classes=CLASSES)
        made = replace(made, labels_N=labels_N, posteriors_NK=posteriors_NK)
        posteriors.write(files[seed], "posteriors.arrow", made)
        interval = binomtest(IMAGES - count, IMAGES).proportion_ci(method="wilson")
        error = 100 * (IMAGES - count) / IMAGES
        results[seed] = {
            "top1_error": error,
            "top5_error": 0.0,
            "class_accuracy": [None] * CLASSES,
            "top1_interval": [100 * interval.low, 100 * interval.high],
            "scales": [64],
        }
    return study_results.TestedRow("net", "evaluation", "dense", "single", results, files)


@pytest.mark.parametrize("count", [80, 100, 118, 119, 120, 121, 122, 140])
def test_a_net_within_the_interval_of_the_largest_class_learnt_nothing(tmp_path, count):
    row = row_for(tmp_path, [count])
    known_better = binomtest(count, IMAGES).proportion_ci(method="wilson").low > 1 / CLASSES
    assert row.seeds_learnt_nothing == ([] if known_better else [0])


def test_the_largest_class_is_counted_not_taken_as_one_of_so_many(tmp_path):
    assert row_for(tmp_path / "a", [320], largest=300).seeds_learnt_nothing == [0]
    assert row_for(tmp_path / "b", [350], largest=300).seeds_learnt_nothing == []


def test_five_classes_have_no_top_5_in_the_table(tmp_path):
    row = row_for(tmp_path, [300])
    assert row_of(row)["top5"] == ""
    row.by_seed[0]["class_accuracy"].append(None)
    assert row_of(row)["top5"] == "0.00"


def test_the_table_names_the_seeds(tmp_path):
    assert row_of(row_for(tmp_path / "a", [100, 300, 90]))["note"] == "learnt nothing (seeds 0, 2)"
    assert row_of(row_for(tmp_path / "b", [300, 100]))["note"] == "learnt nothing (seed 1)"
    assert row_of(row_for(tmp_path / "c", [300]))["note"] == ""
