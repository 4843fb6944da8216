"""What identifies a tracked run."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class RunInfo:
    """A tracked run and its data set; run.json of a spool."""

    uid: str
    """Value of the tag by which a resumed training finds its run."""
    experiment: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    data_name: str
    data_digest: str
    data_source: str
    data_context: str
    """training or evaluation."""
    started: int
    """Unix time in milliseconds."""


def unix_time_ms() -> int:
    """The current time in milliseconds since the epoch, as MLflow stores times."""
    return time.time_ns() // 1_000_000
