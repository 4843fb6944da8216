"""Which splits of a data set a training reads: what it learns from, and what it chooses by."""

from pipelines.shards.manifest import Manifest

HOLDOUT = "holdout"
"""Images kept apart from the training images to choose by, so that nothing is chosen by what is tested on."""
FEW_VALIDATION_IMAGES = 20
"""With fewer, one image is more than 5 % of the accuracy."""


def validation_split(manifest: Manifest) -> str:
    """The split that a training validates on: learning rate, best step and early stopping follow from it."""
    return HOLDOUT if HOLDOUT in manifest.splits else "val"


def why_few(images: int) -> str | None:
    """What so few validation images cannot tell; None where they are enough."""
    if images >= FEW_VALIDATION_IMAGES:
        return None
    return (
        f"of {images:,} validation images each is {1 / images:.0%} of the accuracy: a difference of a few says "
        "nothing; add images, or raise --val-share in packing"
    )


def training_splits(manifest: Manifest) -> tuple[str, str]:
    """What a training reads."""
    return "train", validation_split(manifest)
