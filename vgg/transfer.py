"""Transfer to other data (paper, appendix B): `python -m vgg.transfer features NET… --data DATA --out OUT`.

    features   the activations of fc7 of frozen nets, densely over whole images, averaged over places and mirror
               image, over scales averaged or stacked, normalised; computed on workers, saved block by block

The same command again continues an interrupted one.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from cli.command import arguments, exit_codes
from cli.errors import UserError, require
from cli.program import program
from cluster.layout import Layout, Worker
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.net.architecture import HIDDEN
from vgg.testing.opened_split import SplitOptions
from vgg.testing.passes import Images
from vgg.testing.scales import requested_scales
from vgg.transferring.extracted import ExtractedSplit
from vgg.transferring.extraction import FeatureExtractor, FeatureJob, FeatureTask
from vgg.transferring.provenance import Combine, FeatureNet, FeatureProvenance
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic. The paper's table takes fp32 alone."""
    layout: Layout = field(default_factory=Layout)
    """Workers; --layout.micro-batch is the number of crops per forward pass."""


def main() -> None:
    """Run the verb that is named first. Exit code 2 for a user's mistake, 1 for a failed job."""
    verb, *words = arguments() or ["--help"]
    if verb == "features":
        options = tyro.cli(FeaturesOptions, prog=f"{PROG} features", args=words)
        with exit_codes():
            print(f"features in {features(options).uri}")
    elif verb in ("-h", "--help"):
        print(f"usage: {PROG} features …\n\n{__doc__}")
        sys.exit(0)
    else:
        with exit_codes():
            raise UserError(f"{verb} is not features")


Runner = Callable[
    [Callable[[Worker, FeatureJob], FeatureExtractor], FeatureJob, Sequence[FeatureTask], Layout],
    Iterable[tuple[FeatureTask, np.ndarray]],
]
"""As `cluster.tasks.run_on_workers`."""


def on_the_cluster(*arguments: Any) -> Iterable[tuple[FeatureTask, np.ndarray]]:
    """A `Runner`."""
    from cluster.tasks import run_on_workers  # Ray takes a second to import: not before there is a task

    return run_on_workers(*arguments)


def features(options: FeaturesOptions, run: Runner = on_the_cluster) -> Folder:
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
    provenance = _provenance(options, nets, manifest)
    out.require_writable()
    location = StagingOptions(data, Path(options.layout.stage_dir or DEFAULT_FOLDER), options.layout.stage_gb)
    root = stage(location, splits=splits, flag="--data")
    units = tuple(net.architecture.scaled(HIDDEN) for net in nets)
    extracted = []
    for split in splits:
        images = Images.of(Shards(root, manifest, split), root, split)
        extracted.append(ExtractedSplit(out.underway(), provenance(split), images, units))
    for each in extracted:
        batch, decode = options.layout.micro_batch or SplitOptions.batch, options.layout.decode
        opened = SplitOptions(location, each.provenance.split, options.precision, batch, decode)
        job = FeatureJob(nets, opened)
        each.extract(lambda tasks, job=job: run(FeatureExtractor, job, tasks, options.layout))  # type: ignore[misc]
    return extracted[0].folder


def _check(options: FeaturesOptions) -> None:
    """UserError naming the first flag whose value cannot work, whatever nets and data are."""
    require(bool(options.nets), "NETS", "at least one net: a run's folder, a checkpoint, runs:/… or models:/…")
    require(1 <= options.layout.workers <= 4096, "--layout.workers", "from 1 to 4096")
    require(1 <= (options.layout.micro_batch or 1) <= 65_536, "--layout.micro-batch", "from 1 to 65536")


def _out(options: FeaturesOptions) -> Folder:
    if options.out:
        return Folder(options.out, "--out")
    run = Folder(options.nets[0])
    if len(options.nets) > 1 or "://" in options.nets[0] or not run.exists("run.json"):
        raise UserError("--out is missing: the folder or URI for the features")
    return run.child("features")


def _provenance(
    options: FeaturesOptions, nets: Sequence[TrainedNet], manifest: Manifest
) -> Callable[[str], FeatureProvenance]:
    """Of each split. UserError if a scale does not fit a net."""
    value = ",".join(map(str, options.scales)) or "validation"
    members = tuple(
        FeatureNet(
            net=net.name,
            weights_sha256=net.weights_sha256,
            recipe=net.recipe,
            configuration=net.architecture.configuration,
            trained_at=net.training_scale,
            trained_on=net.trained_on,
            started_from=net.started_from,
            scales=requested_scales(value, net),
            precision=options.precision,
        )
        for net in nets
    )
    combine = options.combine if any(len(member.scales) > 1 for member in members) else "mean"
    return lambda split: FeatureProvenance(
        data=manifest.digest,
        source=manifest.source,
        split=split,
        classes=manifest.classes,
        class_names=manifest.class_names,
        combine=combine,
        nets=members,
    )


if __name__ == "__main__":
    main()
