"""What lies in a run's `checkpoints` folder: listed, verified byte by byte, pruned."""

from collections.abc import Iterator
from dataclasses import dataclass

from cli.errors import Failure
from pipelines.storage.folder import Folder
from vgg.weights import retention
from vgg.weights.checkpoint import DamagedCheckpoint, NoCheckpoint, read, read_metadata


@dataclass(frozen=True)
class Entry:
    """One checkpoint's folder."""

    name: str
    step: int
    uses: tuple[str, ...]
    """Why it is kept: newest, best, epoch 10."""
    top1: float | None
    """Accuracy of its validation, a fraction; None if it was not validated."""
    problem: str | None
    """Why it cannot be resumed from."""


def entries(run: Folder, *, verify: bool = False) -> Iterator[Entry]:
    """The checkpoints of a run, the oldest first. `verify`: read all of each and compare the digests, not of
    its `state.json` alone."""
    kept = retention.kept(run)
    for name in retention.names(run):
        folder = run.child(f"checkpoints/{name}")
        top1, problem = None, None
        try:
            metadata = read(folder).metadata if verify else read_metadata(folder)
            top1 = retention.validated_top1(metadata, retention.step_of(name))
        except (NoCheckpoint, DamagedCheckpoint) as error:
            problem = str(error)
        yield Entry(name, retention.step_of(name), tuple(kept.get(name, ())), top1, problem)


def prune(run: Folder) -> list[str]:
    """Delete what is not kept or not sound; the names. Failure, with nothing deleted, if none is sound."""
    found = list(entries(run, verify=True))
    if all(entry.problem is not None for entry in found):  # somebody may still restore one
        raise Failure(f"no checkpoint of {run.described} is sound: nothing is deleted")
    gone = [entry.name for entry in found if entry.problem is not None or not entry.uses]
    named = set(retention.read_index(run).values())
    for name in gone:
        run.delete(f"checkpoints/{name}")
    if named & set(gone):
        retention.rebuild_index(run)
    return gone
