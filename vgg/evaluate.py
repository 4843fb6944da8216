"""Test nets by the paper's protocols: `python -m vgg.evaluate NET… --data FOLDER --protocols dense both`.

    open the nets, derive the test scales
    score the passes that are not saved yet, in blocks of images, on the workers of the cluster
    for each evaluation: the mean posteriors of its passes, errors, result.json, a run in MLflow

The same command again continues an interrupted evaluation. Evaluations that share a pass (dense and both, one
scale and several) share its posteriors too.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import tyro

from cli.command import arguments, exit_codes
from cli.console import console
from cli.errors import UserError, require
from cli.program import program
from cluster.layout import Layout
from cluster.parallel.choose import check_layout
from cluster.worker_range import refuse_range
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.net.precision import Precision
from vgg.reporting.publish import publish
from vgg.reporting.result import EvaluationResult
from vgg.reporting.result_folder import result_folder
from vgg.reporting.splits import splits_beside_each_other
from vgg.testing import posteriors
from vgg.testing.identity import evaluation_name
from vgg.testing.opened_split import SplitOptions
from vgg.testing.passes import PassOfNet, score_passes
from vgg.testing.posteriors import Posteriors
from vgg.testing.protocols import GRID, Average, Evaluation, Pass, Protocol
from vgg.testing.provenance import EnsembleMember, Provenance
from vgg.testing.scales import remark_on_dense, requested_scales
from vgg.testing.scoring import ScoredBlock, Scorer, ScoringJob, ScoringTask
from vgg.tracking.server import tracking_uri
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

MAX_GRID = 64  # crops per row and per column
MAX_CROPS = 65_536  # of a forward pass
MAX_WORKERS = 4096

JobRunner = Callable[[ScoringJob, Sequence[ScoringTask]], Iterable[tuple[ScoringTask, ScoredBlock]]]
"""Scores the tasks of a job, in any order."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Test nets by the paper's protocols (sections 3.2 and 4)."""

    nets: tyro.conf.Positional[tuple[str, ...]]
    """A run's folder (its best checkpoint is used), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's vgg11, vgg13, vgg16 or vgg19."""
    data: str
    """Folder of the packed data set, the same on every node, or a URI that each node downloads it from."""
    protocols: tuple[Protocol, ...] = ("single-crop",)
    """single-crop: the centre crop. dense: the net applied at every position of the whole image and its mirror
    image. multi-crop: a grid of crops and their mirror images. both: the mean of dense and multi-crop."""
    scales: tuple[str, ...] = ("validation",)
    """Test scales Q; each value is an evaluation of its own. validation: the Q of the validation during
    training. single: the Q that the paper derives from the training scale S. several: the mean over the three
    that it derives. 256: this Q. 256,384,512: the mean over these."""
    out: str = ""
    """Folder or URI for posteriors and results. Default: `evaluations` in the run's folder."""
    split: tuple[str, ...] = ("val",)
    """Splits of the data set to evaluate on; several are shown beside each other."""
    grid: int = GRID
    """Crops per row and per column of the multi-crop grid."""
    average: Average = "scores"
    """What dense averages over space: class scores before the soft-max, or posteriors after it."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    layout: Layout = field(default_factory=Layout)
    """Workers; --layout.micro-batch is the number of crops per forward pass."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""


def main() -> None:
    """Evaluate and print. Exit code 2 for a user's mistake, 1 if workers failed."""
    options = tyro.cli(EvaluateOptions, prog=program("vgg.evaluate"), args=arguments())
    with exit_codes():
        results = evaluate(options)
        for result in results:
            print(result.summary)
        if len(options.split) > 1:
            console().print(splits_beside_each_other(results))
        for folder in dict.fromkeys(result.folder.uri.rpartition("/")[0] for result in results):
            print(f"results in {folder}")


def evaluate(options: EvaluateOptions, run_job: JobRunner | None = None) -> list[EvaluationResult]:
    """Run all requested evaluations. UserError if nets, data, splits and scales do not fit each other.

    `run_job` scores the tasks; by default, workers of the cluster do.
    """
    run_job = run_job or partial(on_workers, Scorer, layout=options.layout)
    tracking_uri(options.track)
    check_options(options)
    data = options.data if "://" in options.data else str(Path(options.data).absolute())
    manifest = read_manifest(Folder(data, "--data"))
    for split in options.split:
        require(split in manifest.splits, f"--split {split}", f"one of {', '.join(manifest.splits)}")
        if "://" not in data:  # what lies on a store is looked into by the workers, which stage it
            Shards(Path(data), manifest, split)
    nets = tuple(open_net(reference) for reference in options.nets)
    _require_different(nets, options.nets)
    for net in nets:
        net.check_classes(manifest, options.data)
    evaluations = [requested_evaluations(net, options) for net in nets]
    folders = [_folder(options, *pair) for pair in zip(options.nets, nets, strict=True)]
    for folder in folders:
        require_apart(folder, Folder(data, "--data"))
        folder.require_writable()
    results = []
    for split in dict.fromkeys(options.split):
        passes = [
            PassOfNet(i, pass_, folders[i], _provenance(net, pass_, split, options, manifest))
            for i, net in enumerate(nets)
            for pass_ in dict.fromkeys(pass_ for evaluation in evaluations[i] for pass_ in evaluation.passes)
        ]
        job = _scoring_job(options, split, nets, data)
        scored = score_passes(job, passes, partial(run_job, job))
        for i, folder in enumerate(folders):
            for evaluation in evaluations[i]:
                mean = posteriors.mean([scored[i, pass_] for pass_ in evaluation.passes])
                results.append(_publish(options, nets[i], evaluation, folder, mean))
    return results


