"""Images of a class that are held out from training, chosen by their names."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cli.errors import UserError
from pipelines.shards.splits import HOLDOUT
from pipelines.sources.source import IMAGE_SUFFIXES, Source


def held_out(keys: Sequence[str], share: float) -> set[str]:
    """The files of one class that are held out: of its images so many as `share` says, rounded, at least one
    and at most all but one; none of a single one.

    Those whose names have the smallest hashes, so that the choice does not depend on order or other classes.
    """
    images = [key for key in keys if key.lower().endswith(IMAGE_SUFFIXES)] or list(keys)
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    by_hash = sorted(images, key=lambda key: hashlib.sha256(os.fsencode(key)).digest())
    return set(by_hash[: max(count, 0)])


def with_holdout(source: Source, share: float) -> Source:
    """The source with `share` of each class's training images in a split of their own; without, if it is 0.

    UserError where the share or the source does not allow it.
    """
    if share == 0:
        return source
    if not 0 < share < 1:
        raise UserError(f"--holdout-share {share} must be 0 or lie between 0 and 1")
    if source.several_labels:
        raise UserError("--holdout-share is of each class: this source's images may be of several")
    if HOLDOUT in source.counts:
        raise UserError("--holdout-share: the source has a split holdout already")
    by_class: dict[str, list[str]] = {}
    for file in source.files:
        if file.split == "train":
            by_class.setdefault(file.label, []).append(file.key)
    chosen = {key for keys in by_class.values() for key in held_out(keys, share)}
    if not chosen:
        raise UserError("--holdout-share: no class has a training image to spare, each has a single one")
    files = [
        replace(file, split=HOLDOUT) if file.split == "train" and file.key in chosen else file
        for file in source.files
    ]
    return replace(source, files=files)


def share_text(files: Sequence[str], classes: Sequence[str], share: float) -> str:
    """How many of each class are held out; `files`: the class of each that is."""
    counts = Counter(files)
    fewest, most = (choose(counts[label] for label in classes) for choose in (min, max))
    each = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    without = [label for label in classes if not counts[label]]
    missing = f"; of one image, and so none held out: {', '.join(without)}" if without else ""
    return f"{share:.0%} of each class ({each} a class), chosen by their names{missing}"
