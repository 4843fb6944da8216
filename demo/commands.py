"""Commands of the demo: each is shown, then run, as a client of the cluster where there is one."""

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from cli.errors import Failure
from cluster.nodes import Node

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
QUIET = {"RAY_LOGGER_LEVEL": "warning", "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": ""}
"""For `ray job submit`, which otherwise warns of what it leaves out of the upload: .rayignore says that."""
INTERRUPTED_SECONDS = 10.0
"""What an interrupted command is given to end by itself."""

console = Console(soft_wrap=True, highlight=False)


def show_command(command: str) -> None:
    """Print a command as a shell would show it."""
    console.print("[bold cyan]$[/]", end=" ")
    console.print(command, markup=False)


def run(command: list[str], cluster: Node | None = None) -> None:
    """Show and run a command, to its end also after Ctrl-C. Of its exit code: `require_success`."""
    with start(command, cluster) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the command too, which says what that means
            with suppress(subprocess.TimeoutExpired):
                process.wait(INTERRUPTED_SECONDS)
            process.kill()
            raise
    require_success(command, code)


def start(command: list[str], cluster: Node | None = None) -> subprocess.Popen[bytes]:
    """Show a command and start it."""
    show_command(shlex.join(command))
    environment = cluster.client_environment() if cluster else dict(os.environ)
    environment |= QUIET
    environment["PATH"] = f"{Path(PYTHON).parent}:{os.environ['PATH']}"
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def require_success(command: list[str], code: int) -> None:
    """End this process with 2 too after a user's mistake, which the command has told; Failure for any other
    exit code but 0."""
    if code == 2:
        sys.exit(2)
    if code != 0:
        raise Failure(f"{shlex.join(command)} ended with exit code {code}; its output is above")
