"""Train a VGG net on a Ray cluster: `python -m vgg.train RECIPE --data FOLDER --out FOLDER`.

    parse the recipe and its overrides
    check them against the data and the run's folder; nothing is started on a mistake
    find room on the cluster, run the loop on every worker
    print the result

The same command again resumes from the last checkpoint. `vgg/training/loop.py` is what a worker does.
"""

import gc
import re
import sys
import uuid
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import tyro

from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError, require
from cli.files import absolute_path
from cli.program import program
from cluster.layout import Layout
from cluster.parallel.choose import check_layout
from cluster.worker_range import FEWEST_FLAG, FLAG, with_range
from pipelines.shards.manifest import read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.splits import training_splits
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.recipes.check import check_recipe
from vgg.recipes.registry import CLASSIFIERS, Recipes
from vgg.recipes.schema import Recipe
from vgg.recipes.shorthand import expanded
from vgg.tracking.server import tracking_uri
from vgg.tracking.software import software
from vgg.training.config_file import save_config, with_config
from vgg.training.dry_run import print_plan, print_recipe
from vgg.training.job import Job, Outcome
from vgg.training.kept import kept
from vgg.training.plan import TrainingPlan
from vgg.training.run_folder import claimed_folder
from vgg.training.validation import describe
from vgg.weights.open_net import NetOpener


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
    holds the same run is resumed from its last checkpoint."""
    seed: int = 0
    """Decides initial weights, order of the images, augmentation and dropout."""
    layout: Layout = field(default_factory=Layout)
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""
    dry_run: bool = False
    """Print the resolved recipe, its cost in FLOP and its memory, and stop."""
    memory_gib: float | None = None
    """With --dry-run: memory of a worker's device; the largest --layout.micro-batch that fits is printed."""
    save_config: str = ""
    """With --dry-run: YAML file to write the resolved settings to."""
    config: str = ""
    """Such a YAML file to train by, in place of a recipe's name; flags beside it override it."""


def main() -> None:
    """Train a classifier."""
    run_command(arguments(), CLASSIFIERS, program("vgg.train"), "Train a VGG net.")


def run_command(words: list[str], recipes: Recipes, prog: str, description: str) -> None:
    """Parse, train, print. Exit code 2 for a user's mistake, 1 for a failed training."""
    with exit_codes():
        of_file, given = with_config(words)
    defaults = {name: (text, TrainOptions(name, recipe)) for name, (text, recipe) in recipes.items()}
    description += " Each recipe: its command, its cost, its expected result."
    parse = partial(_parsed, prog=prog, description=description)
    if of_file:  # it stands where a recipe does: what flags are short for is short beside it
        options = parse(defaults, of_file)
        defaults[options.name] = (defaults[options.name][0], options)
    options = parse(defaults, given)
    with exit_codes():
        outcome = execute(options)
        if outcome is not None:
            print_outcome(outcome, options.out)


def _parsed(
    defaults: dict[str, tuple[str, TrainOptions]], words: list[str], prog: str, description: str
) -> TrainOptions:
    """The options that these words change from the defaults of the recipe that they name."""
    with exit_codes():
        words = with_range(words)
    options = tyro.extras.overridable_config_cli(defaults, prog=prog, description=description, args=words)
    with exit_codes():
        named = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
        layout, recipe = options.layout, expanded(options.recipe, defaults[options.name][1].recipe, named)
        if FLAG in named and FEWEST_FLAG not in named:  # a number in place of a file's range
            layout = replace(layout, fewest_workers=None)
        return replace(options, recipe=recipe, layout=layout)


def execute(options: TrainOptions) -> Outcome | None:
    """Check the options, train on the cluster and return the outcome; None for a dry run."""
    recipe, layout = _located(options.recipe), options.layout
    server = tracking_uri(options.track)
    open_net = NetOpener(server)
    if options.save_config and not (options.dry_run and options.data):
        raise UserError("--save-config is for --dry-run with --data, which resolves all settings")
    if options.memory_gib is not None:
        require(options.dry_run and options.memory_gib > 0, "--memory-gib", "positive, with --dry-run")
    check_recipe(recipe)
    check_layout(layout, recipe.train.batch)
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed {options.seed} must lie in [0, 2^63)")
    if not options.data and not options.dry_run:
        raise UserError("--data is missing: a packed data set (python -m pipelines.pack SOURCE OUT)")
    if not options.data:
        print_recipe(options.name, recipe, layout, options.memory_gib)
        return None
    plan = _plan(replace(options, recipe=recipe), open_net)
    out = _out(options)
    if options.dry_run:
        print_plan(plan, layout, options.memory_gib)
        if options.save_config:
            save_config(options.save_config, options.name, _settings(options, plan))
        return None
    if out is None:
        raise UserError("--out is missing: the folder or URI that this run leaves its results in")
    with claimed_folder(out, plan, software()) as uid:
        print(f"starting {layout.asked_workers} worker(s) …", flush=True)
        job = Job(
            plan=plan,
            out=out.uri if out.local is None else str(out.local),
            layout=layout,
            uid=uid,
            attempt=uuid.uuid4().hex,
            tracking_uri=server,
            experiment=options.experiment,
        )
        outcome = _run(job, open_net)
        if outcome.users_mistake:
            raise UserError(outcome.problem)
    return outcome


