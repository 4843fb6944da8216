"""Class probabilities of image files, and of packed images whose class is not known.

Shapes: B images of one shape, C = 3, H and W image sides in pixels, K classes.
"""

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from cli.errors import UserError
from pipelines.loading.draw import rescaled
from pipelines.packing.rgb import to_rgb
from pipelines.shards.manifest import MANIFEST, read_manifest
from pipelines.shards.reader import Shards
from pipelines.shards.verification import verify
from pipelines.sources.files_below import files_below
from vgg.net.module import VGG
from vgg.testing.protocols import GRID, Evaluation, Pass, dense, multi_crop
from vgg.weights.trained_net import TrainedNet

MAX_PIXELS = 50_000_000

MAX_ASPECT = 32
"""Longer side by shorter side, as in packing."""

BATCH = 16
"""Images that are read before they are scored, those of one shape together."""


@dataclass(frozen=True)
class NamedImage:
    """An image that can be opened."""

    path: Path
    """Of its file, or its key in a packed data set."""
    encoded: Callable[[], Path | io.BytesIO]
    """What PIL opens."""

    def open(self) -> Image.Image:
        """As `open_image`."""
        return open_image(self.path, self.encoded())


def named_images(paths: Sequence[Path], split: str, but: Collection[Path] = ()) -> list[NamedImage]:
    """The files, for each folder the image files below it `but` these, sorted, and for each packed data set the
    images of this split. UserError naming what is not there."""
    images: list[NamedImage] = []
    for path in paths:
        if (path / MANIFEST).is_file():
            images += _packed(path, split)
        else:
            images += [NamedImage(file, partial(Path, file)) for file in _files(path, but)]
    return images


def _files(path: Path, but: Collection[Path]) -> list[Path]:
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    if not path.is_dir():
        return [path]
    suffixes, apart = set(Image.registered_extensions()), {file.resolve() for file in but}
    below = [file for file in files_below(path) if file.suffix.lower() in suffixes and file.is_file()]
    if not (images := [file for file in below if file.resolve() not in apart]):
        raise UserError(f"no image below the folder {path}")
    return images


def _packed(root: Path, split: str) -> list[NamedImage]:
    manifest = read_manifest(root)
    shards = Shards(root, manifest, split, labelled=False)
    verify(root, manifest, (split,))
    return [packed_image(shards, i) for i in range(len(shards))]


def packed_image(shards: Shards, i: int) -> NamedImage:
    """Image `i` of a split."""
    return NamedImage(Path(shards.key(i)), lambda: io.BytesIO(shards.encoded(i).tobytes()))


def open_image(file: Path, encoded: Path | io.BytesIO | None = None) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says. UserError naming the file if it cannot be read.

    `encoded`: where it is, if it is in no file of its own.
    """
    try:
        with Image.open(file if encoded is None else encoded) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT * min(width, height):
                return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL's parsers raise errors of any type
        raise UserError(f"{file} cannot be read as an image: {error}") from error
    raise UserError(
        f"{file} has {width}x{height} pixels, which are more than {MAX_PIXELS:,}, "
        f"or one side is over {MAX_ASPECT} times the other"
    )


def predicted(
    net: TrainedNet, images: Sequence[NamedImage], evaluation: Evaluation
) -> Iterator[tuple[NamedImage, np.ndarray | UserError]]:
    """Each image, in order, with its class probabilities, float32 [K], or why it cannot be read."""
    module = net.module()
    for first in range(0, len(images), BATCH):
        some = images[first : first + BATCH]
        scaled: dict[NamedImage, dict[int, torch.Tensor]] = {}
        unreadable: dict[NamedImage, UserError] = {}
        for each in some:
            try:
                image = each.open()
            except UserError as error:
                unreadable[each] = error
                continue
            scaled[each] = {scale: rescaled_input(image, scale, net.mean_rgb) for scale in evaluation.scales}
        posteriors_BK = _score(net, module, list(scaled.values()), evaluation)
        found = dict(zip(scaled, posteriors_BK, strict=True))
        yield from ((each, unreadable[each] if each in unreadable else found[each]) for each in some)


@torch.inference_mode()
def _score(
    net: TrainedNet, module: VGG, images: Sequence[dict[int, torch.Tensor]], evaluation: Evaluation
) -> np.ndarray:
    """The mean over the evaluation's passes, [B, K]; `images`: each at every scale, [C, H, W]."""
    total_BK = torch.zeros(len(images), net.architecture.classes)
    for pass_ in evaluation.passes:
        of_shape: dict[torch.Size, list[int]] = {}
        for i, at_scale in enumerate(images):
            of_shape.setdefault(at_scale[pass_.scale].shape, []).append(i)
        for indices in of_shape.values():
            images_BCHW = torch.stack([images[i][pass_.scale] for i in indices])
            total_BK[indices] += _pass(net, module, pass_, images_BCHW)
    return (total_BK / len(evaluation.passes)).numpy()


def _pass(net: TrainedNet, module: VGG, pass_: Pass, images_BCHW: torch.Tensor) -> torch.Tensor:
    if pass_.protocol == "dense":
        return dense(module, images_BCHW)
    many = pass_.protocol == "multi-crop"
    side = net.architecture.side
    return multi_crop(module, images_BCHW, side=side, grid=GRID if many else 1, mirror=many)


def rescaled_input(image: Image.Image, scale: int, mean_rgb: tuple[float, float, float]) -> torch.Tensor:
    """The image with a shorter side of `scale` pixels, less the mean, [C, H, W] float32."""
    sizes = np.array([image.height]), np.array([image.width]), np.array([scale])
    height, width = (int(length[0]) for length in rescaled(*sizes))
    pixels_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(pixels_HWC - np.asarray(mean_rgb, np.float32)).permute(2, 0, 1)
