"""Run a whole study: `python -m vgg.study NAME --data FOLDER --out FOLDER`.

    list the steps: trainings with their starting weights, evaluations, fusions, each for every seed
    see which are done: a verified result of the same recipe, data, starting weights and code
    run the others on the cluster, each as soon as those that it needs are done and there is room
    write the report

The same command again goes on where it was stopped. `--dry-run` prints the steps and what they cost.
"""

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import NoReturn

import tyro

from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError, require
from cli.files import absolute_path
from cli.program import program
from cluster.layout import Layout
from cluster.parallel.choose import check_layout
from cluster.worker_range import refuse_range
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.splits import HOLDOUT
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder
from vgg.net.precision import Precision
from vgg.studies.following import Follower
from vgg.studies.graph import Study, Training, nodes_of
from vgg.studies.identity import code_version
from vgg.studies.planned import PlannedStudy, check_trainings, planned, print_graph
from vgg.studies.registry import STUDIES
from vgg.studies.report import write_report
from vgg.studies.steps import StudyJob, run_step
from vgg.tracking.server import tracking_uri
from vgg.tracking.software import software
from vgg.weights.lease import Lease

MAX_SEEDS = 100
STOPPED = "stopped: what is done is kept, and the same command goes on from there"


@dataclass(frozen=True)
class StudyOptions:
    """Run a study's trainings, evaluations and fusions over a cluster, and write its report."""

    name: tyro.conf.Positional[str]
    """digits, tiny-imagenet, tiny-imagenet-reduced or paper."""
    out: str = ""
    """Folder of the study, or a URI such as s3://bucket/studies/paper: every step's results, logs, report."""
    data: str = ""
    """Folder of the packed data set, the same on every node, or a URI. Study digits packs its own."""
    seeds: int = 1
    """Repeat every step for seeds 0, 1, … and report mean and standard deviation."""
    only: tuple[str, ...] = ()
    """Only these steps, and what they need: names such as `d`, `test-d` or `test-d.0`, with * and ?."""
    dry_run: bool = False
    """Print the steps, what is done, and what the rest costs; start nothing."""
    any_code: bool = False
    """Results that another version of the code made count as done."""
    precision: Precision = "fp32"
    """Of the evaluations: only fp32 counts in the paper's tables."""
    layout: Layout = field(default_factory=Layout)
    """Of each step: --layout.workers 1 runs as many steps at once as there are GPUs, or cores."""
    track: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI; without it nothing is tracked."""
    experiment: str = "vgg"
    """Name of the MLflow experiment."""


def main() -> None:
    """Run and print. Exit code 2 for a user's mistake, 1 where a step failed, 130 or 143 if stopped."""
    options = tyro.cli(StudyOptions, prog=program("vgg.study"), args=arguments())
    with exit_codes(interrupted=STOPPED):
        if options.name not in STUDIES:
            raise UserError(f"{options.name} is no study; known: {', '.join(STUDIES)}")
        run_study(STUDIES[options.name], options)


