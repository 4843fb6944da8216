"""From the activations of nets at scales to one descriptor an image (paper, appendix B).

Of one net in one region: averaged over its scales, or put one after the other; then divided by the L2 norm. Of
several nets and regions: their descriptors one after the other, divided by the norm again, so that every
descriptor has length 1.

Shapes: B images, F units of a net's fc7, D numbers of a descriptor.
"""

from collections.abc import Sequence

import numpy as np

from vgg.transferring.provenance import Combine


def combined(of_sources: Sequence[Sequence[np.ndarray]], how: Combine) -> np.ndarray:
    """[B, D] float32 of activations [B, F]: of each net and region, of each of the net's scales."""
    descriptors = []
    for of_scales in of_sources:
        in_float64 = [activations_BF.astype(np.float64) for activations_BF in of_scales]
        of_source_BD = np.mean(in_float64, 0) if how == "mean" else np.concatenate(in_float64, 1)
        descriptors.append(normalised(of_source_BD))
    return normalised(np.concatenate(descriptors, 1)).astype(np.float32)


def normalised(rows_BD: np.ndarray) -> np.ndarray:
    """Each row divided by its L2 norm; a row of zeros, where no unit answers, stays as it is."""
    lengths_B1 = np.linalg.norm(rows_BD, axis=1, keepdims=True)
    return rows_BD / np.where(lengths_B1 > 0, lengths_B1, 1.0)
