"""Train a VGG net on a Ray cluster: `python -m vgg.train RECIPE --data FOLDER --out FOLDER`.

    parse the recipe and its overrides
    check them against the data and the run's folder; nothing is started on a mistake
    find room on the cluster, run the loop on every worker
    print the result

The same command again takes up where the last one stopped. `vgg/training/loop.py` is what a worker does.
"""

import sys
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from cli.command import print_error
from cluster.layout import Layout
from cluster.parallel.fixed_order import LEAVES
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.storage.folder import Folder
from vgg.net.architecture import parameter_count, training_flops
from vgg.recipes.difference import difference, flatten
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Recipe
from vgg.tracking.server import tracking_uri
from vgg.training.cost import memory_bytes
from vgg.training.job import Job, Outcome
from vgg.weights import checkpoint

FREE_TO_CHANGE = {"train.epochs", "train.steps", "train.checkpoint_steps", "train.log_steps"}
"""A training may be resumed with other values of these: they do not touch the steps already made."""


@dataclass(frozen=True)
class TrainOptions:
    """A recipe, and where it runs."""

    name: tyro.conf.Suppress[str]
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    data: str = ""
    """Folder of the packed data set (see python -m pipelines.pack), the same on every node, or a URI such as
    s3://bucket/data, which each node first brings to its disk (--layout.stage-dir)."""
    out: str = ""
    """Folder of this run, or a URI such as s3://bucket/runs/d: checkpoints and result.json. A folder that
    holds the same run is taken up where it stopped."""
    seed: int = 0
    """Decides initial weights, order of the images, augmentation and dropout."""
    layout: Layout = field(default_factory=Layout)
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""
    dry_run: bool = False
    """Print the resolved recipe, its cost in FLOP and its memory, and stop."""


def main() -> None:
    """Parse, train, print. Exit code 2 for a user's mistake, 1 for a failed training."""
    run = tyro.extras.overridable_config_cli(
        {name: (text, TrainOptions(name, recipe)) for name, (text, recipe) in RECIPES.items()},
        prog="python -m vgg.train",
        description="Train a VGG net. Each recipe: its command, its cost, its expected result.",
    )
    try:
        outcome = execute(run)
    except ValueError as error:
        sys.exit(print_error(error, 2))
    except RuntimeError as error:
        sys.exit(print_error(error, 1))
    if outcome is None:
        return
    if outcome.problem is not None:
        sys.exit(print_error(outcome.problem, 2 if outcome.users_mistake else 1))
    assert outcome.result is not None
    best = outcome.result["best"]
    print(
        f"best validation: top-1 {best['top1']:.2%}, top-5 {best['top5']:.2%} after {best['step']:,} of "
        f"{outcome.result['steps']:,} steps; {run.out}/result.json"
    )


def execute(run: TrainOptions) -> Outcome | None:
    """Check the run, train it on the cluster and return its outcome; None for a dry run."""
    recipe = run.recipe
    recipe.check()
    _check_layout(run.layout, recipe.train.batch)
    if not 0 <= run.seed < 2**63:
        raise ValueError(f"--seed {run.seed} must lie in [0, 2^63)")
    manifest = read_manifest(_absolute(run.data, "--data")) if run.data else None
    if run.dry_run:
        print_plan(run, manifest)
        return None
    if manifest is None:
        raise ValueError(
            "--data is missing: the folder of a packed data set (python -m pipelines.pack SOURCE OUT)"
        )
    if not run.out:
        raise ValueError("--out is missing: the folder or URI that this run leaves its results in")
    recipe.architecture(len(manifest.classes))
    for split in ("train", "val"):
        if split not in manifest.splits or not manifest.splits[split].images:
            raise ValueError(f"{run.data} has no images in split {split!r}; a training needs both")
    out = Folder(_absolute(run.out, "--out"))
    uid = claim(out, run, manifest)

    from cluster import trainer
    from vgg.training.loop import train

    job = Job(
        recipe=recipe,
        recipe_name=run.name,
        data=_absolute(run.data, "--data"),
        out=out.uri if out.local is None else str(out.local),
        seed=run.seed,
        layout=run.layout,
        uid=uid,
        tracking_uri=tracking_uri(run.track),
        experiment=run.experiment,
    )
    return trainer.run(train, job, run.layout, filesystem=out.fs, path=f"{out.path}/ray")


