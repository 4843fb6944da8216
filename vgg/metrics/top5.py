"""Whether the five best-scored classes say anything of a net."""

TOP = 5


def has_top5(classes: int) -> bool:
    """Whether an image's true class can be missing among the best five: not where there are no more."""
    return classes > TOP
