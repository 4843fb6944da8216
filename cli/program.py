"""The name that a command is called by: `vgg-train` where it was installed, or `python -m vgg.train`."""

import sys
from pathlib import Path


def program(module: str) -> str:
    """For usage lines and shell completion; `module`: the command's, as `python -m` takes it."""
    script = Path(sys.argv[0]).name
    return script if script.startswith("vgg-") else f"python -m {module}"
