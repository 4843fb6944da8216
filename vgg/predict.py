"""Classify image files: `python -m vgg.predict IMAGE… --net NET`, also all of a folder or a packed split.

Shapes: K classes.
"""

import csv
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.table import Table

from cli.command import arguments, exit_codes
from cli.console import console
from cli.errors import Failure, UserError
from cli.files import require_writable
from cli.program import program
from cli.progress import ProgressMeter
from pipelines.sources.source import utf8_name
from pipelines.storage.atomic import atomic_file
from vgg.pictures.heat import heat_maps
from vgg.pictures.images import ranked_predictions
from vgg.testing.grad_cam import grad_cam
from vgg.testing.prediction import NamedImage, named_images, predicted, rescaled_input
from vgg.testing.probabilities import why_no_probabilities
from vgg.testing.protocols import Evaluation, Protocol
from vgg.testing.scales import requested_scales
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

SHOWN_CLASSES = 5
SHOWN_TABLES = 10
"""More images get a line each."""
DRAWN_IMAGES = 16
DRAWN_SIZE = 512, 512

Ranked = list[tuple[str, float]]
"""The best classes of an image with their probabilities, the best first."""


@dataclass(frozen=True)
class PredictOptions:
    """The five most probable classes of each image."""

    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, folders of them, or folders of packed data sets."""
    net: str
    """A run's folder (its best checkpoint is used), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's vgg11, vgg13, vgg16 or vgg19."""
    protocol: Protocol = "dense"
    """How the paper tests a net; see python -m vgg.evaluate --help."""
    split: str = "test"
    """Of a packed data set, the split whose images are classified; they need no labels."""
    several: bool = False
    """Average over the three test scales that the paper derives from the training scale, instead of testing at
    that of the validation during training."""
    picture: Path | None = Path("predictions.png")
    """Picture file to draw the images with their predictions to, at most 16; None: no picture."""
    grad_cam: Path | None = None
    """Picture file to draw where the net sees the most probable class of each image to (Grad-CAM), at most 16
    images."""
    csv: Path | None = None
    """CSV file for the five most probable classes of every image."""
    submission: Path | None = None
    """File for Tiny ImageNet's evaluation server: a line `test_0.JPEG n02124075` for every image."""


def main() -> None:
    """Predict, print, draw. Exit code 2 for a user's mistake, 1 if an image was passed over."""
    options = tyro.cli(PredictOptions, prog=program("vgg.predict"), args=arguments())
    with exit_codes():
        predict(options)


def predict(options: PredictOptions) -> None:
    """Print the best classes of each image, write and draw them.

    UserError if there is no image, none can be read, or what is to be written cannot be; Failure if some were
    passed over.
    """
    if not options.images:
        raise UserError("IMAGES is missing: name at least one image, or a folder of them")
    _check_outputs(options)
    net = open_net(options.net)
    net.require_classifier()
    images = named_images(options.images, options.split, _outputs(options).values())
    if options.submission is not None and net.class_ids is None:
        raise UserError("--submission: the net does not say its classes' identifiers; train it again")
    scales = requested_scales("several" if options.several else "validation", net)
    posteriors: dict[NamedImage, np.ndarray] = {}
    unreadable: list[UserError] = []
    many = len(images) > SHOWN_TABLES
    with ProgressMeter("predicting", len(images), "images") if many else nullcontext() as meter:
        for image, found in predicted(net, images, Evaluation(options.protocol, scales)):
            if isinstance(found, UserError):
                unreadable.append(found)
            else:
                posteriors[image] = found
            if meter is not None:
                meter.advance(1)
    if not posteriors:
        raise unreadable[0]
    if fault := why_no_probabilities(
        np.stack(list(posteriors.values())), [str(image.path) for image in posteriors]
    ):
        raise Failure(f"{net.name}: {fault}")
    _report(options, net, posteriors)
    if unreadable:
        raise Failure(
            f"{len(unreadable)} of {len(images)} images passed over: {'; '.join(map(str, unreadable[:3]))}"
            + ("; …" if len(unreadable) > 3 else "")
        )


def _outputs(options: PredictOptions) -> dict[str, Path]:
    """Flag -> the file that it asks for."""
    asked = {"--picture": options.picture, "--grad-cam": options.grad_cam}
    asked |= {"--csv": options.csv, "--submission": options.submission}
    return {flag: file for flag, file in asked.items() if file is not None}


