"""Contiguous parts of rows, images or leaves, one a rank."""


def rank_slice(rank: int, world: int, total: int) -> range:
    """The contiguous rows of one rank; sizes differ by at most one, larger first (256 over 3: 86, 85, 85)."""
    each, left = divmod(total, world)
    start = rank * each + min(rank, left)
    return range(start, start + each + (rank < left))
