"""What a step leaves when it is done: step.json in its folder, written last. Done is what can be verified."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cli.errors import UserError
from pipelines.storage.folder import Folder
from vgg.studies.graph import Node
from vgg.studies.identity import NAME_DIGITS, Identity, but_for_code, digest_of
from vgg.testing import posteriors
from vgg.weights.open_run import open_run

FORMAT = 1
RECORD = "step.json"
STEPS = "steps"
WEIGHTS = "weights"


@dataclass(frozen=True)
class Cost:
    """What the attempt that finished a step took; of what earlier ones saved, it spent nothing."""

    seconds: float
    """Of wall time."""
    workers: int
    device: str
    flop: float
    """Of what it did, by the model of `vgg.studies.cost`."""
    images_per_s: float | None = None
    """Of a training."""
    energy_joules: float | None = None
    """Of the step's GPU; None where it cannot be read."""


@dataclass(frozen=True)
class StepResult:
    """A finished step."""

    name: str
    kind: str
    folder: str
    identity: Identity
    outputs: Mapping[str, Mapping[str, str]]
    """weights, or PROTOCOL SCALES of each evaluation -> its `folder` below the step's, and its `sha256`."""
    cost: Cost
    tracked: tuple[str, ...] = ()
    """Its runs in MLflow: their addresses, or the uid of a training's."""
    found: bool = False
    """Whether it was done before this attempt at the study."""


def step_folder(out: Folder, node: Node, identity: Identity) -> Folder:
    """Where this step of this identity lies. Steps that differ in anything never share a folder."""
    return out.child(f"{STEPS}/{node.name}-{digest_of(identity)[:NAME_DIGITS]}")


def find_done(out: Folder, node: Node, identity: Identity, *, any_code: bool) -> StepResult | None:
    """The verified result of this identity, if there is one; `any_code`: by whatever version of the code."""
    candidates = [step_folder(out, node, identity)]
    if any_code:
        names = [name for name in out.names(STEPS) if name.startswith(f"{node.name}-")]
        candidates += [out.child(f"{STEPS}/{name}") for name in names]
    for folder in candidates:
        found = _read(folder)
        same = found is not None and (
            but_for_code(found.identity) == but_for_code(identity) if any_code else found.identity == identity
        )
        if found is not None and same and (fault := fault_of(found)) is None:
            return found
        if found is not None and same:
            print(f"{node.name} is made again: {fault}", flush=True)
    return None


def write_record(folder: Folder, result: StepResult) -> None:
    """Enter the step as done. Its outputs are on storage by then."""
    folder.write_json(RECORD, {"format": FORMAT, **asdict(result)})


def fault_of(result: StepResult) -> str | None:
    """Why what a record names is not there as it was made; None if every digest is right."""
    folder = Folder(result.folder)
    try:
        for key, output in result.outputs.items():
            if key == WEIGHTS:
                digest = open_run(result.folder).weights_sha256
            else:
                result_folder = folder.child(output["folder"])
                digest = posteriors.open_file(result_folder, "posteriors.arrow").digest
                if result_folder.read_json("result.json").get("posteriors_sha256") != digest:
                    return f"{result_folder.uri}/result.json is of other class probabilities"
            if digest != output["sha256"]:
                return f"{result.folder}: {key} is not what it was made as"
    except (UserError, FileNotFoundError, KeyError, TypeError, AttributeError) as error:
        return f"{result.folder}: {error!r}" if not isinstance(error, UserError) else str(error)
    return None


def _read(folder: Folder) -> StepResult | None:
    """None where there is no record, or none that can be read: then the step is not done."""
    if not folder.exists(RECORD):
        return None
    try:
        fields = folder.read_json(RECORD)
        if fields.pop("format") != FORMAT:
            return None
        cost, tracked = Cost(**fields.pop("cost")), tuple(fields.pop("tracked"))
        # The folder as it is called now: a study may have been moved.
        return StepResult(**{**fields, "folder": folder.uri, "found": True}, cost=cost, tracked=tracked)
    except (UserError, KeyError, TypeError, AttributeError):
        return None
