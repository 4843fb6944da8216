"""The data of a training on one worker, and its loaders."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from cli.errors import UserError
from cluster.layout import Worker
from cluster.partition import rank_slice
from pipelines.loading.batch import Batch
from pipelines.loading.draw import Augment
from pipelines.loading.loaders import EvalLoader, TrainLoader, with_box
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.splits import training_splits
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.shards.verification import verify
from pipelines.storage.folder import Folder
from vgg.boxes.start import mean_answer
from vgg.training.job import Job
from vgg.training.profiling import traced


@dataclass(frozen=True)
class TrainingData:
    """What it learns from and validates on, as it lies on this worker's machine."""

    job: Job
    worker: Worker
    manifest: Manifest
    """With the mean that this training subtracts."""
    train_set: Shards
    val_set: Shards
    boxes: dict[str, np.ndarray]
    """Split -> the box of each image, float64 [N, 4], NaN of images without one; empty of a classifier."""

    @classmethod
    def open(cls, job: Job, worker: Worker) -> "TrainingData":
        """Bring the data here if it is remote, and verify it once a node. UserError where it does not fit."""
        layout = job.layout
        if layout.decode != "cpu" and worker.device.type != "cuda":
            raise UserError(f"--layout.decode {layout.decode} needs GPUs, and this worker has none")
        folder = Path(layout.stage_dir) if layout.stage_dir else DEFAULT_FOLDER
        options = StagingOptions(job.plan.data, folder, layout.stage_gb)
        splits = training_splits(job.plan.manifest)
        root = stage(options, splits=splits, underway=True, flag="--data")
        manifest = read_manifest(root)
        if manifest.digest != job.plan.manifest.digest:
            raise UserError(
                f"--data {job.plan.data} is another data set on this node: its digest is "
                f"{manifest.digest[:12]}, the training was started on {job.plan.manifest.digest[:12]}"
            )
        if worker.local_rank == 0:
            verify(root, manifest, splits)
        train_set, val_set = (Shards(root, manifest, split) for split in splits)
        boxes = {}
        if job.plan.architecture.boxes is not None:
            boxes = {"train": train_set.own_boxes().targets_N4, "val": val_set.own_boxes().targets_N4}
        return cls(job, worker, replace(manifest, mean_rgb=job.plan.mean_rgb), train_set, val_set, boxes)

    @contextmanager
    def batches(self, rows: range, first_step: int) -> Iterator[Iterator[Batch]]:
        """The batches of `train_loader`; with `--train.cached-batch` the first of them over and over, with
        `--train.profile` a trace of what is done between them."""
        train = self.job.plan.recipe.train
        with self.train_loader(rows, first_step) as loader:
            batches: Iterator[Batch] = repeat(_copied(next(loader))) if train.cached_batch else loader
            if train.profile is None:
                yield batches
                return
            folder = Folder(self.job.out, "--out").underway()
            with closing(traced(batches, train.profile, folder, self.worker)) as with_trace:
                yield with_trace

    def train_loader(self, rows: range, first_step: int) -> TrainLoader:
        """This worker's `rows` of each global batch, from `first_step` to the end of the training."""
        plan, layout = self.job.plan, self.job.layout
        return TrainLoader(
            self.train_set,
            self.manifest,
            self._augment,
            seed=plan.seed,
            batch=plan.recipe.train.batch,
            rows=rows,
            first_step=first_step,
            steps=plan.total_steps - first_step,
            device=self.worker.device,
            threads=self.worker.threads,
            placement=layout.decode,
            prefetch=layout.prefetch,
            boxes_N4=self.boxes.get("train"),
        )

    @property
    def _augment(self) -> Augment:
        crop = self.job.plan.recipe.input
        side = self.job.plan.recipe.model.side
        return Augment(side, crop.min_scale, crop.max_scale, crop.mirror, crop.colour_std)

    def mean_answer(self) -> torch.Tensor:
        """What a box net answers that says the mean training box of every image, float32 [outputs]."""
        images, architecture = self.train_set, self.job.plan.architecture
        of_images = self.boxes["train"], images.heights_N, images.widths_N, images.labels_N
        return mean_answer(*of_images, self._augment, architecture)

    @cached_property
    def val_loader(self) -> EvalLoader:
        """This worker's share of the validation images, each once; of a box net, of those with a box."""
        recipe, layout, worker = self.job.plan.recipe, self.job.layout, self.worker
        boxes_N4 = self.boxes.get("val")
        images_N = np.arange(len(self.val_set)) if boxes_N4 is None else with_box(boxes_N4)
        return EvalLoader(
            self.val_set,
            self.manifest,
            images_N[rank_slice(worker.rank, worker.world, len(images_N))],
            side=recipe.model.side,
            scale=recipe.input.test_scale,
            batch=layout.micro_batch or recipe.train.batch // worker.world or 1,
            device=worker.device,
            threads=worker.threads,
            placement=layout.decode,
            prefetch=layout.prefetch,
            boxes_N4=boxes_N4,
            kept=True,
        )


def _copied(batch: Batch) -> Batch:
    """A batch with memory of its own, which its loader does not use again."""
    return replace(
        batch,
        images_BHWC=batch.images_BHWC.clone(),
        offset_BC=batch.offset_BC.clone(),
        labels_B=batch.labels_B.clone(),
        boxes_B4=None if batch.boxes_B4 is None else batch.boxes_B4.clone(),
    )