def run_study(study: Study, options: StudyOptions) -> None:
    """Run what is not done, and write the report. Failure, after all else is done, where a step failed."""
    _check(options)
    nodes = nodes_of(study, options.seeds, options.only)
    if not options.out:
        raise UserError("--out is missing: the folder or URI that the study leaves its results in")
    out = Folder(absolute_path(options.out, "--out"), "--out")
    data = _data(study, options, out)
    require_apart(out, Folder(data, "--data"))
    manifest = read_manifest(Folder(data, "--data"))
    job = _job(study, replace(options, data=data), out)
    check_trainings(job, manifest)
    if study.needs_holdout and HOLDOUT not in manifest.splits:
        raise UserError(
            f"--data {data} has no split {HOLDOUT}, by which study {study.name} makes its choices, so that "
            "nothing is chosen by val: pack it with --holdout-share 0.1"
        )
    for node in nodes:
        if isinstance(node.step, Training):
            check_layout(options.layout, node.step.recipe.train.batch)
    plan = planned(job, nodes, manifest)
    if options.dry_run:
        print_graph(
            plan,
            max(1, (os.cpu_count() or 1) // (options.layout.workers * (options.layout.cpus_per_worker or 1))),
        )
        return
    out.require_writable()
    lease = Lease(out, job.attempt)
    lease.acquire()
    try:
        _run(study, job, plan, out, manifest)
    finally:
        lease.release()


def _run(study: Study, job: StudyJob, plan: PlannedStudy, out: Folder, manifest: Manifest) -> None:
    """Run the nodes, follow them, report. Failure where a step failed."""
    follower = Follower(study, job, plan, out)
    with _ended_by_signals(), follower:
        if len(plan.done) < len(plan.nodes):
            _on_cluster(job, plan, follower)
        for line in write_report(study, job, plan.nodes, follower.results, out, manifest):
            print(line)
        follower.end(out)
    if follower.errors:
        name, error = next((n.name, follower.errors[n.name]) for n in plan.nodes if n.name in follower.errors)
        more = f" ({len(follower.errors) - 1} more failed)" if len(follower.errors) > 1 else ""
        where = f"{out.uri}/logs/{name}.log"
        raise Failure(f"{name} failed: {error}{more}; its log: {where}. The same command tries it again")


def _on_cluster(job: StudyJob, plan: PlannedStudy, follower: Follower) -> None:
    from cluster.capacity import wait_for_room  # imports Ray: mistakes are reported before that
    from cluster.connection import connect
    from cluster.task_graph import GraphTask, run_graph
    from vgg.tracking.cut_off import ending_run

    connect()
    import ray

    per_worker = wait_for_room(job.layout)
    total = ray.cluster_resources()
    room = min(total.get(name, 0) // amount for name, amount in per_worker.items())
    follower.expect(max(1, int(room // job.layout.workers)))
    reserved = per_worker if job.layout.workers == 1 else {}
    tasks = [
        GraphTask(n.name, partial(run_step, job, n), n.needs, reserved, job.layout.max_failures)
        for n in plan.nodes
    ]
    with ending_run(job.tracking_uri, job.attempt):
        _end_on_sigterm()  # connecting made it end the process at once
        for snapshot in run_graph(tasks):
            follower.follow(snapshot)


def _check(options: StudyOptions) -> None:
    require(1 <= options.seeds <= MAX_SEEDS, "--seeds", f"from 1 to {MAX_SEEDS}")
    check_layout(replace(options.layout, reduce="auto"), 2**20)
    refuse_range(options.layout)


def _data(study: Study, options: StudyOptions, out: Folder) -> str:
    """Folder of the packed data; the embedded digits are packed into the study's folder."""
    if options.data:
        return absolute_path(options.data, "--data")
    if study.name != "digits" or out.local is None:
        raise UserError(f"--data is missing: the folder of {study.data} (python -m pipelines.pack SOURCE OUT)")
    folder = out.local / "data"
    if not (folder / "manifest.json").exists():
        out.require_writable()
        pack(PackOptions("digits", folder, workers=1))
    return str(folder)


def _job(study: Study, options: StudyOptions, out: Folder) -> StudyJob:
    return StudyJob(
        out=out.uri if out.local is None else str(out.local),
        data=options.data,
        layout=options.layout,
        precision=options.precision,
        tracking_uri=tracking_uri(options.track),
        experiment=options.experiment,
        code=code_version(),
        any_code=options.any_code,
        attempt=uuid.uuid4().hex,
        software=software(),
        trainings={step.name: step for step in study.steps if isinstance(step, Training)},
    )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    _end_on_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_on_sigterm() -> None:
    def end(number: int, _: FrameType | None) -> NoReturn:
        print(STOPPED, file=sys.stderr, flush=True)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


if __name__ == "__main__":
    main()