def _run(job: Job, open_net: NetOpener) -> Outcome:
    """Train on the cluster; where workers save midway, as a node is about to go or there is room for more of
    them, go on with others."""
    from cluster import trainer  # Ray takes a second to import: mistakes are reported before that
    from cluster.connection import connect
    from cluster.stopping import Interruption
    from vgg.tracking.cut_off import ending_run
    from vgg.tracking.observers import training_observers
    from vgg.tracking.progress_bar import progress_bar
    from vgg.tracking.remark import remark
    from vgg.tracking.without_head import end_without_head
    from vgg.training.loop import train

    loop = partial(train, observers=training_observers, open_net=open_net)
    on_hang, on_lost = partial(remark, job.tracking_uri, job.attempt), partial(end_without_head, job)
    connect()
    saved = ""
    with ending_run(job.tracking_uri, job.attempt), progress_bar() as listener:
        while True:
            interruption = Interruption(job.layout.grace_seconds)
            try:
                outcome: Outcome = trainer.run(loop, job, job.layout, listener, interruption, on_hang, on_lost)
            except UserError as error:
                if not saved:
                    raise
                raise Failure(f"{error} {saved}; the same command goes on from there") from error
            except Failure as error:
                raise Failure(f"{error}; {kept(job.out)}") from error
            if outcome.stopped_at is None:
                return outcome
            saved = (
                f"step {outcome.stopped_at:,} is kept in {job.out}"
                if outcome.stopped_at
                else "no step was made"
            )
            if interruption.number is not None:
                print(f"stopped: {saved}; the same command goes on from there", file=sys.stderr, flush=True)
                gc.freeze()  # the interpreter's last collection takes seconds, of which an ending job has few
                sys.exit(128 + interruption.number)
            print(f"{interruption.moved_because}: {saved}; going on with others", file=sys.stderr, flush=True)


def _plan(options: TrainOptions, open_net: NetOpener) -> TrainingPlan:
    """UserError where recipe, data and starting weights do not fit each other."""
    data = absolute_path(options.data, "--data")
    folder = Folder(data, "--data")
    manifest = read_manifest(folder)
    if folder.local is not None:  # what lies on a store is looked into by the workers, which stage it
        for split in set(training_splits(manifest)) & set(manifest.splits):
            Shards(folder.local, manifest, split)
    return TrainingPlan.resolve(options.name, options.recipe, options.seed, data, manifest, open_net)


def _out(options: TrainOptions) -> Folder | None:
    """The run's folder; None where the user named none. UserError where it lies in the data."""
    if not options.out:
        return None
    out = Folder(absolute_path(options.out, "--out"), "--out")
    require_apart(out, Folder(absolute_path(options.data, "--data"), "--data"))
    return out


def print_outcome(outcome: Outcome, out: str) -> None:
    """Print the best validation. Failure where a problem stopped the training."""
    if outcome.problem is not None:
        raise Failure(outcome.problem)
    assert outcome.result is not None
    best = outcome.result["best"]
    print(
        f"best validation: {describe(best, outcome.result['classes'])}; after {best['step']:,} of "
        f"{outcome.result['steps']:,} steps; {out}/result.json"
    )


def _settings(options: TrainOptions, plan: TrainingPlan) -> dict[str, Any]:
    """What `--config` needs to make this training again."""
    rest = {"data": plan.data, "seed": options.seed, "experiment": options.experiment}
    return {**rest, "layout": asdict(options.layout), **asdict(plan.recipe)}


def _located(recipe: Recipe) -> Recipe:
    """With an absolute path of the net to start from, as workers have other folders."""
    start_from = recipe.model.start_from
    if start_from is None or re.match(r"\w+:/", start_from):
        return recipe
    return replace(
        recipe, model=replace(recipe.model, start_from=absolute_path(start_from, "--model.start-from"))
    )


if __name__ == "__main__":
    main()
