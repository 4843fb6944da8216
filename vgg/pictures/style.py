"""Style that all pictures share: colours, and shortened class names."""

BLUE, ORANGE, GREEN, RED = "#3366aa", "#dd8833", "#338855", "#bb3333"


def short_name(name: str, max_length: int = 16) -> str:
    """The first of comma-separated synonyms, truncated, as a text of matplotlib."""
    first = name.partition(",")[0]
    return as_text(first if len(first) <= max_length else first[: max_length - 1] + "…")


def as_text(name: str) -> str:
    """A name that matplotlib does not read as a formula, whatever dollars are in it."""
    return name.replace("$", "\\$")
