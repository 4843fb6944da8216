"""Pack a data set once: `python -m pipelines.pack SOURCE OUT`.

    list the source's files; cut the list into shards of about the size asked for
    for each shard, on all cores or as tasks of a Ray cluster:
        decode every image, set bad ones aside with their reason, write the rest, note that it is done
    add up what was noted, write the manifest, give the folder its name

Images keep the source's order, since readers shuffle all of them every epoch, and shards are cut before
anything is decoded: equal sources give equal bytes, whatever the number of processes. An interrupted packing
goes on with the shards that are not done.
"""

import sys
from collections import Counter

import tyro
from rich.console import Console

from pipelines.packing.dataset import pack_to
from pipelines.packing.destination import check_destination
from pipelines.packing.options import PackOptions
from pipelines.shards.manifest import MANIFEST, Manifest
from pipelines.storage.folder import Folder


def pack(options: PackOptions) -> Manifest:
    """Pack as asked. ValueError where the source or the place to write to is unfit."""
    if options.shard_mb < 1 or (options.workers is not None and options.workers < 1):
        raise ValueError("--shard-mb and --workers must be at least 1")
    out = Folder(str(options.out))
    if out.local is None:
        if options.overwrite:
            raise ValueError("--overwrite is for folders: remove what is at the URI, or choose another")
        if out.exists(MANIFEST):
            raise ValueError(f"{out.uri} holds a packed data set already: choose another place")
        return pack_to(options, out, None)
    check_destination(out.local, options.overwrite)
    spool = out.local.with_name(f"{out.local.name}.spool")
    try:
        return pack_to(options, out, spool)
    finally:
        spool.unlink(missing_ok=True)


def main() -> None:
    """Pack and say what was packed. Exit code 2 for a user's mistake."""
    options = tyro.cli(PackOptions, prog="python -m pipelines.pack")
    console = Console(soft_wrap=True)
    try:
        manifest = pack(options)
    except (ValueError, OSError) as error:  # OSError: an unreadable file of the source, a full disk
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted: {options.out} is not complete; the same command goes on with it", file=sys.stderr)
        sys.exit(130)
    sizes = ", ".join(f"{split.images:,} {name}" for name, split in manifest.splits.items())
    console.print(f"packed {manifest.source}: {sizes} images of {len(manifest.classes)} classes", markup=False)
    console.print(f"  in {options.out}, mean RGB {_rounded(manifest.mean_rgb)}", markup=False)
    if manifest.set_aside:
        counts = Counter(entry.split for entry in manifest.set_aside)
        told = ", ".join(f"{count:,} of {split}" for split, count in counts.items())
        console.print(f"  set aside: {told}; every one with its reason in {MANIFEST}", markup=False)
    for entry in manifest.set_aside[:20]:
        console.print(f"  set aside: {entry.split} {entry.key}: {entry.reason}", markup=False)
    if len(manifest.set_aside) > 20:
        console.print(f"  … and {len(manifest.set_aside) - 20:,} more")


def _rounded(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
