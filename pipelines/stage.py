"""Copy a packed data set to this machine's disk: `python -m pipelines.stage DATA`.

A training whose --data is a URI does this by itself.
"""

import tyro

from cli.command import arguments, exit_codes
from cli.program import program
from pipelines.shards.staging import StagingOptions, stage


def main() -> None:
    """Parse the command line, stage, and print the folder. Exit code 2 for a user's mistake."""
    options = tyro.cli(StagingOptions, prog=program("pipelines.stage"), args=arguments())
    with exit_codes(interrupted="interrupted: the same command resumes"):
        print(stage(options))


if __name__ == "__main__":
    main()
