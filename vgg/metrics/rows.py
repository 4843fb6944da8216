"""Class probabilities of many images, of which a few rows are in memory at a time.

Shapes: N images, B images of a block, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_ROWS = 2000
"""Images held in memory at a time: 8 MB of float32 for a thousand classes."""


class Rows(ABC):
    """An array [N, K], float32, whose rows are computed or read when they are asked for."""

    def __init__(self, images: int, classes: int) -> None:
        self.shape = images, classes

    @abstractmethod
    def __getitem__(self, rows: slice) -> np.ndarray:
        """The rows from `rows.start` to `rows.stop` - 1, which both are given, in memory."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory: `np.asarray(rows)`."""
        return np.asarray(self[slice(0, self.shape[0])], dtype)


def blocks_of(images: int) -> Iterator[slice]:
    """Slices that cover so many rows, in order."""
    return (slice(first, min(first + BLOCK_ROWS, images)) for first in range(0, images, BLOCK_ROWS))