def _check_outputs(options: PredictOptions) -> None:
    """UserError where what is to be written cannot be, or would be written over an image or each other."""
    known = sorted(Figure().canvas.get_supported_filetypes())
    taken = {image.resolve(): f"the image {image}" for image in options.images}
    for flag, file in _outputs(options).items():
        if (other := taken.setdefault(file.resolve(), flag)) != flag:
            raise UserError(f"{flag} {file} is {other}: name another file")
        require_writable(file, flag)
        if flag in ("--picture", "--grad-cam") and file.suffix.lower().removeprefix(".") not in known:
            raise UserError(f"{flag} {file} must end in one of .{', .'.join(known)}")


def _report(options: PredictOptions, net: TrainedNet, posteriors: dict[NamedImage, np.ndarray]) -> None:
    names = net.class_names or tuple(f"class {k}" for k in range(net.architecture.classes))
    best = {image: np.argsort(-each_K, kind="stable")[:SHOWN_CLASSES] for image, each_K in posteriors.items()}
    ranked = {
        image: [(names[k], float(posteriors[image][k])) for k in best_k] for image, best_k in best.items()
    }
    _print(ranked)
    out = console()
    if options.csv is not None:
        _write_csv(options.csv, ranked)
        out.print(f"written: {options.csv}")
    if options.submission is not None:
        assert net.class_ids is not None
        lines = [f"{utf8_name(image.path.name)} {net.class_ids[best_k[0]]}\n" for image, best_k in best.items()]
        with atomic_file(options.submission, "w") as stream:
            stream.writelines(lines)
        out.print(f"written: {options.submission}")
    _draw(options, net, ranked, {image: int(best_k[0]) for image, best_k in best.items()})


def _draw(
    options: PredictOptions, net: TrainedNet, ranked: dict[NamedImage, Ranked], first: dict[NamedImage, int]
) -> None:
    """The pictures that were asked for, of the first images; `first`: the most probable class of each."""
    drawn = list(ranked)[:DRAWN_IMAGES]
    images, names = [each.open() for each in drawn], [utf8_name(each.path.name) for each in drawn]
    scales = requested_scales("several" if options.several else "validation", net)
    scale = scales[len(scales) // 2]
    heat: list[np.ndarray] = []
    if options.grad_cam is not None:
        module = net.module()
        inputs = [rescaled_input(image, scale, net.mean_rgb) for image in images]
        heat = [grad_cam(module, input_, first[each]) for each, input_ in zip(drawn, inputs, strict=True)]
    for image in images:
        image.thumbnail(DRAWN_SIZE)
    pixels = [np.asarray(image) for image in images]
    part = f", the first {len(drawn)} of {len(ranked)} images" if len(drawn) < len(ranked) else ""
    if options.picture is not None:
        title = f"{net.name}, {options.protocol}, Q = {', '.join(map(str, scales))}"
        _save(ranked_predictions(pixels, [ranked[each] for each in drawn], names, title), options.picture, part)
    if options.grad_cam is not None:
        title = f"{net.name}, Grad-CAM, Q = {scale}"
        _save(
            heat_maps(pixels, heat, [ranked[each][0] for each in drawn], names, title), options.grad_cam, part
        )


def _save(figure: Figure, file: Path, part: str) -> None:
    with atomic_file(file) as stream:
        figure.savefig(stream, dpi=110, format=file.suffix.lower().removeprefix("."))
    console().print(f"drawn: {file}{part}")


def _print(ranked: dict[NamedImage, Ranked]) -> None:
    out = console()
    for image, classes in ranked.items():
        if len(ranked) > SHOWN_TABLES:
            out.print(f"{image.path}: {classes[0][0]} {classes[0][1]:.1%}")
            continue
        table = Table("class", "posterior", title=str(image.path))
        for name, probability in classes:
            table.add_row(name, f"{probability:.1%}")
        out.print(table)
    out.print(f"{len(ranked):,} images predicted" if len(ranked) != 1 else "1 image predicted")


def _write_csv(path: Path, ranked: dict[NamedImage, Ranked]) -> None:
    places = range(1, SHOWN_CLASSES + 1)
    columns = [f"{what}_{place}" for place in places for what in ("class", "posterior")]
    with atomic_file(path, "w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", *columns])
        for image, classes in ranked.items():
            writer.writerow(
                [
                    utf8_name(str(image.path)),
                    *(value for name, share in classes for value in (name, f"{share:.6f}")),
                ]
            )


if __name__ == "__main__":
    main()
