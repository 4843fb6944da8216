"""A Ray cluster of one node on this machine, for tests and trials.

python -m cluster.local start --state FILE --cpus 2
python -m cluster.local stop --state FILE
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cluster.nodes import Node, start_head
from cluster.processes import free_port


class LocalCluster:
    """One node on loopback; a context manager."""

    def __init__(self, cpus: int, *, environment: dict[str, str] | None = None) -> None:
        self.head = start_head(cpus, environment=environment)

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.head.stop()


@dataclass(frozen=True)
class Start:
    """Start a one-node cluster on loopback; returns when it is ready."""

    state: Path
    """File to remember it in."""
    cpus: int = 2
    """Logical CPUs it offers."""
    dashboard_port: int = 8265
    """Port of the dashboard and the jobs API; another free one if it is taken."""


@dataclass(frozen=True)
class Stop:
    """End the cluster of a state file."""

    state: Path


def main() -> None:
    """Start or stop."""
    command = tyro.cli(
        Annotated[Start, tyro.conf.subcommand("start")] | Annotated[Stop, tyro.conf.subcommand("stop")],
        prog="python -m cluster.local",
    )
    if isinstance(command, Start):
        node = start_head(command.cpus, dashboard_port=free_port(command.dashboard_port))
        command.state.parent.mkdir(parents=True, exist_ok=True)
        command.state.write_text(json.dumps(asdict(node)))
        print(f"cluster {node.address}, jobs and dashboard at {node.dashboard_url}")
    elif command.state.is_file():
        Node(**json.loads(command.state.read_text())).stop()
        command.state.unlink()


if __name__ == "__main__":
    main()
