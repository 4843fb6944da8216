"""What a localisation test is given, opened and checked: box net, classifier, scales, and the images with
boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli.errors import UserError
from pipelines.shards.boxes import OwnBoxes
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from vgg.localisation.provenance import BoxNet, BoxProtocol, BoxProvenance
from vgg.localisation.stored import StoredBoxes
from vgg.testing.scales import requested_scales
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet


@dataclass(frozen=True)
class TestedData:
    """A split, and its images that have boxes."""

    manifest: Manifest
    shards: Shards
    split: str
    boxes: OwnBoxes
    images_N: np.ndarray
    """Indices of the images that have a box, ascending."""

    @classmethod
    def open(cls, root: Path, split: str) -> "TestedData":
        """UserError if there is no such split, or no image of it has a box."""
        manifest = read_manifest(root)
        shards = Shards(root, manifest, split)
        boxes = shards.own_boxes()
        images_N = np.unique(boxes.images_M)
        if not len(images_N):
            raise UserError(f"{root} has no image with a box of its own class in split {split!r}")
        return cls(manifest, shards, split, boxes, images_N)

    @property
    def keys(self) -> list[str]:
        """Of the images that have a box."""
        return [self.shards.key(int(image)) for image in self.images_N]

    def require_tested_by(self, results: Sequence[StoredBoxes], names: Sequence[str]) -> None:
        """UserError unless all are dense tests of different nets on these images."""
        seen: dict[str, str] = {}
        for result, name in zip(results, names, strict=True):
            found = result.provenance
            if found.protocol != "dense":
                raise UserError(
                    f"{name} is of the centre crop with the true class: only dense results are fused"
                )
            if (found.data, found.split) != (self.manifest.digest, self.split):
                raise UserError(f"{name} is of other data than --data, or of another split")
            if result.images != len(self.images_N):
                raise UserError(f"{name} is of {result.images:,} images, the data have {len(self.images_N):,}")
            if other := seen.get(found.identity):
                raise UserError(f"{other} and {name} are results of one test: fuse different ones")
            seen[found.identity] = name


def open_box_net(reference: str) -> TrainedNet:
    """UserError if there is no sound net, or it is a classifier."""
    net = open_net(reference)
    if net.architecture.boxes is None:
        raise UserError(
            f"{net.name} answers classes, not boxes: python -m vgg.localise train makes a box net of it"
        )
    return net


def opened_classifier(net: TrainedNet, reference: str) -> TrainedNet:
    """The net that rates the boxes: that of `reference`, or the one that the box net started from, where it
    lay.

    UserError if it cannot be opened, has other weights by now, or does not fit the box net.
    """
    metadata = net.metadata or {}
    default = not reference
    if default:
        reference = (metadata.get("recipe", {}).get("model", {}).get("start_from")) or ""
        if not reference:
            raise UserError(f"--classifier is missing: {net.name} does not say which net it started from")
    try:
        classifier = open_net(reference, "--classifier")
    except UserError as error:
        if not default:
            raise
        raise UserError(
            f"{error}; {net.name} started from it: say with --classifier where it lies now"
        ) from error
    if default and not is_own(net, classifier):
        raise UserError(
            f"{reference} holds other weights than {net.name} started from: name a net by --classifier"
        )
    classifier.require_classifier()
    if classifier.architecture.side != net.architecture.side:
        raise UserError(
            f"--classifier {reference} is for crops of {classifier.architecture.side} pixels, {net.name} for "
            f"{net.architecture.side}: their places differ"
        )
    return classifier


def is_own(net: TrainedNet, classifier: TrainedNet) -> bool:
    """Whether the box net started from this classifier."""
    lineage = (net.metadata or {}).get("lineage") or [{}]
    return bool(lineage[0].get("weights_sha256") == classifier.weights_sha256)


def tested_scales(value: str, net: TrainedNet, protocol: BoxProtocol) -> tuple[int, ...]:
    """The test scales that a value of `--scales` stands for. UserError if it stands for none that fit."""
    scales = requested_scales(value, net)
    if protocol == "centre" and len(scales) > 1:
        raise UserError(f"--scales {value}: the centre crop is tested at one scale")
    return scales


def box_provenance(
    net: TrainedNet,
    classifier: TrainedNet | None,
    data: TestedData,
    protocol: BoxProtocol,
    scales: tuple[int, ...],
    precision: str,
) -> BoxProvenance:
    """Of one net's boxes."""
    member = BoxNet(
        net=net.name,
        weights_sha256=net.weights_sha256,
        recipe=net.recipe,
        configuration=net.architecture.configuration,
        trained_at=net.training_scale,
        boxes=str(net.architecture.boxes),
        trained_on=net.trained_on,
        started_from=net.started_from,
        classifier="" if classifier is None else classifier.weights_sha256,
        own_classifier=classifier is None or is_own(net, classifier),
        scales=scales,
        precision=precision,
    )
    manifest = data.manifest
    return BoxProvenance(
        data=manifest.digest,
        source=manifest.source,
        split=data.split,
        classes=manifest.classes,
        class_names=manifest.class_names,
        train_images=manifest.splits["train"].images if "train" in manifest.splits else 0,
        protocol=protocol,
        nets=(member,),
    )
