"""What the features of these nets are of, and whether the images have what they are of."""

from collections.abc import Sequence

from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from vgg.testing.scales import requested_scales
from vgg.transferring.provenance import Combine, FeatureNet, FeatureProvenance, Region
from vgg.weights.trained_net import TrainedNet


def feature_provenance(
    nets: Sequence[TrainedNet],
    manifest: Manifest,
    scales: Sequence[int],
    combine: Combine,
    regions: tuple[Region, ...],
    precision: str,
) -> FeatureProvenance:
    """Of no split yet. `scales`: none for each net's of the validation. UserError if one does not fit a net."""
    value = ",".join(map(str, scales)) or "validation"
    members = tuple(
        FeatureNet(
            net=net.name,
            weights_sha256=net.weights_sha256,
            recipe=net.recipe,
            configuration=net.architecture.configuration,
            trained_at=net.training_scale,
            trained_on=net.trained_on,
            trained_on_name=str((net.metadata or {}).get("data_name", "")),
            classes=net.architecture.classes,
            started_from=net.started_from,
            scales=requested_scales(value, net),
            precision=precision,
        )
        for net in nets
    )
    return FeatureProvenance(
        data=manifest.digest,
        source=manifest.source,
        split="",
        classes=manifest.classes,
        class_names=manifest.class_names,
        several_labels=manifest.several_labels,
        combine=combine if any(len(member.scales) > 1 for member in members) else "mean",
        nets=members,
        regions=regions,
    )


def require_boxes(manifest: Manifest, splits: Sequence[str]) -> None:
    """UserError if an image of one of the splits has no box of its own."""
    for split in splits:
        images = manifest.splits[split].images
        boxed = manifest.boxes.images.get(split, 0) if manifest.boxes is not None else 0
        if boxed < images:
            raise UserError(
                f"--regions box: {images - boxed:,} of {images:,} images of split {split} have no box of their "
                "own"
            )
