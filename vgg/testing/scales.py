"""The test scales that a value of `--scales` stands for, and what dense is at them."""

import re

from cli.errors import UserError
from vgg.recipes.check import MAX_SIDE
from vgg.testing.protocols import derived_scales
from vgg.weights.trained_net import TrainedNet

TOTAL_STRIDE = 32
"""Of the net: pixels between two places of its last feature map."""


def requested_scales(value: str, net: TrainedNet) -> tuple[int, ...]:
    """The test scales Q, sorted. UserError naming the flag if the value stands for none that fit the net."""
    side = net.architecture.side
    if value == "validation":
        scales: tuple[int, ...] = (net.training_input.test_scale,)
    elif value in ("single", "several"):
        scales = derived_scales(net.training_input, side, value == "several")
    elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", value, re.ASCII):
        scales = tuple(sorted(int(scale) for scale in value.split(",")))
    else:
        raise UserError(
            f"--scales {value} is not validation, single, several, or numbers such as 256 or 256,384,512"
        )
    if len(set(scales)) < len(scales):
        raise UserError(f"--scales {value} names a scale twice")
    if scales[0] < side:
        raise UserError(
            f"--scales {scales[0]} is smaller than the crop of {side} that {net.name} was trained on"
        )
    if scales[-1] > MAX_SIDE:
        raise UserError(f"--scales {scales[-1]} is larger than {MAX_SIDE} pixels")
    return scales


def remark_on_dense(net: TrainedNet, scales: tuple[int, ...]) -> str | None:
    """What dense is where the net has a single place on a square image; None where it has several."""
    side = net.architecture.side
    if any(scale // TOTAL_STRIDE > side // TOTAL_STRIDE for scale in scales):
        return None
    unseen = "" if net.training_input.mirror else ", which this net was not trained on"
    return (
        f"dense at Q = {', '.join(map(str, scales))} is not the paper's: on a square image a net for {side} "
        f"pixels has one place there, so all that is averaged is the image and its mirror image{unseen}"
    )
