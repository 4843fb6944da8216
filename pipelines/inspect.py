"""Show a packed data set: `python -m pipelines.inspect OUT`.

Prints its splits, classes, sizes, pixel statistics and skipped files, and writes a montage of its images.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from cli.command import arguments, exit_codes
from cli.errors import UserError
from cli.program import program
from cli.progress import ProgressMeter
from pipelines.inspection.montage import montage
from pipelines.inspection.tables import class_table, split_table
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.verification import verify
from pipelines.storage.atomic import atomic_file

MAX_SKIPPED_SHOWN = 20


@dataclass(frozen=True)
class InspectOptions:
    """Show a packed data set and write a montage of it."""

    out: tyro.conf.Positional[Path]
    """Folder of the packed data set."""
    montage: Path | None = None
    """PNG file to write. Default: OUT-montage.png."""
    split: str = "train"
    """Split shown in the montage."""
    columns: int = 10
    """Columns of the montage."""
    rows: int = 6
    """Rows of the montage."""
    tile: int = 96
    """Side of a montage tile in pixels."""
    verify: bool = False
    """First compare every shard with its digest."""


def inspect(options: InspectOptions, console: Console) -> Path:
    """Print the tables, write the montage, return its path. UserError if the data or a flag is invalid."""
    if min(options.columns, options.rows) < 1 or options.tile < 8:
        raise UserError("--columns and --rows must be at least 1, --tile at least 8")
    root = options.out.absolute()
    manifest = read_manifest(root)
    if options.verify:
        _verify(root, manifest)
        console.print("every shard has the digest of the manifest")
    splits = {name: Shards(root, manifest, name, labelled=False) for name in manifest.splits}
    if options.split not in splits:
        raise UserError(f"--split {options.split}: {root} has {', '.join(splits)}")
    for table in (split_table(manifest, splits), class_table(manifest, splits)):
        console.print(table)
    deviation_C = np.sqrt(np.diag(manifest.covariance_rgb))
    console.print(f"mean RGB {_rounded(manifest.mean_rgb)}, standard deviation {_rounded(deviation_C)}")
    if manifest.segments is not None:
        files = manifest.segments.transcoded + sum(manifest.segments.kept.values())
        console.print(f"{manifest.segments.transcoded:,} of {files:,} files have restart markers")
    _print_skipped(manifest, console)
    file = options.montage or root.with_name(f"{root.name}-montage.png")
    _save(montage(splits[options.split], manifest, options.columns, options.rows, options.tile), file)
    console.print(f"montage of {options.split}: {file}", markup=False)
    return file


def _print_skipped(manifest: Manifest, console: Console) -> None:
    counts = Counter(skipped.split for skipped in manifest.skipped)
    by_split = ", ".join(f"{count:,} of {split}" for split, count in sorted(counts.items()))
    console.print(
        f"{len(manifest.skipped):,} files of the source skipped{by_split and ': '}{by_split}", markup=False
    )
    for skipped in manifest.skipped[:MAX_SKIPPED_SHOWN]:
        console.print(f"  {skipped.split} {skipped.key}: {skipped.reason}", markup=False)
    if len(manifest.skipped) > MAX_SKIPPED_SHOWN:
        console.print(f"  … and {len(manifest.skipped) - MAX_SKIPPED_SHOWN} more in the manifest")


def _save(picture: Image.Image, file: Path) -> None:
    try:
        with atomic_file(file) as stream:
            picture.save(stream, "PNG")
    except OSError as error:
        raise UserError(f"--montage {file} cannot be written: {error}") from error


def _verify(root: Path, manifest: Manifest) -> None:
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.files)
    megabytes_seen = 0
    with ProgressMeter("verifying", total // 10**6, "MB") as meter:

        def progress(bytes_done: int, _: int) -> None:
            nonlocal megabytes_seen
            meter.advance(bytes_done // 10**6 - megabytes_seen)
            megabytes_seen = bytes_done // 10**6

        verify(root, manifest, progress=progress)


def _rounded(values: np.ndarray | tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def main() -> None:
    """Parse the command line and inspect. Exit code 2 for a user's mistake."""
    options = tyro.cli(InspectOptions, prog=program("pipelines.inspect"), args=arguments())
    with exit_codes():
        inspect(options, Console(soft_wrap=True))


if __name__ == "__main__":
    main()
