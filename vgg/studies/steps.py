"""Makes one step of a study, unless it is done: what runs on a worker of the cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cli.errors import Failure, UserError
from cluster.layout import Layout
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.storage.folder import Folder
from vgg.ensemble import EnsembleOptions, ensemble
from vgg.evaluate import EvaluateOptions, evaluate
from vgg.net.precision import Precision
from vgg.reporting.result import EvaluationResult
from vgg.studies.cost import step_flop
from vgg.studies.graph import Evaluation, Fusion, Node, Training
from vgg.studies.identity import Identity, digest_of, evaluation_identity, fusion_identity, training_identity
from vgg.studies.record import WEIGHTS, Cost, StepResult, find_done, step_folder, write_record
from vgg.studies.running import (
    WAIT_SECONDS,
    Meter,
    Tell,
    ToldObservers,
    device_name,
    logged,
    run_loop,
    score_here,
)
from vgg.testing.scales import requested_scales
from vgg.training.job import Job
from vgg.training.loop import train
from vgg.training.plan import TrainingPlan
from vgg.training.run_folder import claimed_folder
from vgg.weights.open_net import NetOpener, open_net


@dataclass(frozen=True)
class StudyJob:
    """What all steps of a study have in common."""

    out: str
    """Folder or URI of the study."""
    data: str
    layout: Layout
    precision: Precision
    """Of the evaluations."""
    tracking_uri: str | None
    experiment: str
    code: str
    """See `vgg.studies.identity.code_version`."""
    any_code: bool
    attempt: str
    """Of this command: the trainings that it runs belong to it in MLflow."""
    software: dict[str, str]
    trainings: dict[str, Training]
    """By name."""


def run_step(job: StudyJob, node: Node, tell: Tell, *needed: StepResult) -> StepResult:
    """The step's result: found, or made now. `needed`: the results of the steps before it, in order.

    UserError or Failure where it cannot be made. What it prints is in `logs` of the study's folder.
    """
    out = Folder(job.out, "--out").underway()
    make = {Training: _train, Evaluation: _evaluate, Fusion: _fuse}[type(node.step)]
    with logged(out, node.name):
        return make(job, node, out, tell, *needed)


def plan_of(job: StudyJob, node: Node, manifest: Manifest, start: StepResult | None) -> TrainingPlan:
    """A training of the study, resolved. UserError where it does not fit the data or its starting weights."""
    assert isinstance(node.step, Training)
    recipe = node.step.recipe
    if start is not None:
        recipe = replace(recipe, model=replace(recipe.model, start_from=start.folder))
    opener = NetOpener(job.tracking_uri)
    return TrainingPlan.resolve(node.step.recipe_name, recipe, node.seed, job.data, manifest, opener)


def identity_of(job: StudyJob, node: Node, manifest: Manifest, needed: Sequence[StepResult]) -> Identity:
    """What the step's result would be a result of."""
    match node.step:
        case Training():
            plan = plan_of(job, node, manifest, needed[0] if needed else None)
            return training_identity(plan, job.code)
        case Evaluation() as step:
            weights = needed[0].outputs[WEIGHTS]["sha256"]
            return evaluation_identity(step, weights, manifest.digest, job.precision, job.code)
        case Fusion() as step:
            return fusion_identity([_member(step, each)["sha256"] for each in needed], job.code)


def _train(job: StudyJob, node: Node, out: Folder, tell: Tell, *needed: StepResult) -> StepResult:
    manifest = read_manifest(Folder(job.data, "--data").underway())
    plan = plan_of(job, node, manifest, needed[0] if needed else None)
    identity = training_identity(plan, job.code)
    if found := find_done(out, node, identity, any_code=job.any_code):
        return found
    folder, began = step_folder(out, node, identity), _meter(job, node, manifest)
    with claimed_folder(folder, plan, job.software) as uid:
        where = folder.uri if folder.local is None else str(folder.local)
        training = Job(plan, where, job.layout, uid, job.attempt, job.tracking_uri, job.experiment)
        loop = partial(train, observers=ToldObservers(tell), open_net=NetOpener(job.tracking_uri))
        outcome = run_loop(loop, training, job.layout)
        if outcome.users_mistake:
            raise UserError(outcome.problem)
    if outcome.result is None:
        raise Failure(outcome.problem)
    weights = open_net(folder.uri, underway=True).weights_sha256
    resumed = max(outcome.result["resumed_from"], default=0)
    share = 1 - resumed / plan.total_steps
    spent = began.cost(outcome.result["device"], outcome.result["images_per_s"], share)
    outputs = {WEIGHTS: {"folder": ".", "sha256": weights}}
    return _finished(node, folder, identity, outputs, spent, [uid] if job.tracking_uri else [])


