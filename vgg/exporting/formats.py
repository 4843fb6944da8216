"""Writes a net in the formats of other programs, and reads each back as they do: the scores must be the same.

Shapes: B images, H and W sides in pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch.export import Dim

from cli.errors import UserError
from vgg.exporting.modules import Scorer
from vgg.net.module import VGG
from vgg.net.torchvision import to_torchvision
from vgg.weights.trained_net import TrainedNet

Format = Literal["safetensors", "onnx", "torch-export", "torchvision", "timm"]
Form = Literal["crop", "dense"]

OPSET = 20
"""Version of ONNX's operators: the newest that ONNX Runtime 1.17 and later read."""

TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
MAX_SIDE = 4096  # of a dense form's image, in pixels
ROWS = 2  # images of a check

Run = Callable[[torch.Tensor], torch.Tensor]
"""Class scores of RGB pixels from 0 to 255, by what was written."""


def write(net: TrainedNet, to: Format, form: Form, file: Path) -> Run | None:
    """Write the net to the file; what runs it from there as its users do, None where that is not installed.

    UserError where the format cannot hold this net, or needs a package that is not there.
    """
    writers = {"safetensors": _safetensors, "onnx": _onnx, "torch-export": _torch_export}
    if to in writers:
        return writers[to](net, form, file)
    if form == "dense" and to == "torchvision":
        raise UserError("--form dense: torchvision's nets pool every image to 7x7; choose onnx or torch-export")
    require_torchvision_shape(net, to)
    return _torchvision(net, file) if to == "torchvision" else _timm(net, file)


def require_torchvision_shape(net: TrainedNet, to: str) -> None:
    """UserError where torchvision and timm have no net of this shape."""
    shape = net.architecture
    if shape.configuration not in TORCHVISION:
        raise UserError(f"--format {to}: it has no configuration {shape.configuration}, only A, B, D and E")
    if (shape.side, shape.width) != (224, 1.0):
        raise UserError(
            f"--format {to}: its nets are of side 224 and width 1, this one is of side {shape.side} and width "
            f"{shape.width:g}; choose safetensors, onnx or torch-export"
        )


def largest_difference(net: TrainedNet, form: Form, run: Run) -> float:
    """Between the net's scores and those of what was written, as a share of the largest, on random images."""
    side = net.architecture.side
    generator = torch.Generator().manual_seed(0)
    height, width = (side + 64, side + 32) if form == "dense" else (side, side)
    images_BCHW = torch.rand(ROWS, 3, height, width, generator=generator) * 255
    mean = torch.tensor(net.mean_rgb)[:, None, None]
    with torch.inference_mode():
        ours_BK = net.module()(images_BCHW - mean).mean((2, 3))
        theirs_BK = run(images_BCHW)
    assert theirs_BK.shape == ours_BK.shape
    return float((ours_BK - theirs_BK).abs().max() / ours_BK.abs().max().clamp(min=1.0))


def _safetensors(net: TrainedNet, form: Form, file: Path) -> Run:
    save_file({name: value.contiguous() for name, value in net.weights.items()}, file)
    again = VGG(net.architecture)
    again.load_state_dict(load_file(file))
    mean = torch.tensor(net.mean_rgb)[:, None, None]
    return lambda images_BCHW: again.eval()(images_BCHW - mean).mean((2, 3))


def _torch_export(net: TrainedNet, form: Form, file: Path) -> Run:
    torch.export.save(_exported(net, form), file)
    return torch.export.load(file).module()


def _onnx(net: TrainedNet, form: Form, file: Path) -> Run | None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'vgg-study[export]'") from error
    program = torch.onnx.export(
        _exported(net, form),
        opset_version=OPSET,
        input_names=["images"],
        output_names=["scores"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(str(file))
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images_BCHW: torch.from_numpy(session.run(None, {"images": images_BCHW.numpy()})[0])


def _exported(net: TrainedNet, form: Form) -> torch.export.ExportedProgram:
    side, batch = net.architecture.side, Dim("batch", min=1, max=65_536)
    shapes: dict[int, Dim] = {0: batch}
    # torch.export tells a map of one place from one of several: of the first kind is the crop form.
    size = side
    if form == "dense":
        size = side + 96
        shapes |= {
            2: Dim("height", min=side + 32, max=MAX_SIDE),
            3: Dim("width", min=side + 32, max=MAX_SIDE),
        }
    return torch.export.export(
        Scorer(net, dense=form == "dense"),
        (torch.zeros(ROWS, 3, size, size),),
        dynamic_shapes=(shapes,),
    )


def _torchvision(net: TrainedNet, file: Path) -> Run:
    import torchvision

    state = {name: value.contiguous() for name, value in to_torchvision(net.module()).items()}
    save_file(state, file)
    build = getattr(torchvision.models, TORCHVISION[net.architecture.configuration])
    theirs = build(num_classes=net.architecture.classes, init_weights=False).eval()
    theirs.load_state_dict(load_file(file))
    return lambda images_BCHW: theirs(_standardised(net, images_BCHW))


def _timm(net: TrainedNet, file: Path) -> Run | None:
    save_file(timm_state(net), file)
    try:
        import timm
    except ImportError:
        return None
    name = TORCHVISION[net.architecture.configuration]
    theirs = timm.create_model(name, num_classes=net.architecture.classes, checkpoint_path=str(file)).eval()
    return lambda images_BCHW: theirs(_standardised(net, images_BCHW))


def timm_state(net: TrainedNet) -> dict[str, torch.Tensor]:
    """The parameters under timm's names, whose first two fully connected layers are convolutions."""
    ours, hidden = net.weights, net.weights["fc7.weight"].shape[0]
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    state = {}
    for name, value in to_torchvision(net.module()).items():
        layer, kind = name.rsplit(".", 1)
        state[f"{names.get(layer, layer)}.{kind}"] = value.contiguous()
    state["pre_logits.fc1.weight"] = ours["fc6.weight"].reshape(hidden, -1, 7, 7).contiguous()
    state["pre_logits.fc2.weight"] = ours["fc7.weight"].reshape(hidden, hidden, 1, 1).contiguous()
    return state


def standardisation(net: TrainedNet) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which torchvision's and timm's transforms feed it, of pixels in [0, 1].

    (x - mean) / (1 / 255) is the 255 x - 255 mean that it was trained on.
    """
    return [value / 255 for value in net.mean_rgb], [1 / 255] * 3


def _standardised(net: TrainedNet, images_BCHW: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in standardisation(net))
    return (images_BCHW / 255 - mean) / std
