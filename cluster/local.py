"""A one-node Ray cluster on this machine, for tests and trials.

python -m cluster.local start --state FILE --cpus 2
python -m cluster.local stop --state FILE
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cli.command import exit_codes
from cluster.nodes import Host, Node, exports, start_head
from cluster.processes import usual_port


class LocalCluster:
    """One node on loopback; a context manager that stops it."""

    def __init__(self, cpus: int, *, environment: dict[str, str] | None = None) -> None:
        self.head = start_head(cpus, host=Host(environment=environment or {}))

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.head.stop()


@dataclass(frozen=True)
class Start:
    """Start a one-node cluster on loopback and return when it is ready."""

    state: Path
    """JSON file to write for `stop`."""
    cpus: int = 2
    """Logical CPUs of the node."""
    dashboard_port: int = 8265
    """Port of the dashboard and the jobs API; another free one if it is taken."""


@dataclass(frozen=True)
class Stop:
    """Stop the cluster that `start` wrote to the state file."""

    state: Path


def main() -> None:
    """Start or stop. Exit code 1 where the node does not come up."""
    command = tyro.cli(
        Annotated[Start, tyro.conf.subcommand("start")] | Annotated[Stop, tyro.conf.subcommand("stop")],
        prog="python -m cluster.local",
    )
    with exit_codes():
        if isinstance(command, Start):
            start(command)
        else:
            stop(command)


def start(command: Start) -> None:
    """Start the node and write its state file."""
    port = usual_port(command.dashboard_port, "the dashboard") if command.dashboard_port else 0
    node = start_head(command.cpus, dashboard_port=port)
    command.state.parent.mkdir(parents=True, exist_ok=True)
    command.state.write_text(json.dumps(asdict(node)))
    print(f"cluster {node.address}, jobs and dashboard at {node.dashboard_url}")
    print(f"It asks for a token. To use it: {exports(node)}")


def stop(command: Stop) -> None:
    """Stop the node of the state file, if there is one, and remove the file."""
    if command.state.is_file():
        Node(**json.loads(command.state.read_text())).stop()
        command.state.unlink()


if __name__ == "__main__":
    main()
