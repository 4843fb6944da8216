"""Transfer to other data (paper, appendix B): `python -m vgg.transfer features NET… --data DATA --out OUT`.

    features   the activations of fc7 of frozen nets, densely over whole images or their boxes, averaged over
               places and mirror image, over scales averaged or stacked, normalised; computed on workers, saved
               block by block
    fit        linear support vector machines on features, their cost chosen on a share of the training images;
               accuracy, mean class recall or mean average precision; result.json, a run in MLflow

The same command again continues an interrupted one.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from cli.command import arguments, exit_codes
from cli.errors import UserError, require
from cli.program import program
from cluster.layout import Layout, Worker
from cluster.worker_range import refuse_range
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.evaluate import on_workers
from vgg.net.architecture import HIDDEN
from vgg.reporting.transfer_run import publish_transfer, summary
from vgg.testing.opened_split import SplitOptions
from vgg.testing.passes import Images
from vgg.tracking.server import tracking_uri
from vgg.transferring.extracted import ExtractedSplit
from vgg.transferring.extraction import FeatureExtractor, FeatureJob, FeatureTask
from vgg.transferring.fitting import Fit, Splits, fit_and_test
from vgg.transferring.opening import feature_provenance, require_boxes
from vgg.transferring.provenance import WHOLE_IMAGE, Combine, Region
from vgg.transferring.targets import Rule
from vgg.weights.open_net import open_net

PROG = program("vgg.transfer")


@dataclass(frozen=True)
class FeaturesOptions:
    """Features of the images of a packed data set, of whatever classes (paper, appendix B)."""

    nets: tyro.conf.Positional[tuple[str, ...]]
    """A run's folder (its best checkpoint is used), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's. The descriptors of several are stacked."""
    data: str
    """Folder of the packed data set, the same on every node, or a URI that each node downloads it from."""
    out: str = ""
    """Folder or URI for the features. Default: `features` in the folder of the run, if there is one net."""
    split: tuple[str, ...] = ()
    """Splits of the data set. Default: all."""
    scales: tuple[int, ...] = ()
    """Scales Q, the shorter side of the rescaled images: 256 384 512 640 768 for VOC in the paper, 256 384 512
    for Caltech. Default: each net's Q of the validation during its training."""
    combine: Combine = "mean"
    """What becomes of several scales: mean (VOC in the paper) averages them, stack (Caltech) puts one after the
    other."""
    regions: tuple[Region, ...] = WHOLE_IMAGE
    """image: the whole image. box: what its box shows, as an image of its own. Of both, as for VOC's actions in
    the paper, the descriptors are stacked."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic. The paper's table takes fp32 alone."""
    layout: Layout = field(default_factory=Layout)
    """Workers; --layout.micro-batch is the number of crops per forward pass."""


@dataclass(frozen=True)
class FitOptions:
    """Learn classes from features by linear support vector machines, one against the rest, and test them."""

    features: tyro.conf.Positional[str]
    """Folder of features of python -m vgg.transfer features."""
    train: tuple[str, ...] = ("train",)
    """Splits to learn from."""
    test: tuple[str, ...] = ("val",)
    """Splits to test on."""
    per_class: int = 0
    """Learn from so many random images of each class of all these splits, and test on the rest: 30 for
    Caltech-101 in the paper, 60 for Caltech-256. 0: the splits as they are."""
    at_most: int = 0
    """With --per-class, test on at most so many images of a class: 50 for Caltech-101. 0: on all the rest."""
    draws: int = 3
    """With --per-class, how many times images are drawn; the mean and the standard deviation are told."""
    costs: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    """Costs C to choose from."""
    validation_share: float = 0.2
    """Share of the training images that the cost is chosen on; then all are learned from."""
    seed: int = 0
    """Of what is drawn."""
    out: str = ""
    """Folder or URI for result.json. Default: one beside the features."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""


def main() -> None:
    """Run the verb that is named first. Exit code 2 for a user's mistake, 1 for a failed job."""
    verb, *words = arguments() or ["--help"]
    if verb == "features":
        options = tyro.cli(FeaturesOptions, prog=f"{PROG} features", args=words)
        with exit_codes():
            print(f"features in {features(options).uri}")
    elif verb == "fit":
        fit_options = tyro.cli(FitOptions, prog=f"{PROG} fit", args=words)
        with exit_codes():
            result, folder = fit(fit_options)
            print(f"{summary(result)}\nresult in {folder.uri}")
    elif verb in ("-h", "--help"):
        print(f"usage: {PROG} features|fit …\n\n{__doc__}")
        sys.exit(0)
    else:
        with exit_codes():
            raise UserError(f"{verb} is not features or fit")


Runner = Callable[
    [Callable[[Worker, FeatureJob], FeatureExtractor], FeatureJob, Sequence[FeatureTask], Layout],
    Iterable[tuple[FeatureTask, np.ndarray]],
]
"""As `vgg.evaluate.on_workers`."""


