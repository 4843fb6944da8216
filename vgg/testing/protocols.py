"""The paper's test protocols (sections 3.2 and 4): single-crop, dense and multi-crop.

Each takes rescaled images and gives posteriors: class probabilities, which add up to 1.

Shapes: B images of one shape, C = 3, H and W sides of the rescaled image in pixels, N crops of an image,
K classes, h and w sides of the class score map.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vgg.recipes.schema import Input

Protocol = Literal["single-crop", "dense", "multi-crop", "both"]

Average = Literal["scores", "posteriors"]
"""What the dense protocol averages over space: class scores before the soft-max, or posteriors after it."""

GRID = 5
"""Crops per row and per column of the multi-crop grid (paper, section 4.3)."""


@dataclass(frozen=True)
class Pass:
    """One pass of a net over the images: an elementary protocol at one test scale."""

    protocol: Literal["single-crop", "dense", "multi-crop"]
    scale: int
    """Q: the shorter side of the rescaled image in pixels."""

    @property
    def name(self) -> str:
        """As it appears in file names."""
        return f"{self.protocol}-{self.scale}"


@dataclass(frozen=True)
class Evaluation:
    """A protocol at one or several test scales; its posteriors are the mean of its passes'."""

    protocol: Protocol
    scales: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it appears in folder names."""
        return f"{self.protocol}-{'+'.join(map(str, self.scales))}"

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes whose posteriors are averaged, with equal weights."""
        protocols = ("dense", "multi-crop") if self.protocol == "both" else (self.protocol,)
        return tuple(Pass(protocol, scale) for protocol in protocols for scale in self.scales)  # type: ignore[arg-type]


def derived_scales(training_input: Input, side: int, several: bool) -> tuple[int, ...]:
    """The test scales Q, one or several, that the paper derives from the training scale S (sections 4.1, 4.2).

    Fixed S: Q = S, or S − 32, S, S + 32. S drawn from [a; b]: Q = (a + b) / 2, or a, (a + b) / 2, b. For crops
    of another `side` than 224 pixels the offset of 32 is scaled by side / 224; no Q is smaller than the crop.
    """
    smallest, largest = training_input.min_scale, training_input.max_scale
    middle = (smallest + largest) // 2
    if not several:
        return (middle,)
    if smallest == largest:
        offset = round(32 * side / 224)
        smallest, largest = max(side, middle - offset), middle + offset
    return tuple(sorted({smallest, middle, largest}))


def grid_corners(height: int, width: int, side: int, grid: int) -> list[tuple[int, int]]:
    """(top, left) of the crops of a regular grid from edge to edge; a grid of one is the centre crop."""

    def offsets(length: int) -> list[int]:
        if grid == 1:
            return [(length - side) // 2]
        return [(2 * i * (length - side) + grid - 1) // (2 * (grid - 1)) for i in range(grid)]

    return [(top, left) for top in offsets(height) for left in offsets(width)]


def with_mirrors(images_BCHW: torch.Tensor) -> torch.Tensor:
    """The images, then their mirror images, [2B, C, H, W]."""
    return torch.cat([images_BCHW, images_BCHW.flip(3)])


def dense(net: nn.Module, images_BCHW: torch.Tensor, *, average: Average = "scores") -> torch.Tensor:
    """Posteriors [B, K] of whole images and their mirrors, the net applied at every position (section 3.2)."""
    scores_BKhw = _full_precision(net(with_mirrors(images_BCHW)))
    if average == "scores":
        posteriors_BK = scores_BKhw.mean((2, 3)).softmax(1)
    else:
        posteriors_BK = scores_BKhw.softmax(1).mean((2, 3))
    return posteriors_BK.unflatten(0, (2, -1)).mean(0)


def multi_crop(
    net: nn.Module,
    images_BCHW: torch.Tensor,
    *,
    side: int,
    grid: int = GRID,
    mirror: bool = True,
    batch: int = 64,
) -> torch.Tensor:
    """Mean posteriors [B, K] of `grid` × `grid` crops of each image and, with `mirror`, their mirror images.

    `batch`: crops per forward pass.
    """
    corners = grid_corners(images_BCHW.shape[2], images_BCHW.shape[3], side, grid)
    crops_NCHW = torch.cat([images_BCHW[:, :, top : top + side, left : left + side] for top, left in corners])
    count = len(corners)
    if mirror:
        crops_NCHW, count = with_mirrors(crops_NCHW), 2 * count
    posteriors = [_full_precision(net(crops)).flatten(1).softmax(1) for crops in crops_NCHW.split(batch)]
    return torch.cat(posteriors).unflatten(0, (count, -1)).mean(0)


def _full_precision(scores: torch.Tensor) -> torch.Tensor:
    """Scores in float32 if autocast reduced them to 16 bits, else unchanged."""
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
