"""Deliver what a training could not: `python -m vgg.track SPOOL --uri URI`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from cli.command import arguments, exit_codes
from cli.errors import Failure, UserError
from cli.program import program
from vgg.tracking.messages import print_message
from vgg.tracking.sender import Sender
from vgg.tracking.server import tracking_uri
from vgg.tracking.spool import Spool


@dataclass(frozen=True)
class TrackOptions:
    """Deliver the tracking data that a training could not, because its MLflow server was away."""

    spool: tyro.conf.Positional[Path]
    """The spool folder that the training printed."""
    uri: str = ""
    """URI of the MLflow server. Default: MLFLOW_TRACKING_URI."""
    patience_seconds: float = 60.0
    """Give up when the server does not answer for this long."""


def main() -> None:
    """Deliver a spool completely. Exit code 1 where the server stays away, 2 where the folder is no spool."""
    options = tyro.cli(TrackOptions, prog=program("vgg.track"), args=arguments())
    with exit_codes():
        print(f"delivered: {deliver(options)}")


def deliver(options: TrackOptions) -> str | None:
    """Deliver all events of a spool; the page of the run. UserError or Failure as `main` says."""
    uri = tracking_uri(options.uri, "--uri")
    if uri is None:
        raise UserError("--uri is missing: the URI of the MLflow server (or set MLFLOW_TRACKING_URI)")
    if not (options.spool / "run.json").is_file():
        raise UserError(f"{options.spool} is not a spool (no run.json)")
    sender = Sender(Spool(options.spool), uri, ends_cut_off=True)
    sender.finish.set()
    sender.run(options.patience_seconds)
    if not sender.done:
        raise Failure(
            f"gave up after {options.patience_seconds:g} s: {sender.problem}; the rest stays in {options.spool}"
        )
    if sender.rejections:
        print_message(f"{sender.rejections:,} events could not be delivered: {options.spool}/rejected.jsonl")
    return sender.url


if __name__ == "__main__":
    main()
