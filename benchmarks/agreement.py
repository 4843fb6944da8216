"""Compares one update on a device with the same update on the CPU in float32.

Shapes: B images, F hidden units.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from cluster.layout import Worker
from cluster.parallel.ddp import DDPReducer
from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.net.precision import MixedPrecision
from vgg.net.torchvision import to_torchvision
from vgg.recipes.schema import Optim
from vgg.training.dropout import dropout_masks
from vgg.training.optimizer import make_optimizer
from vgg.training.step import train_step

CPU = torch.device("cpu")

# Rounding sometimes flips a ReLU or the choice of a max-pooling, which changes a gradient by far more than its
# own rounding: 1e-6 of the units flipped is 1e-3 of the gradient's norm. A wrong gradient is off by 1.
FP32_SCORES, FP32_GRADIENTS = 1e-4, 2e-2
# bf16 on the device may be this many times as far from float32 as bf16 on the CPU is.
BF16_FACTOR = 2.0

TORCHVISION = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
TORCHVISION_SCORES = 1e-5


@dataclass(frozen=True)
class Update:
    """Results of one update, copied to the CPU in float32."""

    scores_BK: torch.Tensor
    loss: float
    gradients: dict[str, torch.Tensor]


@cache
def starting_state(architecture: Architecture) -> dict[str, torch.Tensor]:
    """Glorot weights, cached: drawing them for every measurement would take a minute in total."""
    net = VGG(architecture)
    initialise(net, "glorot", 0)
    return net.state_dict()


def inputs(architecture: Architecture, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise like pixels (0 to 255) minus their mean, [B, 3, side, side], and labels [B]."""
    draws = torch.Generator().manual_seed(0)
    pixels_BCHW = torch.randint(0, 256, (batch, 3, architecture.side, architecture.side), generator=draws)
    labels_B = torch.randint(0, architecture.classes, (batch,), generator=draws)
    return (pixels_BCHW.float() - 115.0).to(device), labels_B.to(device)


def update(
    architecture: Architecture,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Update:
    """Scores without dropout, then loss and gradients of the training's own step."""
    net = VGG(architecture)
    net.load_state_dict(starting_state(architecture))
    net.to(device).to(memory_format=layout)
    images_BCHW, labels_B = inputs(architecture, batch, device)
    images_BCHW = images_BCHW.contiguous(memory_format=layout)
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        scores_BK = net(images_BCHW).flatten(1)
    losses = train_step(
        DDPReducer(net, Worker(0, 1, 0, device, 1), batch, None, images_BCHW[:1]),
        make_optimizer(net, Optim()),
        MixedPrecision(dtype, device),
        images_BCHW,
        labels_B,
        dropout_masks(0, 0, range(batch), net.hidden, 0.5, device=device, dtype=dtype),
        lr=0.01,
    )
    gradients = {name: p.grad.float().cpu() for name, p in net.named_parameters() if p.grad is not None}
    return Update(scores_BK.float().cpu(), losses.sum().item(), gradients)


def distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return ((found - reference).norm() / reference.norm()).item()


def compare(found: Update, reference: Update) -> dict[str, Any]:
    """Relative distances of the scores, the loss and the worst gradient."""
    gradients = {name: distance(found.gradients[name], g) for name, g in reference.gradients.items()}
    # A NaN counts as the worst: max() alone would ignore it.
    worst = max(gradients, key=lambda name: (gradients[name] != gradients[name], gradients[name]))
    return {
        "scores": distance(found.scores_BK, reference.scores_BK),
        "loss": abs(found.loss - reference.loss) / reference.loss,
        "worst_gradient": gradients[worst],
        "worst_gradient_of": worst,
    }


def agreement(architecture: Architecture, batch: int, device: torch.device) -> dict[str, Any]:
    """Distances of the device's fp32 and bf16 from the CPU's fp32, their limits, and whether all hold."""
    plain, trained = torch.contiguous_format, torch.channels_last
    reference = update(architecture, batch, CPU, torch.float32, plain)
    yardstick = compare(update(architecture, batch, CPU, torch.bfloat16, plain), reference)
    fp32 = compare(update(architecture, batch, device, torch.float32, trained), reference)
    bf16 = compare(update(architecture, batch, device, torch.bfloat16, trained), reference)
    allowed = {
        "fp32": {"scores": FP32_SCORES, "worst_gradient": FP32_GRADIENTS},
        "bf16": {key: BF16_FACTOR * yardstick[key] for key in ("scores", "worst_gradient")},
    }
    agrees = all(
        found[key] <= most
        for found, limits in ((fp32, allowed["fp32"]), (bf16, allowed["bf16"]))
        for key, most in limits.items()
    )
    return {"fp32": fp32, "bf16": bf16, "cpu_bf16": yardstick, "allowed": allowed, "agrees": agrees}


def no_torchvision(architecture: Architecture) -> str | None:
    """The reason why torchvision has no such net; None if it has."""
    if importlib.util.find_spec("torchvision") is None:
        return "torchvision is not installed"
    if architecture.configuration not in TORCHVISION:
        return "torchvision has A, B, D and E only"
    if (architecture.side, architecture.width) != (224, 1.0):
        return "torchvision has nets of full width for 224 pixels only"
    return None


@torch.no_grad()
def torchvision_agreement(architecture: Architecture, batch: int, device: torch.device) -> dict[str, Any]:
    """Distance of our scores from torchvision's, both on the device in fp32 with the same weights."""
    models = importlib.import_module("torchvision.models")
    net = VGG(architecture)
    net.load_state_dict(starting_state(architecture))
    with torch.device("meta"):
        theirs = getattr(models, TORCHVISION[architecture.configuration])(num_classes=architecture.classes)
    theirs.load_state_dict(to_torchvision(net), assign=True)
    images_BCHW, _ = inputs(architecture, batch, device)
    expected_BK = theirs.eval().to(device)(images_BCHW)
    found = distance(net.to(device)(images_BCHW).flatten(1), expected_BK)
    return {"scores": found, "allowed": TORCHVISION_SCORES, "agrees": found <= TORCHVISION_SCORES}
