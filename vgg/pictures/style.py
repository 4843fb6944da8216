"""Style that all pictures share: colours, and shortened class names."""

BLUE, ORANGE, GREEN, RED = "#3366aa", "#dd8833", "#338855", "#bb3333"


def short_name(name: str, max_length: int = 16) -> str:
    """The first of comma-separated synonyms, truncated."""
    first = name.partition(",")[0]
    return first if len(first) <= max_length else first[: max_length - 1] + "…"
