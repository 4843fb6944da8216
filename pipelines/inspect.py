"""Show a packed data set: `python -m pipelines.inspect OUT`.

Prints counts, classes, sizes, pixel statistics and what was set aside, and writes a montage of its images.
"""

import io
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.progress import ProgressMeter
from pipelines.shards.manifest import Manifest, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.verification import verify

MARGIN, CAPTION = 4, 14  # pixels between tiles, and below each for its class


LISTED = 20  # rows of classes and of files set aside that are printed


@dataclass(frozen=True)
class InspectOptions:
    """Show a packed data set and write a montage of it."""

    out: tyro.conf.Positional[Path]
    """Folder of the packed data set."""
    montage: Path | None = None
    """PNG file to write; OUT-montage.png where none is named."""
    split: str = "train"
    """Split the montage shows."""
    columns: int = 10
    """Tiles in a row of the montage."""
    rows: int = 6
    """Rows of the montage."""
    tile: int = 96
    """Side of a tile in pixels."""
    verify: bool = False
    """Compare every shard with its digest first."""


def inspect(options: InspectOptions, console: Console) -> Path:
    """Print the tables, write the montage, return its path. ValueError where the data or a flag is unfit."""
    if min(options.columns, options.rows) < 1 or options.tile < 8:
        raise ValueError("--columns and --rows must be at least 1, --tile at least 8")
    root = options.out.absolute()
    manifest = read_manifest(root)
    if options.verify:
        _verify(root, manifest)
        console.print("every shard has the digest of the manifest")
    splits = {name: Shards(root, manifest, name) for name in manifest.splits}
    if options.split not in splits:
        raise ValueError(f"--split {options.split}: {root} has {', '.join(splits)}")
    for table in (split_table(manifest, splits), class_table(manifest, splits)):
        console.print(table)
    deviation_C = np.sqrt(np.diag(manifest.covariance_rgb))
    console.print(f"mean RGB {_numbers(manifest.mean_rgb)}, standard deviation {_numbers(deviation_C)}")
    counts = Counter(entry.split for entry in manifest.set_aside)
    told = ", ".join(f"{count:,} of {split}" for split, count in sorted(counts.items()))
    console.print(
        f"{len(manifest.set_aside):,} files of the source set aside{told and ': '}{told}", markup=False
    )
    for entry in manifest.set_aside[:LISTED]:
        console.print(f"  {entry.split} {entry.key}: {entry.reason}", markup=False)
    if len(manifest.set_aside) > LISTED:
        console.print(f"  … and {len(manifest.set_aside) - LISTED} more in the manifest")
    file = options.montage or root.with_name(f"{root.name}-montage.png")
    picture = montage(splits[options.split], manifest, options.columns, options.rows, options.tile)
    partial = file.with_name(f"{file.name}.partial")
    try:
        picture.save(partial, "PNG")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"--montage {file} cannot be written: {error}") from error
    console.print(f"montage of {options.split}: {file}", markup=False)
    return file


def split_table(manifest: Manifest, splits: dict[str, Shards]) -> Table:
    """A row a split: images, classes, files, bytes, and the range of heights and widths."""
    table = Table("split", title=f"{escape(manifest.source)}, {manifest.digest[:12]}", title_justify="left")
    for heading in ("images", "classes", "a class", "shards", "MB", "height", "width"):
        table.add_column(heading, justify="right")
    for name, shards in splits.items():
        each_K = _counts(shards, manifest)
        files = manifest.splits[name].shards
        table.add_row(
            escape(name),
            f"{len(shards):,}",
            str(np.count_nonzero(each_K)),
            _span(each_K),
            str(len(files)),
            f"{sum(file.bytes for file in files) / 1e6:,.1f}",
            _span(shards.heights_N),
            _span(shards.widths_N),
        )
    return table


def class_table(manifest: Manifest, splits: dict[str, Shards]) -> Table:
    """A row a class: label, identifier, name and images of each split; the first so many."""
    table = Table("label", "class", "name", title_justify="left")
    for name in splits:
        table.add_column(escape(name), justify="right")
    counts = [_counts(shards, manifest) for shards in splits.values()]
    for label, (identifier, name) in enumerate(zip(manifest.classes, manifest.class_names, strict=True)):
        if label == LISTED:
            table.caption = f"… of {len(manifest.classes)} classes"
            break
        table.add_row(
            str(label), escape(identifier), escape(name), *(f"{each_K[label]:,}" for each_K in counts)
        )
    return table


def montage(shards: Shards, manifest: Manifest, columns: int, rows: int, tile: int) -> Image.Image:
    """Images evenly spaced over the split ordered by class, each named by its class; whole, on grey."""
    order_N = np.argsort(shards.labels_N, kind="stable")
    shown = min(columns * rows, len(shards))
    chosen = order_N[np.arange(shown) * len(shards) // max(shown, 1)]
    columns, rows = min(columns, max(shown, 1)), -(-shown // columns)
    wide, high = tile + MARGIN, tile + CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * wide + MARGIN, rows * high + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for place, image in enumerate(chosen):
        left, top = MARGIN + place % columns * wide, MARGIN + place // columns * high
        with Image.open(io.BytesIO(shards.encoded(int(image)).tobytes())) as encoded:
            sheet.paste(ImageOps.pad(encoded.convert("RGB"), (tile, tile), color=(128, 128, 128)), (left, top))
        name = manifest.class_names[shards.labels_N[image]].split(",")[0]
        while len(name) > 1 and pen.textlength(name, font) > tile:
            name = name[:-2].rstrip() + "…"
        pen.text((left, top + tile), name, fill="black", font=font)
    return sheet


def _verify(root: Path, manifest: Manifest) -> None:
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.files)
    seen = 0
    with ProgressMeter("verifying", total // 10**6, "MB") as meter:

        def progress(done: int, _: int) -> None:
            nonlocal seen
            meter.advance(done // 10**6 - seen)
            seen = done // 10**6

        verify(root, manifest, progress=progress)


def _counts(shards: Shards, manifest: Manifest) -> np.ndarray:
    return np.bincount(shards.labels_N, minlength=len(manifest.classes))


def _span(values_N: np.ndarray) -> str:
    """Least to greatest, or the only one."""
    if not len(values_N):
        return "-"
    least, most = int(values_N.min()), int(values_N.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _numbers(values: np.ndarray | tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def main() -> None:
    """Exit code 2 for a user's mistake."""
    options = tyro.cli(InspectOptions, prog="python -m pipelines.inspect")
    try:
        inspect(options, Console(soft_wrap=True))
    except (ValueError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
