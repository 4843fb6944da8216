"""The confusion matrix against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from vgg.metrics.confusion import confusion_matrix


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("images", "classes"), [(5000, 12), (700, 1000), (1, 3)])
def test_counts_are_scikit_learns(images: int, classes: int, dtype: torch.dtype) -> None:
    """Labels as shards hold them (int32) or as batches do (int64); classes without an image included."""
    rng = np.random.default_rng(0)
    labels_B, predicted_B = rng.integers(0, classes, (2, images))
    counts_KK = confusion_matrix(torch.tensor(labels_B, dtype=dtype), torch.tensor(predicted_B), classes)
    assert counts_KK.dtype == torch.int64
    expected_KK = sklearn_confusion_matrix(labels_B, predicted_B, labels=range(classes))
    np.testing.assert_array_equal(counts_KK, expected_KK)


def test_no_image_is_no_count() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert confusion_matrix(nothing, nothing, 4).tolist() == [[0] * 4] * 4


def test_a_class_beyond_the_last_is_an_error() -> None:
    """Not counted in another row: the number of classes is the net's, the labels are the data's."""
    with pytest.raises(IndexError):
        confusion_matrix(torch.tensor([3]), torch.tensor([2]), 3)
