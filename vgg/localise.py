"""Localise (paper, appendix A): `python -m vgg.localise train|evaluate|fuse …`.

    train      a box net from a classifier, as `python -m vgg.train` trains: resumable, on any number of workers
    evaluate   find boxes in blocks of images on the workers, save each; merge, rate, count; result.json and
               a picture
    fuse       the same of the union of several nets' boxes, which are not found again

The same command again continues an interrupted one.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from cli.command import arguments, exit_codes
from cli.errors import UserError, require
from cli.program import program
from cluster.layout import Layout, Worker
from cluster.worker_range import refuse_range
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions, stage
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.evaluate import on_workers
from vgg.localisation.candidates import ImageBoxes
from vgg.localisation.merging import THRESHOLD
from vgg.localisation.opening import TestedData, box_provenance, open_box_net, opened_classifier, tested_scales
from vgg.localisation.provenance import BoxProtocol
from vgg.localisation.scoring import BoxJob, BoxScorer, BoxTask
from vgg.localisation.stored import StoredBoxes, find_boxes, require_free
from vgg.recipes.registry import BOX_NETS
from vgg.reporting.localisation_result import publish_errors
from vgg.reporting.localisation_run import summary
from vgg.testing.opened_split import SplitOptions
from vgg.tracking.server import tracking_uri
from vgg.train import run_command

PROG = program("vgg.localise")


@dataclass(frozen=True)
class Shared:
    """What `evaluate` and `fuse` have in common."""

    data: str
    """Folder of the packed data set, or a URI that it is downloaded from."""
    out: str = ""
    """Folder or URI for boxes, picture and result.json. Default of evaluate: `localisation` in the run's
    folder."""
    threshold: float = THRESHOLD
    """Boxes that overlap (IoU) by this or more are merged; 1 merges equal ones alone."""
    layout: Layout = field(default_factory=Layout)
    """Workers; --layout.micro-batch is the number of crops per forward pass."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""


@dataclass(frozen=True)
class EvaluateOptions(Shared):
    """Test a box net on the images of a split that have boxes (paper, appendix A.2)."""

    net: tyro.conf.Positional[str] = tyro.MISSING
    """A run's folder of python -m vgg.localise train, a checkpoint's, runs:/RUN or models:/MODEL of MLflow."""
    protocol: BoxProtocol = "dense"
    """centre: the centre crop, with the true class. dense: at every place of the whole image and its mirror
    image, boxes merged and rated by class scores; top-1 and top-5 error."""
    classifier: str = ""
    """Net whose class scores dense takes. Default: the one that the box net started from."""
    scales: str = "validation"
    """Test scales Q: validation, the Q of the validation during training; 384; 352,384, for dense alone."""
    split: str = "val"
    """Split of the data set to test on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the arithmetic. The paper's tables take fp32 alone."""


@dataclass(frozen=True)
class FuseOptions(Shared):
    """Test the union of several nets' boxes by the dense protocol (paper, appendix A.2)."""

    results: tyro.conf.Positional[tuple[str, ...]] = tyro.MISSING
    """Folders of results of python -m vgg.localise evaluate."""


def main() -> None:
    """Run the verb that is named first. Exit code 2 for a user's mistake, 1 for a failed job."""
    verb, *words = arguments() or ["--help"]
    if verb == "train":
        run_command(words, BOX_NETS, f"{PROG} train", "Train a box net from a classifier (paper, appendix A).")
    elif verb in ("evaluate", "fuse"):
        command: Any = evaluate if verb == "evaluate" else fuse
        options_type = EvaluateOptions if verb == "evaluate" else FuseOptions
        options: Any = tyro.cli(options_type, prog=f"{PROG} {verb}", args=words)
        with exit_codes():
            result, folder = command(options)
            print(f"{summary(result)}\nresult in {folder.uri}")
    elif verb in ("-h", "--help"):
        print(f"usage: {PROG} train|evaluate|fuse …\n\n{__doc__}")
        sys.exit(0)
    else:
        with exit_codes():
            raise UserError(f"{verb} is not train, evaluate or fuse")


