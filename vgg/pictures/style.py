"""What all pictures have in common: colours, and names cut to fit."""

BLUE, ORANGE, GREEN, RED = "#3366aa", "#dd8833", "#338855", "#bb3333"


def short_name(name: str, most: int = 16) -> str:
    """The first of several synonyms, cut to fit."""
    first = name.partition(",")[0]
    return first if len(first) <= most else first[: most - 1] + "…"
