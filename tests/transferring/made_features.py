"""Features that no net made: points around a centre for each class."""

from dataclasses import replace

import numpy as np

from pipelines.storage.folder import Folder
from vgg.transferring import feature_file
from vgg.transferring.combining import normalised
from vgg.transferring.feature_file import Features
from vgg.transferring.provenance import FeatureNet, FeatureProvenance

CLASSES = ("ape", "bee", "cat")
UNITS = 12


NET = FeatureNet(
    "d-1", "a" * 64, "paper-d-jitter", "D", "256-512", "b" * 64, "ILSVRC-2012", 1000,
    ("paper-d-384", "paper-d"), (256, 384, 512), "fp32",
)  # fmt: skip


def provenance(**changes):
    made = FeatureProvenance("c" * 64, "made", "train", CLASSES, CLASSES, False, "mean", (NET,))
    return replace(made, **changes)


def one_class(count, split, noise=0.5):
    """So many images of each class."""
    rng = np.random.default_rng([count, len(split)])
    labels_N = np.repeat(np.arange(3), count)
    points = np.eye(UNITS)[labels_N] + noise * rng.normal(size=(len(labels_N), UNITS))
    keys = tuple(f"{split}/{i}" for i in range(len(labels_N)))
    labels = tuple((int(label),) for label in labels_N)
    return Features(keys, labels, ((),) * len(keys), normalised(points).astype(np.float32))


def several_classes(count, split, noise=0.3):
    """So many images of one or more classes; of some a class is difficult, that is of no side."""
    rng = np.random.default_rng([count, len(split)])
    present_NK = rng.random((count, 3)) < 0.4
    difficult_NK = ~present_NK & (rng.random((count, 3)) < 0.2)
    centres = (present_NK | (difficult_NK & (rng.random((count, 3)) < 0.5))) @ np.eye(3, UNITS)
    points = centres + noise * rng.normal(size=(count, UNITS))
    keys = tuple(f"{split}/{i}" for i in range(count))
    labels, difficult = (
        tuple(tuple(np.flatnonzero(row).tolist()) for row in rows) for rows in (present_NK, difficult_NK)
    )
    return Features(keys, labels, difficult, normalised(points).astype(np.float32))


def save(folder, split, features, **changes):
    about = provenance(split=split, **changes)
    feature_file.write(Folder(str(folder)), f"{split}.arrow", about, len(features.keys), UNITS, [features])
