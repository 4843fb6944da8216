"""A montage of a split: evenly spaced samples in the order of their classes, each captioned with its class."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cli.errors import UserError
from pipelines.shards.manifest import Manifest
from pipelines.shards.reader import Shards
from pipelines.shards.schema import UNLABELLED

MARGIN, CAPTION = 4, 14  # pixels between tiles, and below each for its caption

GREY = (128, 128, 128)


def montage(shards: Shards, manifest: Manifest, columns: int, rows: int, tile: int) -> Image.Image:
    """At most columns × rows whole images on grey tiles of `tile` pixels a side.

    UserError naming an image that cannot be decoded.
    """
    order_N = np.argsort(shards.labels_N, kind="stable")
    shown = min(columns * rows, len(shards))
    samples = order_N[np.arange(shown) * len(shards) // max(shown, 1)]
    columns, rows = min(columns, max(shown, 1)), -(-shown // columns)
    width, height = tile + MARGIN, tile + CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for position, image in enumerate(samples):
        left, top = MARGIN + position % columns * width, MARGIN + position // columns * height
        sheet.paste(ImageOps.pad(_decoded(shards, int(image)), (tile, tile), color=GREY), (left, top))
        label = int(shards.labels_N[image])
        caption = "" if label == UNLABELLED else " ".join(manifest.class_names[label].split(",")[0].split())
        while len(caption) > 1 and pen.textlength(caption, font) > tile:
            caption = caption[:-2].rstrip() + "…"
        pen.text((left, top + tile), caption, fill="black", font=font)
    return sheet


def _decoded(shards: Shards, image: int) -> Image.Image:
    try:
        with Image.open(io.BytesIO(shards.encoded(image).tobytes())) as encoded:
            return encoded.convert("RGB")
    except OSError as error:  # what PIL raises for a damaged file
        raise UserError(f"image {shards.key(image)} cannot be decoded ({error}): --verify the data") from error
