"""Extracts the features of a split and saves them: every block of every net, scale and region, then the
descriptors.

    OUT/parts/NET-SPLIT-Q-…/FIRST.arrow    activations of a block of images; what is saved is not computed again
    OUT/NETS-COMBINE-Q-…/SPLIT.arrow       descriptors of the whole split

Other scales, regions, combinations and nets reuse the same blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cli.errors import UserError
from cli.progress import ProgressMeter
from pipelines.storage.folder import Folder
from vgg.testing.passes import Images
from vgg.testing.scoring import blocks
from vgg.transferring import feature_file
from vgg.transferring.combining import combined
from vgg.transferring.extraction import FeatureTask
from vgg.transferring.feature_file import FeatureFile, Features, Labels
from vgg.transferring.provenance import FeatureProvenance

TaskRunner = Callable[[Sequence[FeatureTask]], Iterable[tuple[FeatureTask, np.ndarray]]]
"""Computes tasks, on a cluster say: yields each with its activations, in any order."""


@dataclass(frozen=True)
class ExtractedSplit:
    """The features of a split: those that are saved, and those still to compute."""

    out: Folder
    provenance: FeatureProvenance
    images: Images
    labels: Labels
    difficult: Labels
    units: tuple[int, ...]
    """Of each net's fc7."""

    @property
    def folder(self) -> Folder:
        """Of the descriptors."""
        return self.out.child(self.provenance.name)

    def extract(self, run_tasks: TaskRunner) -> None:
        """Compute what is missing or damaged, and write the descriptors. Whatever `run_tasks` raises."""
        bounds = blocks(len(self.images.keys))
        tasks = [
            task
            for net, of_net in enumerate(self.provenance.nets)
            for region in self.provenance.regions
            for scale in of_net.scales
            for first, stop in bounds
            if not self._is_saved(task := FeatureTask(net, scale, region, first, stop))
        ]
        if tasks:
            total = sum(task.stop - task.first for task in tasks)
            with ProgressMeter(f"features of {self.provenance.split}", total, "images of all passes") as meter:
                for task, activations_BF in run_tasks(tasks):
                    self._save(task, activations_BF)
                    meter.advance(task.stop - task.first)
        self._write_descriptors(bounds)

    def _write_descriptors(self, bounds: Sequence[tuple[int, int]]) -> None:
        nets, regions, how = self.provenance.nets, self.provenance.regions, self.provenance.combine

        def descriptors() -> Iterator[Features]:
            for first, stop in bounds:
                of_sources = [
                    [self._read(FeatureTask(i, scale, region, first, stop)).features_NF for scale in net.scales]
                    for i, net in enumerate(nets)
                    for region in regions
                ]
                yield self._block(first, stop, combined(of_sources, how))

        scales = (1 if how == "mean" else len(net.scales) for net in nets)
        width = len(regions) * sum(units * count for units, count in zip(self.units, scales, strict=True))
        name, count = f"{self.provenance.split}.arrow", len(self.images.keys)
        feature_file.write(self.folder, name, self.provenance, count, width, descriptors())

    def _of(self, task: FeatureTask) -> FeatureProvenance:
        return self.provenance.of_pass(task.net, task.scale, task.region)

    def _save(self, task: FeatureTask, activations_BF: np.ndarray) -> None:
        block = self._block(task.first, task.stop, activations_BF)
        count, width = activations_BF.shape
        feature_file.write(self.out, self._file(task), self._of(task), count, width, [block])

    def _is_saved(self, task: FeatureTask) -> bool:
        if not self.out.exists(self._file(task)):
            return False
        try:
            self._read(task)
        except UserError as error:
            print(f"computed again: {error}", flush=True)
            return False
        return True

    def _read(self, task: FeatureTask) -> Features:
        """UserError if it is damaged, or of other images."""
        file = self._file(task)
        opened = FeatureFile(self.out, file)
        block, ours = opened.all(), self._block(task.first, task.stop, np.empty((0, self.units[task.net])))
        identity = self._of(task).numbers_identity
        same_images = block.of_the_images_of(ours)
        same_net = (opened.provenance.numbers_identity, opened.units) == (identity, self.units[task.net])
        if not (same_images and same_net):
            raise UserError(f"{self.out.described}/{file} is of other images or another net: extract it again")
        return block

    def _file(self, task: FeatureTask) -> str:
        provenance = self._of(task)
        (net,) = provenance.nets
        of_box, identity = "box-" if task.region == "box" else "", provenance.numbers_identity[:8]
        return f"parts/{net.net}-{provenance.split}-{task.scale}-{of_box}{identity}/{task.first:08d}.arrow"

    def _block(self, first: int, stop: int, features_BF: np.ndarray) -> Features:
        rows = slice(first, stop)
        return Features(self.images.keys[rows], self.labels[rows], self.difficult[rows], features_BF)
