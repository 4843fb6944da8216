"""Test nets as the paper does: `python -m vgg.evaluate NET… --data FOLDER --protocols dense both`.

    open the nets, derive the scales
    score what is not saved yet, in blocks of images, on the workers of the cluster
    every test: the mean of its parts' posteriors, its errors, result.json, a run in MLflow

The same command again takes up where the last one stopped. Tests that share a part (dense and both, one scale
and several) share its posteriors too.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import tyro

from cli.command import print_error
from cluster.layout import Layout
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.staging import DEFAULT_FOLDER, StagingOptions
from pipelines.storage.folder import Folder
from vgg.net.precision import Precision
from vgg.reporting.publish import Published, publish
from vgg.testing import posteriors
from vgg.testing.passes import score_passes
from vgg.testing.protocols import GRID, Average, Evaluation, Pass, Protocol, derived_scales
from vgg.testing.provenance import Member, Provenance
from vgg.testing.scoring import Scoring
from vgg.tracking.server import tracking_uri
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet


@dataclass(frozen=True)
class EvaluateOptions:
    """Test nets by the paper's protocols (sections 3.2 and 4)."""

    nets: tyro.conf.Positional[tuple[str, ...]]
    """A run's folder (its best checkpoint is taken), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's vgg11, vgg13, vgg16 or vgg19."""
    data: str
    """Folder of the packed data set, the same on every node, or a URI that each brings to its disk."""
    protocols: tuple[Protocol, ...] = ("single-crop",)
    """single-crop: the centre. dense: the net at every place of the whole image and its mirror. multi-crop: a
    grid of crops and their mirrors. both: the mean of the last two."""
    scales: tuple[str, ...] = ("single",)
    """Each is one test. single: Q as the paper derives it from the net's S. several: likewise, three of them.
    Or a Q of your own, 256, or several to be averaged, 256,384,512."""
    out: str = ""
    """Folder or URI for posteriors and results. Default: `evaluations` in the run's folder."""
    split: str = "val"
    grid: int = GRID
    """Crops of a row and of a column of the multi-crop grid."""
    average: Average = "scores"
    """What dense averages over space: scores, then one soft-max; or the posteriors of every place."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    layout: Layout = field(default_factory=Layout)
    """Workers; --layout.micro-batch is the number of crops that a net is given at once."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"


def main() -> None:
    """Evaluate and print. Exit code 2 for a user's mistake, 1 where workers failed."""
    options = tyro.cli(EvaluateOptions, prog="python -m vgg.evaluate")
    try:
        published = evaluate(options)
    except (ValueError, RuntimeError) as error:
        sys.exit(print_error(error, 2 if isinstance(error, ValueError) else 1))
    show(published)


def evaluate(options: EvaluateOptions) -> list[Published]:
    """Score as asked. ValueError where nets, data and scales do not fit each other."""
    where = options.data if "://" in options.data else str(Path(options.data).absolute())
    manifest = read_manifest(where)
    nets = tuple(open_net(reference) for reference in options.nets)
    for net in nets:
        net.check(manifest, options.data)
    tests = [requested_evaluations(net, options) for net in nets]
    folders = [_folder(options, *pair) for pair in zip(options.nets, nets, strict=True)]
    scoring = Scoring(
        nets,
        StagingOptions(where, Path(options.layout.stage_dir or DEFAULT_FOLDER), options.layout.stage_gb),
        options.split,
        options.precision,
        options.average,
        options.grid,
        options.layout.micro_batch or Scoring.batch,
        options.layout.decode,
    )
    wanted = {(n, part): folders[n] for n in range(len(nets)) for test in tests[n] for part in test.parts}
    abouts = {(n, part): _provenance(nets[n], part, options, manifest) for n, part in wanted}
    scored = score_passes(scoring, wanted, abouts, options.layout)

    uri = tracking_uri(options.track)
    published = []
    for n, folder in enumerate(folders):
        for test in tests[n]:
            mean = posteriors.mean([scored[n, part] for part in test.parts])
            published.append(publish(folder.child(test.name), mean, uri, options.experiment, kind="eval"))
    return published


def requested_evaluations(net: TrainedNet, options: EvaluateOptions) -> list[Evaluation]:
    """The tests that the flags ask for. ValueError for a scale that cannot be."""
    side, tests = net.architecture.side, []
    for protocol in options.protocols:
        if protocol not in get_args(Protocol):
            raise ValueError(f"--protocols {protocol} is not one of {', '.join(get_args(Protocol))}")
        for asked in options.scales:
            if asked in ("single", "several"):
                scales = derived_scales(net.crop, side, asked == "several")
            elif asked.replace(",", "").isdigit() and all(asked.split(",")):
                scales = tuple(sorted({int(scale) for scale in asked.split(",")}))
            else:
                raise ValueError(
                    f"--scales {asked} is not single, several, or numbers such as 256 or 256,384,512"
                )
            if scales[0] < side:
                raise ValueError(
                    f"--scales {scales[0]} is smaller than the crop of {side} that {net.name} was trained on"
                )
            tests.append(Evaluation(protocol, scales))
    return list(dict.fromkeys(tests))


def show(published: list[Published]) -> None:
    """Print a line a test."""
    for each in published:
        result = each.result
        low, high = result["top1_interval"]
        scales = ", ".join(map(str, result["scales"]))
        print(
            f"{result['net']}, {result['protocol']}, Q = {scales}: top-1 error {result['top1_error']:.2f} % "
            f"({low:.2f} to {high:.2f}), top-5 error {result['top5_error']:.2f} %, "
            f"{result['images']:,} images; {each.folder.uri}/result.json"
        )


def _provenance(net: TrainedNet, part: Pass, options: EvaluateOptions, manifest: Manifest) -> Provenance:
    member = Member(
        net=net.name,
        weights_sha256=net.weights_sha256,
        recipe=net.recipe,
        configuration=net.architecture.configuration,
        trained_at=net.trained_at,
        protocol=part.protocol,
        scale=part.scale,
        average=options.average if part.protocol == "dense" else "posteriors",
        grid=options.grid if part.protocol == "multi-crop" else 1,
        precision=options.precision,
    )
    return Provenance(
        manifest.digest,
        manifest.source,
        options.split,
        manifest.classes,
        manifest.class_names,
        ((member, 1.0),),
    )


def _folder(options: EvaluateOptions, reference: str, net: TrainedNet) -> Folder:
    """Where a net's posteriors and results lie."""
    if options.out:
        return Folder(options.out).child(net.name)
    run = Folder(reference)
    if "://" in reference or not run.exists("run.json"):
        raise ValueError("--out is missing: the folder or URI for posteriors and results")
    return run.child(f"evaluations/{net.name}")


if __name__ == "__main__":
    main()