def on_workers(
    make: Callable[..., Any], payload: Any, tasks: Sequence[Any], layout: Layout
) -> Iterable[tuple[Any, Any]]:
    """As `cluster.tasks.run_on_workers`, which takes some seconds to begin, so that it is told."""
    print(f"starting {layout.workers} worker(s) …", file=sys.stderr, flush=True)
    from cluster.tasks import run_on_workers  # Ray takes a second to import: not before there is a task

    return run_on_workers(make, payload, tasks, layout)


def _publish(
    options: EvaluateOptions, net: TrainedNet, evaluation: Evaluation, folder: Folder, mean: Posteriors
) -> EvaluationResult:
    target = result_folder(folder.underway(), evaluation_name(evaluation, mean.provenance), mean.identity)
    remark = remark_on_dense(net, evaluation.scales) if evaluation.protocol == "dense" else None
    uri = tracking_uri(options.track)
    return publish(target, mean, uri, options.experiment, kind="eval", remark=remark)


def requested_evaluations(net: TrainedNet, options: EvaluateOptions) -> list[Evaluation]:
    """Every protocol at every `--scales` value, without duplicates. UserError for an invalid one."""
    evaluations = []
    for protocol in options.protocols:
        if protocol not in get_args(Protocol):
            raise UserError(f"--protocols {protocol} is not one of {', '.join(get_args(Protocol))}")
        for value in options.scales:
            evaluations.append(Evaluation(protocol, requested_scales(value, net)))
    return list(dict.fromkeys(evaluations))


def check_options(options: EvaluateOptions) -> None:
    """UserError naming the first flag whose value cannot work, whatever nets and data are."""
    require(bool(options.nets), "NETS", "at least one net: a run's folder, a checkpoint, runs:/… or models:/…")
    require(bool(options.protocols), "--protocols", "at least one protocol")
    require(bool(options.scales), "--scales", "at least one value")
    require(bool(options.split), "--split", "at least one split")
    require(1 <= options.grid <= MAX_GRID, "--grid", f"from 1 to {MAX_GRID}")
    layout = options.layout
    require(1 <= layout.workers <= MAX_WORKERS, "--layout.workers", f"from 1 to {MAX_WORKERS}")
    crops = layout.micro_batch or 1
    require(1 <= crops <= MAX_CROPS, "--layout.micro-batch", f"from 1 to {MAX_CROPS}")
    check_layout(replace(layout, reduce="auto"), MAX_WORKERS)
    refuse_range(layout)


def _require_different(nets: Sequence[TrainedNet], references: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for net, reference in zip(nets, references, strict=True):
        if other := seen.get(net.weights_sha256):
            raise UserError(f"{other} and {reference} are the same net: name it once")
        seen[net.weights_sha256] = reference


def _scoring_job(options: EvaluateOptions, split: str, nets: tuple[TrainedNet, ...], data: str) -> ScoringJob:
    layout = options.layout
    location = StagingOptions(data, Path(layout.stage_dir or DEFAULT_FOLDER), layout.stage_gb)
    batch = layout.micro_batch or SplitOptions.batch
    opened = SplitOptions(location, split, options.precision, batch, layout.decode)
    return ScoringJob(nets, opened, options.average, options.grid)


def _provenance(
    net: TrainedNet, pass_: Pass, split: str, options: EvaluateOptions, manifest: Manifest
) -> Provenance:
    member = EnsembleMember(
        net=net.name,
        weights_sha256=net.weights_sha256,
        recipe=net.recipe,
        configuration=net.architecture.configuration,
        trained_at=net.training_scale,
        protocol=pass_.protocol,
        scale=pass_.scale,
        average=options.average if pass_.protocol == "dense" else "posteriors",
        grid=options.grid if pass_.protocol == "multi-crop" else 1,
        precision=options.precision,
        trained_on=net.trained_on,
        started_from=net.started_from,
    )
    return Provenance(
        manifest.digest,
        manifest.source,
        split,
        manifest.classes,
        manifest.class_names,
        ((member, 1.0),),
        manifest.splits["train"].images if "train" in manifest.splits else 0,
    )


def _folder(options: EvaluateOptions, reference: str, net: TrainedNet) -> Folder:
    """The folder of a net's posteriors and results."""
    if options.out:
        return Folder(options.out, "--out").child(net.name)
    run = Folder(reference)
    if "://" in reference or not run.exists("run.json"):
        raise UserError("--out is missing: the folder or URI for posteriors and results")
    return run.child(f"evaluations/{net.name}")


if __name__ == "__main__":
    main()
