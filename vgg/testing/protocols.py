"""How the paper tests a net (sections 3.2 and 4): on one crop, densely, on many crops.

All of them take rescaled images and give posteriors: shares of belief in each class, which add up to 1.

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
"""What the dense protocol averages over space: scores, then one soft-max; or the soft-max of every place."""


GRID = 5
"""Crops of a row and of a column of the multi-crop grid (paper, section 4.3)."""


@dataclass(frozen=True)
class Pass:
    """What one pass of a net over the images yields: a protocol that is no mixture, at one scale Q."""

    protocol: Literal["single-crop", "dense", "multi-crop"]
    scale: int

    @property
    def name(self) -> str:
        """As in a file's name."""
        return f"{self.protocol}-{self.scale}"


@dataclass(frozen=True)
class Evaluation:
    """A protocol at one scale or several; its posteriors are the mean of its parts'."""

    __test__ = False  # pytest takes the name for its own

    protocol: Protocol
    scales: tuple[int, ...]

    @property
    def name(self) -> str:
        """As in a file's name."""
        return f"{self.protocol}-{'+'.join(map(str, self.scales))}"

    @property
    def parts(self) -> tuple[Pass, ...]:
        """The parts whose posteriors are averaged, each with the same weight."""
        protocols = ("dense", "multi-crop") if self.protocol == "both" else (self.protocol,)
        return tuple(Pass(protocol, scale) for protocol in protocols for scale in self.scales)  # type: ignore[arg-type]


def derived_scales(crop: Input, side: int, several: bool) -> tuple[int, ...]:
    """Q as the paper derives it from the training scale S (sections 4.1 and 4.2).

    Fixed S: Q = S, or S − 32, S, S + 32. S drawn from [a; b]: Q = (a + b) / 2, or a, (a + b) / 2, b. For a
    crop of other than 224 pixels the 32 shrinks or grows with it, and no Q is smaller than the crop.
    """
    least, most = crop.min_scale, crop.max_scale
    middle = (least + most) // 2
    if not several:
        return (middle,)
    if least == most:
        reach = round(32 * side / 224)
        least, most = max(side, middle - reach), middle + reach
    return tuple(sorted({least, middle, most}))


def grid_corners(height: int, width: int, side: int, grid: int) -> list[tuple[int, int]]:
    """(top, left) of the crops of a regular grid that reaches every edge; one crop is the centre's."""

    def places(length: int) -> list[int]:
        if grid == 1:
            return [(length - side) // 2]
        return [(2 * i * (length - side) + grid - 1) // (2 * (grid - 1)) for i in range(grid)]

    return [(top, left) for top in places(height) for left in places(width)]


def with_mirrors(images_BCHW: torch.Tensor) -> torch.Tensor:
    """The images, then their mirror images, [2B, C, H, W]."""
    return torch.cat([images_BCHW, images_BCHW.flip(3)])


def dense(net: nn.Module, images_BCHW: torch.Tensor, *, average: Average = "scores") -> torch.Tensor:
    """Posteriors [B, K] of whole images and their mirrors, the net applied at every place (section 3.2)."""
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
    """Mean posteriors [B, K] of `grid` × `grid` crops of each image, and of their mirror images.

    `batch`: crops that the net is given at once.
    """
    corners = grid_corners(images_BCHW.shape[2], images_BCHW.shape[3], side, grid)
    crops_NCHW = torch.cat([images_BCHW[:, :, top : top + side, left : left + side] for top, left in corners])
    count = len(corners)
    if mirror:
        crops_NCHW, count = with_mirrors(crops_NCHW), 2 * count
    posteriors = [_full_precision(net(crops)).flatten(1).softmax(1) for crops in crops_NCHW.split(batch)]
    return torch.cat(posteriors).unflatten(0, (count, -1)).mean(0)


def _full_precision(scores: torch.Tensor) -> torch.Tensor:
    """Scores of an autocast net in float32; others as they are."""
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
