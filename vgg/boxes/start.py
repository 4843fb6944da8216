"""What a box net answers before it has learnt anything: the mean training box.

Shapes: N training images, K outputs of the net, 4: xmin, ymin, xmax, ymax.
"""

import numpy as np
import torch

from pipelines.loading.boxes import mean_in_crops
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import with_box
from vgg.boxes.geometry import to_centres
from vgg.net.architecture import Architecture


def mean_answer(
    boxes_N4: np.ndarray,
    heights_N: np.ndarray,
    widths_N: np.ndarray,
    labels_N: np.ndarray,
    augment: Augment,
    architecture: Architecture,
) -> torch.Tensor:
    """The mean box of all training crops, or of each class, float32 [K]; a class without a box has that of all.

    `boxes_N4`: fractions of the image, NaN of images without one.
    """
    boxed_N = with_box(boxes_N4)
    in_crops_N4 = mean_in_crops(boxes_N4[boxed_N], heights_N[boxed_N], widths_N[boxed_N], augment)
    answers_N4 = to_centres(torch.from_numpy(in_crops_N4)).numpy()
    classes = architecture.outputs // 4
    groups_N = np.zeros(len(boxed_N), np.int64) if architecture.boxes == "single" else labels_N[boxed_N]
    counts_C = np.bincount(groups_N, minlength=classes)
    # bincount adds in the order of the images, so that all processors round alike.
    sums_4C = np.stack([np.bincount(groups_N, of_edge_N, classes) for of_edge_N in answers_N4.T])
    of_all_41 = sums_4C.sum(1, keepdims=True) / len(boxed_N)
    means_4C = np.where(counts_C > 0, sums_4C / np.maximum(counts_C, 1), of_all_41)
    return torch.from_numpy(means_4C.T.astype(np.float32).reshape(-1))