def features(options: FeaturesOptions, run: Runner = on_workers) -> Folder:
    """Extract the features that are not saved yet; the folder of all splits' descriptors.

    UserError if nets, data, splits and scales do not fit each other.
    """
    _check(options)
    data = options.data if "://" in options.data else str(Path(options.data).absolute())
    manifest = read_manifest(Folder(data, "--data"))
    splits = tuple(dict.fromkeys(options.split or manifest.splits))
    for split in splits:
        require(split in manifest.splits, f"--split {split}", f"one of {', '.join(manifest.splits)}")
    nets = tuple(open_net(reference) for reference in options.nets)
    if len({net.weights_sha256 for net in nets}) < len(nets):
        raise UserError(f"two of {', '.join(options.nets)} are the same net: name it once")
    out = _out(options)
    require_apart(out, Folder(data, "--data"))
    regions = tuple(sorted(options.regions, reverse=True))  # image before box
    combine, precision = options.combine, options.precision
    provenance = feature_provenance(nets, manifest, options.scales, combine, regions, precision)
    if "box" in regions:
        require_boxes(manifest, splits)
    out.require_writable()
    location = StagingOptions(data, Path(options.layout.stage_dir or DEFAULT_FOLDER), options.layout.stage_gb)
    root = stage(location, splits=splits, flag="--data")
    units = tuple(net.architecture.scaled(HIDDEN) for net in nets)
    extracted = []
    for split in splits:
        shards = Shards(root, manifest, split, labelled=False)
        images, of_split = Images.of(shards, root, split), replace(provenance, split=split)
        extracted.append(ExtractedSplit(out.underway(), of_split, images, *shards.classes_of_all(), units))
    for each in extracted:
        batch, decode = options.layout.micro_batch or SplitOptions.batch, options.layout.decode
        opened = SplitOptions(location, each.provenance.split, precision, batch, decode)
        job = FeatureJob(nets, opened)
        each.extract(lambda tasks, job=job: run(FeatureExtractor, job, tasks, options.layout))  # type: ignore[misc]
    return extracted[0].folder


def fit(options: FitOptions) -> tuple[dict[str, Any], Folder]:
    """Learn and test; the result and its folder. UserError if the features do not allow it."""
    uri = tracking_uri(options.track)
    _check_fit(options)
    rule = Rule(options.per_class, options.at_most, options.draws)
    if not options.per_class:
        rule = Rule(0, 0, 1)
    what = Fit(options.train, options.test, rule, options.costs, options.validation_share, options.seed)
    folder = Folder(options.features)
    splits = Splits.open(folder, what.train, what.test)
    name = f"svm-{'+'.join(what.test)}-{what.identity(splits.provenance)[:8]}"
    target = Folder(options.out, "--out") if options.out else folder.child(name)
    target.require_writable()
    draws = fit_and_test(splits, what)
    target = target.underway()
    return publish_transfer(
        target, splits.provenance, what, draws, len(splits.features.keys), uri, options.experiment
    ), target


def _check_fit(options: FitOptions) -> None:
    """UserError naming the first flag whose value cannot work, whatever the features are."""
    require(bool(options.train), "--train", "at least one split")
    require(bool(options.test), "--test", "at least one split")
    both = [*options.train, *options.test]
    require(len(set(both)) == len(both), "--train and --test", "different splits, each named once")
    require(options.per_class >= 0, "--per-class", "0 or more")
    require(options.at_most >= 0, "--at-most", "0 or more")
    require(1 <= options.draws <= 1000, "--draws", "from 1 to 1000")
    possible = bool(options.costs) and all(0 < cost < math.inf for cost in options.costs)
    require(possible, "--costs", "one or more finite numbers above 0")
    require(0 < options.validation_share < 1, "--validation-share", "a number between 0 and 1")
    require(0 <= options.seed < 2**32, "--seed", "from 0 to 4294967295")


def _check(options: FeaturesOptions) -> None:
    """UserError naming the first flag whose value cannot work, whatever nets and data are."""
    require(bool(options.nets), "NETS", "at least one net: a run's folder, a checkpoint, runs:/… or models:/…")
    regions = options.regions
    require(bool(regions) and len(set(regions)) == len(regions), "--regions", "image, box, or both")
    require(1 <= options.layout.workers <= 4096, "--layout.workers", "from 1 to 4096")
    refuse_range(options.layout)
    require(1 <= (options.layout.micro_batch or 1) <= 65_536, "--layout.micro-batch", "from 1 to 65536")


def _out(options: FeaturesOptions) -> Folder:
    if options.out:
        return Folder(options.out, "--out")
    run = Folder(options.nets[0])
    if len(options.nets) > 1 or "://" in options.nets[0] or not run.exists("run.json"):
        raise UserError("--out is missing: the folder or URI for the features")
    return run.child("features")


if __name__ == "__main__":
    main()
