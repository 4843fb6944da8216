"""Brings a packed data set to this machine's disk: `python -m pipelines.stage DATA`.

A training whose --data is a URI does this by itself.
"""

import sys

import tyro
from rich.console import Console

from pipelines.shards.staging import StagingOptions, stage


def main() -> None:
    """Stage and print the folder. Exit code 2 for a user's mistake."""
    options = tyro.cli(StagingOptions, prog="python -m pipelines.stage")
    try:
        print(stage(options))
    except ValueError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with it", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
