"""Augmentation parameters of an image: a pure function of (seed, epoch, image). No I/O.

Shapes: B images, C = 3 (RGB).
"""

from dataclasses import dataclass

import numpy as np

from cli.errors import UserError
from pipelines.loading.philox import philox

_DOMAIN = 1  # last word of the counter; the epoch's permutation uses 0, dropout 2


@dataclass(frozen=True)
class Augment:
    """Augmentation of a training image (paper, section 3.1)."""

    side: int
    """Crop side in pixels."""
    min_scale: int
    """Smallest training scale S, the shorter side of the rescaled image in pixels."""
    max_scale: int
    """Largest S."""
    mirror: bool = True
    colour_std: float = 0.1
    """Standard deviation of the factors of the PCA colour shift."""

    def __post_init__(self) -> None:
        """UserError if the crop does not fit."""
        if not self.side <= self.min_scale <= self.max_scale:
            raise UserError(
                f"--input.min-scale {self.min_scale} and --input.max-scale {self.max_scale} must not be "
                f"smaller than the crop of {self.side}, nor the first than the second"
            )


@dataclass(frozen=True)
class Draws:
    """For each image: rescale to `scaled_*`, crop at (top, left), mirror, add the colour shift; in pixels."""

    scaled_height_B: np.ndarray
    scaled_width_B: np.ndarray
    top_B: np.ndarray
    left_B: np.ndarray
    mirror_B: np.ndarray
    shift_BC: np.ndarray
    """float32, added to every pixel of the crop."""


def colour_axes(covariance_rgb: np.ndarray) -> np.ndarray:
    """The columns that the factors of AlexNet's PCA colour shift multiply: eigenvector times eigenvalue.

    The eigenvalues are those of pixels scaled to [0, 1], the shift is then scaled back to 0 to 255; see
    docs/decisions/colour-shift.md. The sign of an eigenvector makes its largest component positive.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance_rgb, np.float64) / 255**2)
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, range(3)])
    return 255 * vectors * values


def draw(
    seed: int,
    epochs_B: np.ndarray,
    images_B: np.ndarray,
    heights_B: np.ndarray,
    widths_B: np.ndarray,
    augment: Augment,
    axes_CC: np.ndarray,
) -> Draws:
    """The draws of these images in these epochs, each independent of the rest of the batch.

    `heights_B`, `widths_B`: sizes of the encoded images in pixels; `axes_CC`: from `colour_axes`.
    """
    words = np.empty((len(images_B), 8), np.uint64)
    for epoch in np.unique(epochs_B):
        chosen = np.flatnonzero(epochs_B == epoch)
        counters = np.zeros((len(chosen), 4), np.uint64)
        counters[:, 1], counters[:, 3] = images_B[chosen], _DOMAIN
        for block in range(2):
            counters[:, 0] = block
            words[chosen, 4 * block : 4 * block + 4] = philox((seed, int(epoch)), counters)
    uniform_B8 = (words >> np.uint64(11)) * 2.0**-53  # [0, 1), 53 bits

    scale_B = _uniform_integers(uniform_B8[:, 0], augment.min_scale, augment.max_scale)
    height_B, width_B = rescaled(heights_B, widths_B, scale_B)
    mirror_B = (uniform_B8[:, 3] < 0.5) & augment.mirror
    # Box–Muller: four uniforms, four normals, of which three are used.
    radius = np.sqrt(-2 * np.log1p(-uniform_B8[:, [4, 5]]))
    angle = 2 * np.pi * uniform_B8[:, [6, 7]]
    normal_B3 = np.concatenate([radius * np.cos(angle), radius[:, :1] * np.sin(angle[:, :1])], axis=1)
    return Draws(
        height_B,
        width_B,
        _uniform_integers(uniform_B8[:, 1], 0, height_B - augment.side),
        _uniform_integers(uniform_B8[:, 2], 0, width_B - augment.side),
        mirror_B,
        (augment.colour_std * normal_B3 @ axes_CC.T).astype(np.float32),
    )


def centre(heights_B: np.ndarray, widths_B: np.ndarray, side: int, scale: int) -> Draws:
    """The evaluation crop: the centre of the image rescaled to a shorter side of `scale`, not augmented.

    UserError if the crop does not fit.
    """
    if scale < side:
        raise UserError(f"--input.test-scale {scale} is smaller than the crop of {side}")
    height_B, width_B = rescaled(heights_B, widths_B, np.full(len(heights_B), scale))
    rows = len(heights_B)
    return Draws(
        height_B,
        width_B,
        (height_B - side) // 2,
        (width_B - side) // 2,
        np.zeros(rows, bool),
        np.zeros((rows, 3), np.float32),
    )


def region(
    draws: Draws, heights_B: np.ndarray, widths_B: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The region of each image to decode and to rescale, as four float32 [B, 2] (y, x) in pixels of the file.

    Anchor and shape of the region to decode, in whole pixels; then start and end of the crop within that
    region, which may fall between pixels.
    """
    sizes_B2 = np.stack([heights_B, widths_B], 1).astype(np.float64)
    scaled_B2 = np.stack([draws.scaled_height_B, draws.scaled_width_B], 1)
    corner_B2 = np.stack([draws.top_B, draws.left_B], 1)
    ratio_B2 = sizes_B2 / scaled_B2
    start_B2, end_B2 = corner_B2 * ratio_B2, (corner_B2 + side) * ratio_B2
    margin_B2 = np.ceil(np.maximum(ratio_B2, 1)) + 1  # support of the triangle filter
    first_B2 = np.maximum(np.floor(start_B2 - margin_B2), 0)
    last_B2 = np.minimum(np.ceil(end_B2 + margin_B2), sizes_B2)
    return (
        first_B2.astype(np.float32),
        (last_B2 - first_B2).astype(np.float32),
        (start_B2 - first_B2).astype(np.float32),
        (end_B2 - first_B2).astype(np.float32),
    )


def rescaled(heights_B: np.ndarray, widths_B: np.ndarray, scale_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height and width of images whose shorter side is rescaled to the scale; the longer one is rounded."""
    heights_B, widths_B = heights_B.astype(np.int64), widths_B.astype(np.int64)
    shorter_B = np.minimum(heights_B, widths_B)
    height_B = (2 * heights_B * scale_B + shorter_B) // (2 * shorter_B)
    width_B = (2 * widths_B * scale_B + shorter_B) // (2 * shorter_B)
    return height_B, width_B


def _uniform_integers(uniform_B: np.ndarray, low: int, high: np.ndarray | int) -> np.ndarray:
    """Uniform integers from `low` to `high`, both included."""
    return low + np.floor(uniform_B * (np.asarray(high) - low + 1)).astype(np.int64)
