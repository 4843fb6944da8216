"""How every command ends: its exit code, and what it says on standard error."""

from rich.console import Console


def print_error(problem: object, code: int) -> int:
    """Say on standard error what went wrong; the exit code, for `sys.exit`."""
    Console(stderr=True, soft_wrap=True).print(f"error: {problem}", markup=False, style="red")
    return code