def claim(out: Folder, run: TrainOptions, manifest: Manifest) -> str:
    """Make the folder this run's, or see that it already is; the run's uid.

    ValueError where it cannot be written, where it belongs to another recipe, seed or data set, or where
    it has gone further than is asked for.
    """
    identity = {"seed": run.seed, "data": manifest.digest, **flatten(run.recipe)}
    if not out.exists("run.json"):
        uid = uuid.uuid4().hex
        try:
            out.write_json("run.json", {"uid": uid, "recipe": run.name, "identity": identity})
        except OSError as error:
            raise ValueError(f"--out {run.out} cannot be written: {error}") from error
        return uid
    there = out.read_json("run.json")
    changed = {
        key: (value, identity.get(key))
        for key, value in there["identity"].items()
        if key not in FREE_TO_CHANGE and identity.get(key) != value
    }
    if changed:
        listed = "; ".join(f"{key} is {old} there, {new} here" for key, (old, new) in changed.items())
        raise ValueError(f"--out {run.out} holds another training ({listed}): choose another folder")
    last = checkpoint.read_index(out).get("last")
    total = run.recipe.total_steps(manifest.splits["train"].images)
    if last is not None and last > checkpoint.checkpoint_name(total):
        raise ValueError(
            f"--out {run.out} is at {last}, past the {total} steps asked for: choose another folder"
        )
    return there["uid"]


def print_plan(run: TrainOptions, manifest: Manifest | None) -> None:
    """Print the resolved recipe, what it changes, its cost and its memory."""
    recipe = run.recipe
    classes = len(manifest.classes) if manifest else recipe.model.classes
    if classes is None:
        raise ValueError("the recipe takes its number of classes from the data: give --data")
    architecture = recipe.architecture(classes)
    console = Console()
    changes = difference(recipe, RECIPES[run.name][1])
    table = Table("setting", "value", title=f"{run.name}{' (overridden)' if changes else ''}")
    for name, value in flatten(recipe).items():
        note = f"  (recipe: {changes[name][0]})" if name in changes else ""
        table.add_row(name, f"{value}{note}")
    for name, value in asdict(run.layout).items():
        table.add_row(f"layout.{name}", str(value))
    console.print(table)
    step_flop = training_flops(architecture) * recipe.train.batch
    console.print(f"parameters     {parameter_count(architecture):,}")
    console.print(f"a step         {step_flop:.3e} FLOP")
    if manifest:
        images = manifest.splits["train"].images
        steps = recipe.total_steps(images)
        console.print(f"the training   {steps:,} steps on {images:,} images, {steps * step_flop:.3e} FLOP")
    for name, size in memory_bytes(recipe, architecture, run.layout.workers, run.layout.micro_batch).items():
        console.print(f"{name:<14} {size / 2**20:,.0f} MiB a worker")


def _check_layout(layout: Layout, batch: int) -> None:
    rules: list[tuple[bool, str, Any]] = [
        (
            layout.reduce != "fixed-order" or layout.workers <= LEAVES <= batch,
            "--layout.reduce",
            f"ddp for more than {LEAVES} workers or a batch of fewer than {LEAVES}",
        ),
        (1 <= layout.workers <= batch, "--layout.workers", f"from 1 to the batch of {batch}"),
        (
            layout.micro_batch is None or layout.micro_batch >= 1,
            "--layout.micro-batch",
            "at least 1",
        ),
        (layout.cpus_per_worker >= 1, "--layout.cpus-per-worker", "at least 1"),
        (layout.prefetch >= 1, "--layout.prefetch", "at least 1"),
        (layout.max_failures >= 0, "--layout.max-failures", "not negative"),
    ]
    for good, flag, wanted in rules:
        if not good:
            raise ValueError(f"{flag} must be {wanted}")


def _absolute(path: str, flag: str) -> str:
    """The path, unless it would be resolved in the throw-away copy that a submitted job runs in."""
    relative = "://" not in path and not Path(path).is_absolute()
    if relative and "working_dir_files" in Path.cwd().parts:
        raise ValueError(
            f"{flag} {path} must be absolute: a submitted job runs in a temporary copy of the folder"
        )
    return path if "://" in path else str(Path(path).absolute())


if __name__ == "__main__":
    main()