def _evaluate(job: StudyJob, node: Node, out: Folder, tell: Tell, *needed: StepResult) -> StepResult:
    step = node.step
    assert isinstance(step, Evaluation)
    manifest = read_manifest(Folder(job.data, "--data").underway())
    identity = identity_of(job, node, manifest, needed)
    if found := find_done(out, node, identity, any_code=job.any_code):
        return found
    folder, began = step_folder(out, node, identity), _meter(job, node, manifest)
    options = EvaluateOptions(
        (needed[0].folder,),
        data=job.data,
        protocols=step.protocols,
        scales=step.scales,
        out=folder.uri,
        precision=job.precision,
        layout=replace(job.layout, wait_seconds=WAIT_SECONDS),
        track=job.tracking_uri or "",
        experiment=job.experiment,
    )
    here = job.layout.workers == 1
    results = evaluate(options, partial(score_here, tell) if here else None)
    net = open_net(needed[0].folder, underway=True)
    outputs = {}
    for protocol in step.protocols:
        for value in step.scales:
            asked = protocol, list(requested_scales(value, net))
            ours = next(r for r in results if (r.result["protocol"], r.result["scales"]) == asked)
            outputs[f"{protocol} {value}"] = _output(folder, ours)
    tracked = [result.result["tracked_at"] for result in results]
    return _finished(node, folder, identity, outputs, began.cost(device_name()), tracked)


def _fuse(job: StudyJob, node: Node, out: Folder, tell: Tell, *needed: StepResult) -> StepResult:
    step = node.step
    assert isinstance(step, Fusion)
    manifest = read_manifest(Folder(job.data, "--data").underway())
    identity = identity_of(job, node, manifest, needed)
    if found := find_done(out, node, identity, any_code=job.any_code):
        return found
    folder, began = step_folder(out, node, identity), _meter(job, node, manifest)
    members = [Folder(each.folder).child(_member(step, each)["folder"]).uri for each in needed]
    track, where = job.tracking_uri or "", folder.child("result")
    result = ensemble(EnsembleOptions(tuple(members), where.uri, track=track, experiment=job.experiment))
    outputs = {f"{step.protocol} {step.scales}": _output(folder, result)}
    return _finished(node, folder, identity, outputs, began.cost("cpu"), [result.result["tracked_at"]])


def _finished(
    node: Node,
    folder: Folder,
    identity: Identity,
    outputs: dict[str, dict[str, str]],
    spent: Cost,
    tracked: Sequence[str | None],
) -> StepResult:
    pages = tuple(page for page in tracked if page)
    result = StepResult(node.name, node.kind, folder.uri, dict(identity), outputs, spent, pages)
    write_record(folder, result)
    print(f"{node.name}: done, identity {digest_of(identity)}", flush=True)
    return result


def _member(step: Fusion, evaluation: StepResult) -> Any:
    return evaluation.outputs[f"{step.protocol} {step.scales}"]


def _output(folder: Folder, result: EvaluationResult) -> dict[str, str]:
    below = result.folder.uri.removeprefix(folder.uri).strip("/")
    if "?" in folder.uri:  # an object store's options follow the path
        below = result.folder.path.removeprefix(folder.path).strip("/")
    return {"folder": below, "sha256": result.result["posteriors_sha256"]}


def _meter(job: StudyJob, node: Node, manifest: Manifest) -> Meter:
    return Meter(step_flop(node, job.trainings, manifest), job.layout.workers)
