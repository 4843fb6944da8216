"""Pack a data set: `python -m pipelines.pack SOURCE OUT`.

    list the source's files; divide the list into shards of about the given size
    for each shard, on all cores or as tasks of a Ray cluster:
        decode every image, skip invalid ones with the reason, write the rest, note that it is finished
    write the indices and the manifest, rename the folder to OUT

Images keep the source's order, since readers shuffle all of them every epoch, and the list is divided before
anything is decoded: equal sources give equal bytes, whatever the number of processes. An interrupted packing
resumes with the shards that are not finished.
"""

from collections import Counter
from functools import partial

import tyro
from rich.console import Console

from cli.command import arguments, exit_codes
from cli.errors import UserError
from cli.program import program
from cluster.process_pool import run_in_processes
from pipelines.packing.dataset import RunTasks, pack_to
from pipelines.packing.destination import check_destination
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import MANIFEST, Manifest
from pipelines.shards.splits import why_few
from pipelines.storage.apart import require_apart
from pipelines.storage.folder import Folder

MAX_SKIPPED_SHOWN = 20


def pack(options: PackOptions) -> Manifest:
    """Pack a data set.

    UserError if the source or the destination is invalid, Failure if a process or the cluster was lost, OSError
    if a file of the source cannot be read or a shard cannot be written.
    """
    if options.shard_mb < 1 or (options.workers is not None and options.workers < 1):
        raise UserError("--shard-mb and --workers must be at least 1")
    out = Folder(str(options.out))
    if out.local is None:
        if options.overwrite:
            raise UserError("--overwrite is for folders: remove what is at the URI, or choose another")
        if out.exists(MANIFEST):
            raise UserError(f"{out.uri} holds a packed data set already: choose another place")
        return pack_to(out, options, None, _runner(options))
    if options.source != "digits":
        require_apart(Folder(str(out.local), "OUT"), Folder(options.source, "SOURCE"), either_way=True)
    check_destination(out.local, options.overwrite)
    spool = out.local.with_name(f"{out.local.name}.spool")
    try:
        return pack_to(out, options, spool, _runner(options))
    finally:
        spool.unlink(missing_ok=True)


def _runner(options: PackOptions) -> RunTasks:
    if options.ray is None:
        return partial(run_in_processes, workers=options.workers)
    from cluster.tasks import run_as_ray_tasks  # imports Ray and torch, which takes seconds

    return partial(run_as_ray_tasks, workers=options.workers, address=options.ray)


def main() -> None:
    """Parse the command line, pack, and report. Exit code 2 for a user's mistake, 1 if a process was lost."""
    options = tyro.cli(PackOptions, prog=program("pipelines.pack"), args=arguments())
    with exit_codes(interrupted=f"interrupted: {options.out} is not complete; the same command resumes"):
        try:
            manifest = pack(options)
        except OSError as error:  # an unreadable file of the source, a full disk
            raise UserError(str(error)) from error
    _report(manifest, options)


def _report(manifest: Manifest, options: PackOptions) -> None:
    console = Console(soft_wrap=True)
    sizes = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    console.print(f"packed {manifest.source}: {sizes} images of {len(manifest.classes)} classes", markup=False)
    mean_rgb = ", ".join(f"{value:.1f}" for value in manifest.mean_rgb)
    if few := why_few(manifest.splits["val"].images):
        console.print(f"  warning: {few}", markup=False)
    console.print(f"  in {options.out}, mean RGB {mean_rgb}", markup=False)
    if manifest.segments is not None:
        kept = ", ".join(f"{count:,} {reason}" for reason, count in sorted(manifest.segments.kept.items()))
        told = f"; as they are: {kept}" if kept else ""
        console.print(f"  with restart markers: {manifest.segments.transcoded:,}{told}", markup=False)
    if manifest.skipped:
        counts = Counter(skipped.split for skipped in manifest.skipped)
        by_split = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
        console.print(f"  skipped: {by_split}; the reasons are in {MANIFEST}", markup=False)
    for skipped in manifest.skipped[:MAX_SKIPPED_SHOWN]:
        console.print(f"  skipped: {skipped.split} {skipped.key}: {skipped.reason}", markup=False)
    if len(manifest.skipped) > MAX_SKIPPED_SHOWN:
        console.print(f"  … and {len(manifest.skipped) - MAX_SKIPPED_SHOWN:,} more")


if __name__ == "__main__":
    main()
