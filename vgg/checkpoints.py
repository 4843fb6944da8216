"""The checkpoints of a run: `python -m vgg.checkpoints list|verify|prune RUN`, on a disk or an object store."""

import uuid
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.table import Table

from cli.command import arguments, exit_codes
from cli.console import console
from cli.errors import Failure, UserError
from cli.program import program
from pipelines.storage.folder import Folder
from vgg.weights import retention
from vgg.weights.inventory import Entry, entries, prune
from vgg.weights.lease import Lease


@dataclass(frozen=True)
class List:
    """Show the checkpoints of a run: step, accuracy, and why each is kept."""

    run: tyro.conf.Positional[str]
    """The run's folder or URI: what was --out of the training."""


@dataclass(frozen=True)
class Verify:
    """Read every checkpoint of a run and compare it with its SHA-256 digests."""

    run: tyro.conf.Positional[str]
    """The run's folder or URI."""


@dataclass(frozen=True)
class Prune:
    """Delete the checkpoints that are neither the newest two, nor the best, nor kept as an epoch's, and the
    damaged ones. Refused while a training writes to the run, or if no checkpoint is sound."""

    run: tyro.conf.Positional[str]
    """The run's folder or URI."""


def main() -> None:
    """Exit code 1 where a checkpoint is damaged, 2 where there is no run or it is being written."""
    command = tyro.cli(
        Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Prune, tyro.conf.subcommand("prune")],
        prog=program("vgg.checkpoints"),
        args=arguments(),
    )
    with exit_codes():
        run = _run(command.run)
        if isinstance(command, Prune):
            _prune(run)
        else:
            _show(list(entries(run, verify=isinstance(command, Verify))))


def _run(uri: str) -> Folder:
    run = Folder(uri, "RUN")
    if not retention.names(run):
        raise UserError(f"{run.described} has no checkpoints: name the --out of a training")
    return run


def _show(found: list[Entry]) -> None:
    table = Table("checkpoint", "step", "top-1", "kept as", "state")
    for entry in found:
        top1 = "" if entry.top1 is None else f"{entry.top1:.2%}"
        table.add_row(entry.name, f"{entry.step:,}", top1, ", ".join(entry.uses), entry.problem or "sound")
    console().print(table)
    if damaged := [entry.name for entry in found if entry.problem is not None]:
        raise Failure(
            f"{len(damaged)} of {len(found)} checkpoints cannot be resumed from: {', '.join(damaged)}"
        )


def _prune(run: Folder) -> None:
    lease = Lease(run, uuid.uuid4().hex)
    lease.acquire()
    try:
        gone = prune(run)
    finally:
        lease.release()
    print("\n".join(f"deleted {name}" for name in gone) or "nothing to delete")


if __name__ == "__main__":
    main()
