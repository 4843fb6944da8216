"""What a net's features are worth on classes that it has not seen: `python -m benchmarks.transfer NET --data
DATA`.

The same linear machines learn DATA's classes from three descriptors of its images, each divided by its L2
norm: pixels at a quarter of the scale, the features of an untrained net of the same architecture (Glorot's
initialisation), and those of NET, as `python -m vgg.transfer features` extracts them. The cost of each is
chosen on the same fifth of the training images. Accuracy on the split val with 95 % intervals, as a table and
as JSON.

Shapes: B images of one shape, C = 3, N images, D numbers of a descriptor.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from cli.command import exit_codes
from cluster.layout import Worker
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.staging import StagingOptions
from pipelines.storage.atomic import atomic_file
from pipelines.storage.folder import Folder
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.testing.opened_split import OpenedSplit, SplitOptions
from vgg.testing.scoring import blocks
from vgg.transferring.combining import combined
from vgg.transferring.extraction import FeatureExtractor, FeatureJob, FeatureTask
from vgg.transferring.feature_file import Features
from vgg.transferring.fitting import Fit, Splits, fit_and_test
from vgg.transferring.opening import feature_provenance
from vgg.transferring.provenance import WHOLE_IMAGE
from vgg.transferring.targets import Rule, joined
from vgg.weights.open_net import open_net
from vgg.weights.state import model_state, weights_sha256
from vgg.weights.trained_net import TrainedNet

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
SHARE = 0.2
KEPT = ("cost", "tried", "unconverged", "trained_on", "images", "right", "accuracy", "accuracy_interval")


@dataclass(frozen=True)
class Options:
    """Compare descriptors on the classes of a packed data set."""

    net: tyro.conf.Positional[str]
    """Whatever evaluation takes."""
    data: str
    """Folder of the packed data set, whose classes the net was not trained on."""
    out: Path = Path("benchmarks/results/transfer.json")
    """File for the result."""
    seed: int = 0
    """Of the untrained net, of the machines and of the share that their cost is chosen on."""


def main() -> None:
    """Compare, print and write. Exit code 2 for a user's mistake."""
    options = tyro.cli(Options)
    with exit_codes():
        net, manifest = open_net(options.net), read_manifest(Folder(options.data, "--data"))
        described = {
            "pixels": partial(pixels, net, options.data),
            "untrained net": partial(features, untrained(net, options.seed), options.data),
            "trained net": partial(features, net, options.data),
        }
        result: dict[str, Any] = {
            "machine": describe(torch.device("cpu")),
            "net": {
                "recipe": net.recipe,
                "weights_sha256": net.weights_sha256,
                "configuration": net.architecture.configuration,
                "width": net.architecture.width,
                "classes": net.class_names,
            },
            "data": {
                "source": manifest.source,
                "classes": manifest.class_names,
                "digest": manifest.digest,
            },
            "scale": scale_of(net),
            "seed": options.seed,
            "descriptors": {
                name: measured(net, manifest, options, descriptors) for name, descriptors in described.items()
            },
        }
        _print(result["descriptors"])
        with atomic_file(options.out, "w") as file:
            file.write(json.dumps(result, indent=1) + "\n")


def measured(
    net: TrainedNet, manifest: Manifest, options: Options, descriptors: Callable[[str], np.ndarray]
) -> dict[str, Any]:
    """What machines learn from the descriptors of train, tested on val."""
    parts = []
    for split in ("train", "val"):
        shards = opened(options.data, split).shards
        labels, difficult = shards.classes_of_all()
        keys = tuple(f"{split}/{shards.key(i)}" for i in range(len(shards)))
        parts.append(Features(keys, labels, difficult, descriptors(split)))
    provenance = feature_provenance([net], manifest, (), "mean", WHOLE_IMAGE, "fp32")
    splits = Splits(provenance, joined(parts), len(parts[0].keys))
    (found,) = fit_and_test(splits, Fit(("train",), ("val",), Rule(0, 0, 1), COSTS, SHARE, options.seed))
    return {"numbers": parts[0].features_NF.shape[1], **{key: found[key] for key in KEPT}}


def scale_of(net: TrainedNet) -> int:
    """The Q of the validation during its training."""
    return net.training_input.test_scale


def opened(data: str, split: str) -> OpenedSplit:
    """The split in this process."""
    return OpenedSplit(_worker(), _of(data, split))


def pixels(net: TrainedNet, data: str, split: str) -> np.ndarray:
    """[N, D]: the centre of each image rescaled to a quarter of the net's scale, less the net's mean colour."""
    split_, side = opened(data, split), scale_of(net) // 4
    rows_ND = np.empty((len(split_.shards), 3 * side * side), np.float32)
    for images_B, images_BCHW in split_.whole_images(net, range(len(rows_ND)), side):
        top, left = ((length - side) // 2 for length in images_BCHW.shape[2:])
        rows_ND[images_B] = images_BCHW[:, :, top : top + side, left : left + side].flatten(1).numpy()
    return combined([[rows_ND]], "mean")


def features(net: TrainedNet, data: str, split: str) -> np.ndarray:
    """[N, D]: fc7's activations, averaged over all places and the mirror image."""
    extractor = FeatureExtractor(_worker(), FeatureJob((net,), _of(data, split)))
    bounds = blocks(len(opened(data, split).shards))
    of_blocks = [extractor(FeatureTask(0, scale_of(net), "image", *each)) for each in bounds]
    return combined([[np.concatenate(of_blocks)]], "mean")


def untrained(net: TrainedNet, seed: int) -> TrainedNet:
    """The same architecture at random weights."""
    module = VGG(net.architecture)
    initialise(module, "glorot", seed)
    weights = model_state(module)
    return replace(net, name="untrained", weights=weights, weights_sha256=weights_sha256(weights))


def _worker() -> Worker:
    return Worker(0, 1, 0, torch.device("cpu"), torch.get_num_threads())


def _of(data: str, split: str) -> SplitOptions:
    return SplitOptions(StagingOptions(data), split, "fp32")


def _print(found: dict[str, dict[str, Any]]) -> None:
    table = Table("descriptor", "numbers", "C", "accuracy, %", "95 %")
    for name, fit in found.items():
        low, high = fit["accuracy_interval"]
        figures = f"{fit['cost']:g}", f"{fit['accuracy']:.1f}", f"{low:.1f} to {high:.1f}"
        table.add_row(name, str(fit["numbers"]), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
