"""Messages of tracking to the user; they come from threads while a training prints its own."""

import sys

MAX_CHARACTERS = 1000


def print_message(text: str) -> None:
    """Print a line on standard error at once, whatever a spool or a server puts in it."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_CHARACTERS])
    print(f"tracking: {shown}", file=sys.stderr, flush=True)
