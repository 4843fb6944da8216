"""The console of every command: what it prints is text, never markup, however a class or a file is called."""

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Prints `[/red]` and `:cat:` as they are, in tables too, and breaks no line."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)
