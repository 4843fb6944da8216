"""What identifies a tracked run."""

import time
from dataclasses import dataclass, fields
from typing import Any

from cli.errors import UserError


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

    @classmethod
    def from_json(cls, value: Any, file: object) -> "RunInfo":
        """The value of a run.json. UserError naming the field that is not as this version writes it."""
        if not isinstance(value, dict):
            raise UserError(f"{file} does not describe a run: the file is damaged")
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(value) - names):
            raise UserError(f"{file} has {unknown[0]}, which a later version wrote: deliver it with that")
        for field in fields(cls):
            if not _fits(value.get(field.name), field.type):
                raise UserError(f"{file} has no valid {field.name}: the file is damaged")
        if "'" in value["uid"] or not value["uid"].isprintable():
            raise UserError(f"{file} has no valid uid: the file is damaged")
        return cls(**value)


def _fits(value: Any, kind: object) -> bool:
    """Whether a JSON value is a str, an int or an object of strings."""
    if kind in (str, int):
        return type(value) is kind
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def unix_time_ms() -> int:
    """The current time in milliseconds since the epoch, as MLflow stores times."""
    return time.time_ns() // 1_000_000
