"""Class probabilities of image files that are in no packed data set.

Shapes: B images of one shape, C = 3, H and W image sides in pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from cli.errors import UserError
from pipelines.loading.draw import rescaled
from vgg.net.module import VGG
from vgg.testing.protocols import GRID, Evaluation, Pass, dense, multi_crop
from vgg.weights.trained_net import TrainedNet

MAX_PIXELS = 50_000_000

MAX_ASPECT = 32
"""Longer side by shorter side, as in packing."""

BATCH = 16
"""Images that are read before they are scored, those of one shape together."""


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and for each folder the image files below it, sorted. UserError naming what is not there."""
    suffixes = set(Image.registered_extensions())
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"no file or folder {path}")
        if not path.is_dir():
            files.append(path)
            continue
        below = [file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file()]
        if not below:
            raise UserError(f"no image below the folder {path}")
        files += sorted(below)
    return files


def open_image(file: Path) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says. UserError naming the file if it cannot be read."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT * min(width, height):
                return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL's, for broken files
        raise UserError(f"{file} cannot be read as an image: {error}") from error
    raise UserError(
        f"{file} has {width}x{height} pixels, which are more than {MAX_PIXELS:,}, "
        f"or one side is over {MAX_ASPECT} times the other"
    )


def predicted(
    net: TrainedNet, files: Sequence[Path], evaluation: Evaluation
) -> Iterator[tuple[Path, np.ndarray | UserError]]:
    """Each file, in order, with its class probabilities, float32 [K], or why it cannot be read."""
    module = net.module()
    for first in range(0, len(files), BATCH):
        some = files[first : first + BATCH]
        scaled: dict[Path, dict[int, torch.Tensor]] = {}
        unreadable: dict[Path, UserError] = {}
        for file in some:
            try:
                image = open_image(file)
            except UserError as error:
                unreadable[file] = error
                continue
            scaled[file] = {scale: rescaled_input(image, scale, net.mean_rgb) for scale in evaluation.scales}
        posteriors_BK = _score(net, module, list(scaled.values()), evaluation)
        found = dict(zip(scaled, posteriors_BK, strict=True))
        yield from ((file, unreadable[file] if file in unreadable else found[file]) for file in some)


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
