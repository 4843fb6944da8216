"""A Ray cluster of several nodes with addresses of their own, in network namespaces of this machine.

Needs root and iproute2.
"""

import os
import subprocess
from pathlib import Path

from cluster.nodes import Node, join, start_head


class NetworkedCluster:
    """Nodes with addresses of their own, 10.77.0.1 and on, in network namespaces joined by a bridge."""

    def __init__(self, nodes: int, cpus: int) -> None:
        self._hub = f"vgg{os.getpid()}-hub"
        self._names = [f"vgg{os.getpid()}-{i}" for i in range(nodes)]
        self.hosts = [f"10.77.0.{i + 1}" for i in range(nodes)]
        self.nodes: list[Node] = []
        try:
            self._join_networks()
            # Gloo looks for the interface of its host's name, which all namespaces share.
            environment = {"GLOO_SOCKET_IFNAME": "eth0"}
            self.nodes.append(
                start_head(cpus, host=self.hosts[0], inside=self.inside(0), environment=environment)
            )
            for i in range(1, nodes):
                self.nodes.append(
                    join(
                        self.nodes[0], cpus, host=self.hosts[i], inside=self.inside(i), environment=environment
                    )
                )
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "NetworkedCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def inside(self, node: int) -> tuple[str, ...]:
        """The command that runs another on this node's network."""
        return ("ip", "netns", "exec", self._names[node])

    def stop(self) -> None:
        """End the nodes and remove their networks."""
        for node in reversed(self.nodes):
            node.stop()
        for name in [*self._names, self._hub]:
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)

    def _join_networks(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        for i, (name, host) in enumerate(zip(self._names, self.hosts, strict=True)):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", f"port{i}", "netns", self._hub)
            _ip("-n", self._hub, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
