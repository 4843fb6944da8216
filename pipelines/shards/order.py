"""The order in which training reads a data set: a function of (seed, epoch) alone.

Shapes: B positions of the stream.
"""

import numpy as np


def training_order(seed: int, first: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions `first` to `first + count` of the infinite training stream, as (epochs_B, images_B).

    Position p is entry p mod `size` of epoch p div `size`; each epoch is a permutation of the `size` images
    that depends on (seed, epoch) alone.
    """
    positions_B = np.arange(first, first + count, dtype=np.int64)
    epochs_B, offsets_B = np.divmod(positions_B, size)
    images_B = np.empty(count, np.int64)
    for epoch in np.unique(epochs_B):
        in_epoch_B = epochs_B == epoch
        images_B[in_epoch_B] = _permutation(seed, int(epoch), size)[offsets_B[in_epoch_B]]
    return epochs_B, images_B


_permutations: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    key = (seed, epoch, size)
    if key not in _permutations:
        if len(_permutations) > 3:  # for two loaders: the epoch that ends and the one that begins
            _permutations.pop(next(iter(_permutations)))
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        _permutations[key] = generator.permutation(size)
    return _permutations[key]
