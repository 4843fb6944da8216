"""Validation during a training: the centre crop of every image once; the divisor is the number seen.

Shapes: B images of a batch, K classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cluster.collectives import sum_over_workers
from pipelines.loading.batch import Batch, to_input
from vgg.metrics.confusion import confusion_matrix
from vgg.metrics.top5 import TOP, has_top5
from vgg.net.precision import MixedPrecision

WORST = 12  # mistakes that are remembered


@dataclass(frozen=True)
class ValidationScores:
    """Counts over every image seen, by all workers."""

    seen: int
    top1: int
    """Images whose true class is scored higher than every other, as in `vgg.metrics.accuracy`."""
    top5: int
    """Images of whose other classes fewer than five are scored as high as the true one."""
    loss: float
    """Mean cross-entropy in nats."""
    confusion_KK: torch.Tensor
    """Images by true class (row) and best-scored class (column), int64, on the CPU."""
    worst: tuple[int, ...] = ()
    """Indices into the split of this worker's mistakes with the highest loss, the worst first."""

    @property
    def top1_accuracy(self) -> float:
        """Share of images whose best-scored class is the true one."""
        return self.top1 / self.seen

    @property
    def top5_accuracy(self) -> float | None:
        """Share of images whose true class is among the five best; None with five classes or fewer, where it
        always is."""
        return self.top5 / self.seen if has_top5(len(self.confusion_KK)) else None

    @property
    def majority_share(self) -> float:
        """Share of images of the largest class: the accuracy of a net that always answers it."""
        return self.confusion_KK.sum(1).max().item() / self.seen

    @property
    def only_class(self) -> int | None:
        """The class that every image was taken for, if that was one and the same and the net has several."""
        answered = self.confusion_KK.sum(0).nonzero().flatten().tolist()
        return answered[0] if len(answered) == 1 and len(self.confusion_KK) > 1 else None

    def metrics(self) -> dict[str, float]:
        """Curves of a tracked run: shares as fractions, errors in percent."""
        found = {
            "val/loss": self.loss,
            "val/top1_accuracy": self.top1_accuracy,
            "val/top1_error": round(100 * (1 - self.top1_accuracy), 3),
            "val/majority_share": self.majority_share,
        }
        if self.top5_accuracy is not None:
            found |= {"val/top5_accuracy": self.top5_accuracy, "val/top5_error": 100 * (1 - self.top5_accuracy)}
        return found

    def summary(self) -> dict[str, Any]:
        """What a training keeps of a validation: loss in nats, shares as fractions, counts."""
        return {
            "loss": self.loss,
            "top1": self.top1_accuracy,
            "top5": self.top5_accuracy,
            "majority": self.majority_share,
            "only_class": self.only_class,
            "seen": self.seen,
        }


@torch.no_grad()
def validate(
    net: nn.Module,
    batches: Iterable[Batch],
    *,
    classes: int,
    device: torch.device,
    precision: MixedPrecision,
) -> ValidationScores:
    """Score one crop of each image; `batches` are this worker's share, the scores are over all workers'."""
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # seen, top 1, top 5
    loss = torch.zeros((), dtype=torch.float64, device=device)
    confusion_KK = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    wrong: list[tuple[torch.Tensor, np.ndarray]] = []
    for batch in batches:
        with precision.autocast():
            scores_BK = net(to_input(batch)).flatten(1)
        scores_BK, labels_B = scores_BK.float(), batch.labels_B
        # Others that are scored as high or higher: a tie, or NaN, never counts in the net's favour.
        rank_B = (~(scores_BK < scores_BK.gather(1, labels_B.long()[:, None]))).sum(1) - 1
        counts += torch.stack(
            [torch.tensor(len(labels_B), device=device), (rank_B < 1).sum(), (rank_B < TOP).sum()]
        )
        losses_B = F.cross_entropy(scores_BK, labels_B, reduction="none")
        wrong.append((losses_B.masked_fill(rank_B < 1, -1), batch.images_B))
        loss += F.cross_entropy(scores_BK, labels_B, reduction="sum")
        confusion_KK += confusion_matrix(labels_B, scores_BK.argmax(1), classes)
    seen, top1, top5 = sum_over_workers(counts).tolist()
    mean_loss = sum_over_workers(loss).item() / max(seen, 1)
    confusion_KK = sum_over_workers(confusion_KK).cpu()
    return ValidationScores(seen, top1, top5, mean_loss, confusion_KK, _worst(wrong))


def _worst(wrong: Sequence[tuple[torch.Tensor, np.ndarray]]) -> tuple[int, ...]:
    """Indices of the highest losses; those of images that are no mistakes are negative."""
    if not wrong:
        return ()
    losses_N = torch.cat([losses_B for losses_B, _ in wrong]).cpu().numpy()
    images_N = np.concatenate([images_B for _, images_B in wrong])
    ordered = np.argsort(-losses_N, kind="stable")[:WORST]
    return tuple(int(images_N[i]) for i in ordered if losses_N[i] >= 0)


def describe(validation: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """A line for people about `ValidationScores.summary`: the accuracy beside that of always answering the
    largest class, and a warning where one class takes all. Of a validation by an earlier version, less.

    Of `BoxScores.summary` the share of images located.
    """
    if "mean_iou" in validation:
        return _describe_boxes(validation)
    line = f"top-1 {validation['top1']:.2%}"
    if (majority := validation.get("majority")) is not None:
        line += f" (largest class alone {majority:.2%})"
    if validation["top5"] is not None:
        line += f", top-5 {validation['top5']:.2%}"
    line += f", loss {validation['loss']:.4f} on {validation['seen']:,} images"
    if (train_loss := validation.get("train_loss")) is not None:
        top1 = validation["train_top1"]
        line += f"; training {'' if top1 is None else f'top-1 {top1:.2%}, '}loss {train_loss:.4f}"
    if (only := validation.get("only_class")) is not None:
        line += f"; warning: every image was taken for {class_names[only]}, so nothing is told apart"
    return line


def _describe_boxes(validation: Mapping[str, Any]) -> str:
    line = (
        f"located {validation['top1']:.2%} (IoU over 0.5; mean IoU {validation['mean_iou']:.3f}), loss "
        f"{validation['loss']:.4f} on {validation['seen']:,} images"
    )
    train_loss, train_top1 = validation.get("train_loss"), validation.get("train_top1")
    if train_loss is None or train_top1 is None:
        return line
    return f"{line}; training located {train_top1:.2%}, loss {train_loss:.4f}"
