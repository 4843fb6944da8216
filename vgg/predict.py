"""Classify single images: `python -m vgg.predict IMAGE… --net NET`.

Shapes: B images, C = 3, H and W image sides in pixels, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError
from pipelines.loading.draw import rescaled
from vgg.net.module import VGG
from vgg.pictures.images import ranked_predictions
from vgg.testing.probabilities import why_no_probabilities
from vgg.testing.protocols import GRID, Evaluation, Protocol, dense, derived_scales, multi_crop
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

SHOWN_CLASSES = 5

MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class PredictOptions:
    """The five most probable classes of each image."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    net: str
    """A run's folder (its best checkpoint is used), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's vgg11, vgg13, vgg16 or vgg19."""
    protocol: Protocol = "dense"
    """How the paper tests a net; see python -m vgg.evaluate --help."""
    several: bool = False
    """Average over the three test scales that the paper derives from the training scale, instead of one."""
    picture: Path | None = Path("predictions.png")
    """Picture file to draw the images with their predictions to; None: no picture."""


def main() -> None:
    """Predict, print, draw. Exit code 2 for a user's mistake."""
    options = tyro.cli(PredictOptions, prog="python -m vgg.predict", args=arguments())
    with exit_codes():
        predict(options)


def predict(options: PredictOptions) -> None:
    """Print a table for each image and draw the picture. UserError naming a file that is not an image."""
    if not options.images:
        raise UserError("name at least one image")
    net = open_net(options.net)
    images = [open_image(file) for file in options.images]
    module = net.module()
    posteriors_BK = np.stack([posterior(net, module, image, options) for image in images])
    if fault := why_no_probabilities(posteriors_BK, [str(file) for file in options.images]):
        raise Failure(f"{net.name}: {fault}")
    names = net.class_names or tuple(f"class {k}" for k in range(net.architecture.classes))
    ranked_BK = np.argsort(-posteriors_BK, axis=1, kind="stable")[:, :SHOWN_CLASSES]
    predictions = [
        [(names[k], float(posterior_K[k])) for k in ranked_K]
        for posterior_K, ranked_K in zip(posteriors_BK, ranked_BK, strict=True)
    ]
    console = Console(soft_wrap=True)
    for file, classes in zip(options.images, predictions, strict=True):
        table = Table("class", "posterior", title=str(file))
        for name, probability in classes:
            table.add_row(name, f"{probability:.1%}")
        console.print(table)
    if options.picture is not None:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        figure = ranked_predictions([np.asarray(image) for image in images], predictions)
        figure.savefig(options.picture, dpi=110)
        console.print(f"drawn: {options.picture}", markup=False)


def open_image(file: Path) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says. UserError naming the file if it cannot be read."""
    try:
        with Image.open(file) as image:
            if image.width * image.height <= MAX_PIXELS:
                return ImageOps.exif_transpose(image).convert("RGB")
            size = f"{image.width}x{image.height}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL's, for broken files
        raise UserError(f"{file} cannot be read as an image: {error}") from error
    raise UserError(f"{file} has {size} pixels, more than {MAX_PIXELS:,}")


@torch.inference_mode()
def posterior(net: TrainedNet, module: VGG, image: Image.Image, options: PredictOptions) -> np.ndarray:
    """Class probabilities of one image, [K] float32; `module` is the net's."""
    side = net.architecture.side
    evaluation = Evaluation(options.protocol, derived_scales(net.training_input, side, options.several))
    posteriors = []
    for pass_ in evaluation.passes:
        images_BCHW = _rescale(image, pass_.scale, net.mean_rgb)
        if pass_.protocol == "dense":
            posterior_BK = dense(module, images_BCHW)
        else:
            many = pass_.protocol == "multi-crop"
            posterior_BK = multi_crop(module, images_BCHW, side=side, grid=GRID if many else 1, mirror=many)
        posteriors.append(posterior_BK[0])
    return torch.stack(posteriors).mean(0).numpy()


def _rescale(image: Image.Image, scale: int, mean_rgb: tuple[float, float, float]) -> torch.Tensor:
    """The image with a shorter side of `scale` pixels, less the mean, [1, C, H, W] float32."""
    sizes = np.array([image.height]), np.array([image.width]), np.array([scale])
    height, width = (int(length[0]) for length in rescaled(*sizes))
    pixels_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(pixels_HWC - np.asarray(mean_rgb, np.float32)).permute(2, 0, 1)[None]


if __name__ == "__main__":
    main()
