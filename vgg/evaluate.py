"""Scores a net on a split: every image once, and the divisor is the number seen.

    python -m vgg.evaluate RUN_OR_CHECKPOINT --data FOLDER

scores the centre crop of every validation image.

Shapes: B images of a batch, K classes, k the best of them that count as a top-5 hit.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import nn

from cluster.strategy import sum_over_workers
from pipelines.dali import Batch, EvalLoader, to_input
from pipelines.shards import Shards, read_manifest, verify
from vgg import checkpoint
from vgg.model import VGG, Architecture


@dataclass(frozen=True)
class Scores:
    """Counts over every image seen, by all workers."""

    seen: int
    top1: int
    """Images whose best-scored class is the true one."""
    top5: int
    """Images whose true class is among the five best (all of them where there are fewer)."""
    loss: float
    """Mean cross-entropy in nats."""
    confusion_KK: torch.Tensor
    """Images by true class (row) and best-scored class (column), int64, on the CPU."""

    @property
    def top1_accuracy(self) -> float:
        """Share of images whose best-scored class is the true one."""
        return self.top1 / self.seen

    @property
    def top5_accuracy(self) -> float:
        """Share of images whose true class is among the five best."""
        return self.top5 / self.seen


@torch.no_grad()
def score_crops(
    net: nn.Module,
    batches: Iterable[Batch],
    *,
    classes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Scores:
    """Score one crop an image; `batches` are this worker's share, the counts everybody's."""
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # seen, top 1, top 5
    loss = torch.zeros((), dtype=torch.float64, device=device)
    confusion_KK = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    for batch in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores_BK = net(to_input(batch)).flatten(1)
        scores_BK, labels_B = scores_BK.float(), batch.labels_B
        hits_Bk = scores_BK.topk(min(5, classes)).indices == labels_B[:, None]
        counts += torch.stack([torch.tensor(len(labels_B), device=device), hits_Bk[:, 0].sum(), hits_Bk.sum()])
        loss += F.cross_entropy(scores_BK, labels_B, reduction="sum")
        pairs = labels_B * classes + scores_BK.argmax(1)
        confusion_KK += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    seen, top1, top5 = sum_over_workers(counts).tolist()
    mean_loss = sum_over_workers(loss).item() / max(seen, 1)
    return Scores(seen, top1, top5, mean_loss, sum_over_workers(confusion_KK).cpu())


@dataclass(frozen=True)
class Evaluation:
    """Score the centre crop of every image of a split."""

    checkpoint: tyro.conf.Positional[str]
    """Run folder, of which the best checkpoint is taken, or a checkpoint's folder."""
    data: Path
    """Folder of the packed data set."""
    split: str = "val"
    batch: int = 64
    """Images scored at once."""


def evaluate(options: Evaluation) -> Scores:
    """Score as asked. ValueError where checkpoint and data do not fit each other."""
    state = checkpoint.find(options.checkpoint)
    manifest = read_manifest(options.data)
    if list(manifest.class_names) != state.about["classes"]:
        raise ValueError(f"{options.checkpoint} was trained on other classes than {options.data} has")
    verify(options.data, manifest)
    shards = Shards(options.data, manifest, options.split)
    model, crop = state.about["recipe"]["model"], state.about["recipe"]["input"]
    classes = len(manifest.classes)
    net = VGG(Architecture(model["configuration"], classes, model["side"], model["width"]))
    net.load_state_dict(state.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = EvalLoader(
        shards,
        manifest,
        range(len(shards)),
        side=model["side"],
        scale=crop["test_scale"],
        batch=options.batch,
        device=device,
        threads=os.cpu_count() or 1,
    )
    with loader:
        net = net.to(device).to(memory_format=torch.channels_last)
        return score_crops(net, loader, classes=classes, device=device, dtype=torch.float32)


def main() -> None:
    """Evaluate and print. Exit code 2 for a user's mistake."""
    options = tyro.cli(Evaluation, prog="python -m vgg.evaluate")
    try:
        scores = evaluate(options)
    except ValueError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    print(
        f"{options.split}, single crop: top-1 error {1 - scores.top1_accuracy:.2%}, "
        f"top-5 error {1 - scores.top5_accuracy:.2%} on {scores.seen:,} images"
    )


if __name__ == "__main__":
    main()
