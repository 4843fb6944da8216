"""Boxes as edges and as centres, and how much two of them overlap.

Shapes: B boxes; 4: xmin, ymin, xmax, ymax, or centre x, centre y, width, height.
"""

import torch

LOCATED_IOU = 0.5
"""A box is right if its overlap is greater (paper, appendix A.2)."""


def to_centres(edges_B4: torch.Tensor) -> torch.Tensor:
    """(centre x, centre y, width, height) of edges, as the nets answer (paper, appendix A.1)."""
    low_B2, high_B2 = edges_B4[:, :2], edges_B4[:, 2:]
    return torch.cat([(low_B2 + high_B2) / 2, high_B2 - low_B2], 1)


def to_edges(centres_B4: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_centres`; the edges of a negative width are the wrong way round."""
    middle_B2, half_B2 = centres_B4[:, :2], centres_B4[:, 2:] / 2
    return torch.cat([middle_B2 - half_B2, middle_B2 + half_B2], 1)


def overlaps(one_B4: torch.Tensor, other_B4: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each pair of edges, [B]; 0 where one has no area. The unit of either axis does
    not matter."""
    low_B2 = torch.maximum(one_B4[:, :2], other_B4[:, :2])
    high_B2 = torch.minimum(one_B4[:, 2:], other_B4[:, 2:])
    shared_B = (high_B2 - low_B2).clamp(min=0).prod(1)
    areas = [(edges_B4[:, 2:] - edges_B4[:, :2]).clamp(min=0).prod(1) for edges_B4 in (one_B4, other_B4)]
    union_B = areas[0] + areas[1] - shared_B
    return torch.where(union_B > 0, shared_B / union_B.clamp(min=torch.finfo(union_B.dtype).tiny), 0)