Runner = Callable[
    [Callable[[Worker, BoxJob], BoxScorer], BoxJob, Sequence[BoxTask], Layout],
    Iterable[tuple[BoxTask, list[ImageBoxes]]],
]
"""As `vgg.evaluate.on_workers`."""


def evaluate(options: EvaluateOptions, run: Runner = on_workers) -> tuple[dict[str, Any], Folder]:
    """Find the boxes that are not saved yet, and count errors; the result and its folder.

    UserError if net, classifier, data and scales do not fit each other.
    """
    uri = _checked(options)
    net = open_box_net(options.net)
    scales = tested_scales(options.scales, net, options.protocol)
    merged = options.protocol == "dense" or options.threshold == THRESHOLD
    require(merged, "--threshold", "used with --protocol dense: on the centre crop nothing is merged")
    classifier = opened_classifier(net, options.classifier) if options.protocol == "dense" else None
    location = _location(options)
    data = TestedData.open(stage(location, splits=(options.split,), flag="--data"), options.split)
    for each in (net, classifier):
        if each is not None:
            each.check_same_classes(data.manifest, options.data)
    provenance = box_provenance(net, classifier, data, options.protocol, scales, options.precision)
    parent = _out(options.out, options.net).child(net.name)
    require_apart(parent, Folder(options.data, "--data"))
    parent.require_writable()
    folder = parent.child(
        f"{options.protocol}-{'+'.join(map(str, scales))}-{provenance.full_identity[:8]}"
    ).underway()
    batch, decode = options.layout.micro_batch or SplitOptions.batch, options.layout.decode
    split = SplitOptions(location, options.split, options.precision, batch, decode)
    job = BoxJob(net, classifier, options.protocol, scales, split)
    stored = find_boxes(
        folder, provenance, data.images_N, data.keys, lambda tasks: run(BoxScorer, job, tasks, options.layout)
    )
    if options.threshold != THRESHOLD:  # beside the usual one's result
        folder = folder.child(f"merged-{options.threshold:g}")
    return publish_errors([stored], data, folder, options.threshold, uri, options.experiment), folder


def fuse(options: FuseOptions) -> tuple[dict[str, Any], Folder]:
    """Count the errors of the union of saved boxes; the result and its folder.

    UserError, with the reason, if they cannot be put together.
    """
    uri = _checked(options)
    require(len(options.results) > 1, "RESULTS", "at least two folders of results")
    require(bool(options.out), "--out", "a folder or URI for the result")
    results = [StoredBoxes.open(path) for path in options.results]
    first = results[0].provenance
    data = TestedData.open(stage(_location(options), splits=(first.split,), flag="--data"), first.split)
    data.require_tested_by(results, options.results)
    folder = Folder(options.out, "--out")
    folder.require_writable()
    if any(folder.uri == result.folder.uri for result in results):
        raise UserError(f"--out {options.out} is one of the results that are fused: name another folder")
    folder = folder.underway()
    require_free(folder, results, options.threshold)
    return publish_errors(results, data, folder, options.threshold, uri, options.experiment), folder


def _checked(options: Shared) -> str | None:
    """The tracking server. UserError naming a flag whose value cannot work."""
    require(0 < options.threshold <= 1, "--threshold", "an overlap above 0, and at most 1")
    require(1 <= options.layout.workers <= 4096, "--layout.workers", "from 1 to 4096")
    refuse_range(options.layout)
    require(1 <= (options.layout.micro_batch or 1) <= 65_536, "--layout.micro-batch", "from 1 to 65536")
    return tracking_uri(options.track)


def _location(options: Shared) -> StagingOptions:
    data, layout = options.data, options.layout
    absolute = data if "://" in data else str(Path(data).absolute())
    return StagingOptions(absolute, Path(layout.stage_dir or DEFAULT_FOLDER), layout.stage_gb)


def _out(out: str, reference: str) -> Folder:
    if out:
        return Folder(out, "--out")
    run = Folder(reference)
    if "://" in reference or not run.exists("run.json"):
        raise UserError("--out is missing: the folder or URI for boxes and results")
    return run.child("localisation")


if __name__ == "__main__":
    main()
