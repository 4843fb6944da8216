"""How rows are divided: over ranks, and into micro-batches."""


def rank_slice(rank: int, world: int, total: int) -> range:
    """The contiguous rows of one rank; sizes differ by at most one, larger first (256 over 3: 86, 85, 85)."""
    each, left = divmod(total, world)
    start = rank * each + min(rank, left)
    return range(start, start + each + (rank < left))


def micro_batches(rows: range, size: int | None) -> list[slice]:
    """The rows in consecutive slices of at most `size`; None: in one."""
    return [slice(start, min(start + (size or len(rows)), rows.stop)) for start in rows[:: size or len(rows)]]
