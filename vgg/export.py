"""Export a trained net for other programs: `python -m vgg.export NET --format onnx --out FOLDER`.

Writes the net, config.json and a model card, reads the net back as its users do and compares the scores.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError, require
from cli.files import require_writable
from cli.program import program
from pipelines.storage.folder import Folder
from vgg.exporting.card import model_card, protocol_rows
from vgg.exporting.formats import (
    OPSET,
    TORCHVISION,
    Form,
    Format,
    Run,
    largest_difference,
    standardisation,
    write,
)
from vgg.tracking.software import software
from vgg.weights.open_net import open_net
from vgg.weights.trained_net import TrainedNet

TOLERANCE = 1e-5
"""Largest difference of a score that a round trip may make, as a share of the largest score."""

CARD, CONFIG = "README.md", "config.json"

FILES: dict[Format, str] = {
    "safetensors": "model.safetensors",
    "onnx": "model.onnx",
    "torch-export": "model.pt2",
    "torchvision": "model.safetensors",
    "timm": "model.safetensors",
}

USES: dict[Format, str] = {
    "safetensors": "The parameters of `model.safetensors` are named after the paper's layers. Input: RGB "
    "pixels from 0 to 255 less `mean_rgb` of `config.json`.",
    "onnx": f"`model.onnx` (opset {OPSET}) takes `images`, float32 [batch, 3, {{size}}], RGB pixels from 0 to "
    "255, of any batch, and gives `scores`, float32 [batch, classes], before the soft-max. The mean is "
    "subtracted inside.",
    "torch-export": "`torch.export.load('model.pt2').module()` takes RGB pixels from 0 to 255, float32 "
    "[batch, 3, {size}], of any batch, and gives class scores before the soft-max. The mean is subtracted "
    "inside.",
    "torchvision": "`torchvision.models.{name}(num_classes={classes})` loads `model.safetensors`. Input: "
    "`torchvision.transforms.v2.Normalize(mean, std)` of `config.json` on pixels from 0 to 1.",
    "timm": "`timm.create_model('{name}', num_classes={classes}, checkpoint_path='model.safetensors')`. Input: "
    "`mean` and `std` of `config.json` on pixels from 0 to 1.",
}


@dataclass(frozen=True)
class ExportOptions:
    """Write a net in the format of another program, with a model card."""

    net: tyro.conf.Positional[str]
    """A run's folder (its best checkpoint is used), a checkpoint's, runs:/RUN or models:/MODEL of MLflow, or a
    weights file of torchvision's."""
    out: Path
    """Folder to write to."""
    format: Format = "safetensors"
    """safetensors: the paper's names. onnx, torch-export: the whole computation from pixels on. torchvision,
    timm: their names, for nets of their shape."""
    form: Form = "crop"
    """crop: images of the net's side. dense: images of any size from 32 pixels more on, the fully connected
    layers as convolutions, scores averaged over all places (onnx, torch-export)."""
    results: tuple[str, ...] = ()
    """Folders of evaluations whose errors the card shows, besides those in the run's own folder."""


def main() -> None:
    """Export and print. Exit code 2 for a user's mistake, 1 where what was written is not the same net."""
    options = tyro.cli(ExportOptions, prog=program("vgg.export"), args=arguments())
    with exit_codes():
        for line in export(options):
            print(line)


def export(options: ExportOptions) -> list[str]:
    """Write the folder; lines that say what is there. UserError where the format cannot hold the net, Failure
    where what was written gives other scores."""
    if options.form == "dense" and options.format not in ("onnx", "torch-export"):
        raise UserError(f"--form dense is for --format onnx and torch-export, not {options.format}")
    net = open_net(options.net)
    net.require_classifier()
    file = options.out / FILES[options.format]
    folder = Folder(str(options.out))
    missing = folder.missing_folders()
    try:
        rows, check = _write(net, options, file)
    except (UserError, Failure):
        folder.remove_empty(missing)
        raise
    _write_config(net, options)
    library = {"timm": "timm", "torchvision": "torchvision", "onnx": "onnx"}.get(options.format, "pytorch")
    use = _use(net, options)
    card = model_card(net, rows=rows, software=software(), use=use, check=check, library=library)
    (options.out / CARD).write_text(card, encoding="utf-8")
    return [
        f"{file}: {net.name}, {file.stat().st_size / 1e6:,.1f} MB. {check}",
        f"model card with {len(rows)} tests: {options.out}/{CARD}",
        f"to publish it: hf upload USER/{net.name} {options.out} .",
    ]


def _write(net: TrainedNet, options: ExportOptions, file: Path) -> tuple[list[dict[str, str]], str]:
    """Write the net's file; the card's rows, and what reading it back has shown."""
    require_writable(file, "--out")
    _require_own(options.out, file)
    rows = protocol_rows(net, _evaluations(options))
    with TemporaryDirectory(dir=options.out, prefix=".unfinished-") as unfinished:
        written = Path(unfinished) / file.name
        check = _check(net, options, write(net, options.format, options.form, written))
        written.replace(file)
    return rows, check


def _check(net: TrainedNet, options: ExportOptions, run: Run | None) -> str:
    """What reading the file back has shown. Failure where `run` gives other scores than the net."""
    if run is None:
        return "Not checked against the program that reads it, which was not installed."
    difference = largest_difference(net, options.form, run)
    if not difference <= TOLERANCE:
        raise Failure(
            f"--format {options.format} gives other scores than the net: they differ by {difference:.1e} of "
            f"the largest, more than {TOLERANCE:.0e}; it is not kept"
        )
    return (
        f"Read back and compared with the trained net on random images, scores differ by {difference:.1e} "
        "of the largest at most."
    )


def _require_own(out: Path, file: Path) -> None:
    """UserError where a file that is to be written is there, and no earlier export's."""
    there = next((each for each in (out / CARD, out / CONFIG, file) if os.path.lexists(each)), None)
    if there is None:
        return
    try:
        is_export = "weights_sha256" in json.loads((out / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        is_export = False
    require(
        is_export, f"--out {out}", f"a folder of its own: it has a {there.name} that is no earlier export's"
    )


def _write_config(net: TrainedNet, options: ExportOptions) -> None:
    mean, std = standardisation(net)
    config = {
        "architecture": asdict(net.architecture),
        "format": options.format,
        "form": options.form,
        "mean_rgb": list(net.mean_rgb),
        "mean": mean,
        "std": std,
        "test_scale": net.training_input.test_scale,
        "class_names": list(net.class_names or ()),
        "class_ids": list(net.class_ids or ()),
        "weights_sha256": net.weights_sha256,
    }
    (options.out / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _evaluations(options: ExportOptions) -> list[Folder]:
    """Where to look for tests of the net."""
    folders = [Folder(results, "--results") for results in options.results]
    for folder in folders:
        if not folder.names():
            raise UserError(f"--results {folder.uri} is no folder with results of python -m vgg.evaluate")
    is_run = not options.net.startswith(("runs:/", "models:/")) and not Path(options.net).is_file()
    return [*folders, Folder(options.net).child("evaluations")] if is_run else folders


def _use(net: TrainedNet, options: ExportOptions) -> str:
    side = net.architecture.side
    size = f"{side}, {side}" if options.form == "crop" else f"height ≥ {side + 32}, width ≥ {side + 32}"
    return USES[options.format].format(
        size=size,
        name=TORCHVISION.get(net.architecture.configuration, ""),
        classes=net.architecture.classes,
    )


if __name__ == "__main__":
    main()
