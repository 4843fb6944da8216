"""Name what is in pictures: `python -m vgg.predict IMAGE… --net NET`.

Shapes: B images, C = 3, H and W their sides in pixels, K classes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.table import Table

from cli.command import print_error
from pipelines.loading.draw import rescaled
from vgg.net.module import VGG
from vgg.pictures.images import ranked_predictions
from vgg.testing.protocols import GRID, Evaluation, Protocol, dense, derived_scales, multi_crop
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

BEST = 5


LARGEST_PIXELS = 50_000_000


@dataclass(frozen=True)
class PredictOptions:
    """The five classes a net believes in most, for each image."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    net: str
    """A run's folder, a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or torchvision's weights file."""
    protocol: Protocol = "dense"
    several: bool = False
    """Average over the paper's three scales instead of one."""
    picture: Path | None = Path("predictions.png")
    """Where to draw the images with their predictions; None: nowhere."""


def main() -> None:
    """Predict, print, draw. Exit code 2 for a user's mistake."""
    options = tyro.cli(PredictOptions, prog="python -m vgg.predict")
    try:
        predict(options)
    except ValueError as error:
        sys.exit(print_error(error, 2))


def predict(options: PredictOptions) -> None:
    """Print a table an image. ValueError naming the file that is no image."""
    if not options.images:
        raise ValueError("name at least one image")
    net = open_net(options.net)
    opened = [open_image(file) for file in options.images]
    module = net.module()
    posteriors_BK = np.stack([posterior(net, module, image, options) for image in opened])
    names = net.class_names or tuple(f"class {k}" for k in range(net.architecture.classes))
    best_BK = np.argsort(-posteriors_BK, axis=1, kind="stable")[:, :BEST]
    console = Console(soft_wrap=True)
    for file, posterior_K, best_K in zip(options.images, posteriors_BK, best_BK, strict=True):
        table = Table("class", "posterior", title=str(file))
        for k in best_K:
            table.add_row(names[k], f"{posterior_K[k]:.1%}")
        console.print(table)
    if options.picture is not None:
        answers = [
            [(names[k], float(posterior_K[k])) for k in best_K]
            for posterior_K, best_K in zip(posteriors_BK, best_BK, strict=True)
        ]
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        ranked_predictions([np.asarray(image) for image in opened], answers).savefig(options.picture, dpi=110)
        console.print(f"drawn: {options.picture}", markup=False)


def open_image(file: Path) -> Image.Image:
    """An image as it is meant to be seen, RGB. ValueError naming the file that cannot be read."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(
                    f"{file} has {image.width}x{image.height} pixels, more than {LARGEST_PIXELS:,}"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


@torch.inference_mode()
def posterior(net: TrainedNet, module: VGG, image: Image.Image, options: PredictOptions) -> np.ndarray:
    """Posterior of one image, [K] float32; `module` is the net's."""
    side = net.architecture.side
    test = Evaluation(options.protocol, derived_scales(net.crop, side, options.several))
    found = []
    for part in test.parts:
        sizes = np.array([image.height]), np.array([image.width]), np.array([part.scale])
        height, width = (int(length[0]) for length in rescaled(*sizes))
        pixels_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        images_BCHW = torch.from_numpy(pixels_HWC - np.asarray(net.mean_rgb, np.float32)).permute(2, 0, 1)[None]
        if part.protocol == "dense":
            found.append(dense(module, images_BCHW)[0])
        else:
            many = part.protocol == "multi-crop"
            found.append(multi_crop(module, images_BCHW, side=side, grid=GRID if many else 1, mirror=many)[0])
    return torch.stack(found).mean(0).numpy()


if __name__ == "__main__":
    main()
