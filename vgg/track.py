"""Deliver what a training could not: `python -m vgg.track SPOOL --uri URI`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from vgg.tracking.sender import Sender, say
from vgg.tracking.spool import Spool


@dataclass(frozen=True)
class TrackOptions:
    """Deliver what a training could not, because its MLflow server was away."""

    spool: tyro.conf.Positional[Path]
    """The folder that the training named."""
    uri: str
    """URI of the MLflow server."""
    patience_seconds: float = 60.0
    """Give up when the server is away for so long."""


def main() -> None:
    """Deliver a spool to its end. Exit code 1 where the server stays away, 2 where the folder is none."""
    options = tyro.cli(TrackOptions, prog="python -m vgg.track")
    if not (options.spool / "run.json").is_file():
        say(f"error: {options.spool} is not a spool (no run.json)")
        sys.exit(2)
    sender = Sender(Spool(options.spool), options.uri)
    sender.finish.set()
    sender.run(options.patience_seconds)
    if not sender.done:
        say(f"error: gave up after {options.patience_seconds:g} s; the rest stays in {options.spool}")
        sys.exit(1)
    print(f"delivered: {sender.url}")


if __name__ == "__main__":
    main()
