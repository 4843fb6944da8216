"""Messages of tracking to the user; they come from threads while a training prints its own."""

import sys


def print_message(text: str) -> None:
    """Print a line on standard error at once."""
    print(f"tracking: {text}", file=sys.stderr, flush=True)
