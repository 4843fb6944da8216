"""Errors of boxes: merged, rated, and compared with the true ones.

With the true class an image is right if the box of that class is; else if its class is among the most probable
one or five and the box of that class is right. A box is right if it overlaps with any of the image's own boxes
by more than half. Of classes that are equally probable the true one counts as the last.

Shapes: N tested images, K classes; 4: xmin, ymin, xmax, ymax as fractions of the image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cli.errors import UserError
from pipelines.shards.boxes import OwnBoxes
from vgg.boxes.geometry import LOCATED_IOU, overlaps
from vgg.localisation.candidates import ImageBoxes
from vgg.localisation.merging import best_box
from vgg.localisation.stored import StoredBoxes
from vgg.metrics.bootstrap import Difference, paired_bootstrap
from vgg.metrics.interval import wilson_interval
from vgg.testing.scoring import blocks

TOP = 5
SHOWN = 24


@dataclass(frozen=True)
class Located:
    """An image, the box of its most probable class (or the true one), and how much it overlaps with a true
    one."""

    image: int
    """Index into the split."""
    label: int
    box_4: np.ndarray
    iou: float
    """0 if the class is another than the true one."""


@dataclass(frozen=True)
class BoxErrors:
    """Counts over all images that have a box."""

    seen: int
    top1_wrong: int
    top5_wrong: int | None
    """None where the true class is given."""
    mean_iou: float
    """Of the best box, 0 where its class is wrong."""
    mean_box_wrong: int | None
    """If the training set's mean box were answered for every image, with its true class; None without one."""
    shown: tuple[Located, ...]
    """Some images, spread over the split."""
    mean_box_iou: float | None = None
    """Mean overlap of the training set's mean box; None without one."""
    difference: Difference | None = None
    """With the true class, the error less the mean box's on the same images; None without either."""

    def to_json(self) -> dict[str, Any]:
        """The fields of result.json; errors and intervals (Wilson's of errors, 95 %) in percent."""
        fields: dict[str, Any] = {"images": self.seen, "mean_iou": self.mean_iou}
        fields["mean_box_iou"] = self.mean_box_iou
        for name in ("top1", "top5", "mean_box"):
            wrong = getattr(self, f"{name}_wrong")
            fields[f"{name}_wrong"] = wrong
            fields[f"{name}_error"] = None if wrong is None else 100 * wrong / self.seen
            fields[f"{name}_interval"] = None if wrong is None else list(wilson_interval(wrong, self.seen))
        difference = self.difference
        fields["difference"] = None if difference is None else difference.mean
        fields["difference_interval"] = None if difference is None else list(difference.interval)
        return fields


def count_errors(
    results: Sequence[StoredBoxes],
    images_N: np.ndarray,
    truth: OwnBoxes,
    threshold: float,
    mean_box: Sequence[float] | None,
) -> BoxErrors:
    """Errors of the union of all results' boxes, merged at this threshold.

    `images_N`: the tested images' indices into the split, of which `truth` are the boxes. UserError if the
    results are of other images, or of each other."""
    wrong: dict[str, list[bool]] = {"top1": [], "top5": [], "mean": []}
    overlap, mean_overlap, shown = 0.0, 0.0, []
    spread = set(np.linspace(0, len(images_N) - 1, min(SHOWN, len(images_N))).astype(int).tolist())
    given = results[0].provenance.protocol == "centre"
    mean_4 = None if mean_box is None else np.asarray(mean_box)
    for place, of_results in enumerate(_together(results, len(images_N))):
        image = int(images_N[place])
        label = of_results[0].label
        own_m4 = truth.of(image)
        ranked = [label] if given else _ranked(of_results, label)
        best = _best_box(of_results, ranked[0], threshold)
        iou = _best_overlap(best, own_m4) if ranked[0] == label else 0.0
        overlap += iou
        wrong["top1"].append(not iou > LOCATED_IOU)
        true_iou = iou
        if ranked[0] != label and label in ranked:
            true_iou = _best_overlap(_best_box(of_results, label, threshold), own_m4)
        wrong["top5"].append(not true_iou > LOCATED_IOU)
        of_mean = _best_overlap(mean_4, own_m4)
        mean_overlap += of_mean
        wrong["mean"].append(not of_mean > LOCATED_IOU)
        if place in spread and best is not None:
            shown.append(Located(image, ranked[0], best, iou))
    seen, counts = len(images_N), {name: sum(values) for name, values in wrong.items()}
    top5 = None if given else counts["top5"]
    found = seen, counts["top1"], top5, overlap / max(seen, 1)
    if mean_4 is None:
        return BoxErrors(*found, None, tuple(shown))
    net_N1, mean_N1 = (np.array(wrong[name], float)[:, None] for name in ("top1", "mean"))
    difference = paired_bootstrap(net_N1, mean_N1) if given else None
    return BoxErrors(*found, counts["mean"], tuple(shown), mean_overlap / max(seen, 1), difference)


def _together(results: Sequence[StoredBoxes], images: int) -> Iterator[list[ImageBoxes]]:
    """Each image as every result has it. UserError where they are of different images."""
    for result in results:
        if result.images != images:
            raise UserError(f"{result.folder.uri} is of {result.images:,} images, not {images:,}: test again")
    for first, _ in blocks(images):
        of_block = [result.block(first) for result in results]
        for of_image in zip(*of_block, strict=True):
            if len({(image.key, image.label) for image in of_image}) > 1:
                raise UserError(f"{results[0].folder.uri} and others are of different images")
            yield list(of_image)


def _ranked(of_results: Sequence[ImageBoxes], label: int) -> list[int]:
    """The five most probable classes by the mean of the results' posteriors; the true one the last of
    equals."""
    mean_K: np.ndarray = np.asarray(np.mean([image.posterior_K for image in of_results], 0, dtype=np.float64))
    is_true_K = np.arange(len(mean_K)) == label
    return np.lexsort((is_true_K, -mean_K))[:TOP].tolist()


def _best_box(of_results: Sequence[ImageBoxes], label: int, threshold: float) -> np.ndarray | None:
    """The best box of a class among the union of all results' boxes; None if none has any."""
    boxes, scores = zip(*(image.of_class(label) for image in of_results), strict=True)
    boxes_P4, scores_P = np.concatenate(boxes), np.concatenate(scores)
    return best_box(boxes_P4, scores_P, threshold) if len(boxes_P4) else None


def _best_overlap(box_4: np.ndarray | None, own_m4: np.ndarray) -> float:
    if box_4 is None:
        return 0.0
    same_m4 = torch.from_numpy(np.broadcast_to(np.asarray(box_4, np.float64), own_m4.shape).copy())
    return float(overlaps(same_m4, torch.from_numpy(own_m4)).max())
