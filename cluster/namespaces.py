"""A Ray cluster of several nodes with IP addresses of their own, in network namespaces of this machine.

Needs root and iproute2.
"""

import os
import subprocess
from pathlib import Path

from cluster.nodes import Host, Node, start_head, start_worker_node


class NetworkedCluster:
    """Nodes at 10.77.0.1, 10.77.0.2, …: one namespace each, connected by a bridge in another one."""

    def __init__(self, nodes: int, cpus: int) -> None:
        self._bridge_namespace = f"vgg{os.getpid()}-hub"
        self._namespaces = [f"vgg{os.getpid()}-{i}" for i in range(nodes)]
        self.nodes: list[Node] = []
        try:
            self._create_networks()
            head = start_head(cpus, host=self._host(0))
            self.nodes.append(head)
            for i in range(1, nodes):
                self.nodes.append(start_worker_node(head, cpus, self._host(i)))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "NetworkedCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def command_prefix(self, node: int) -> tuple[str, ...]:
        """The command that runs another one in this node's network namespace."""
        return ("ip", "netns", "exec", self._namespaces[node])

    def stop(self) -> None:
        """Stop the nodes, the head node last, and delete their networks."""
        for node in reversed(self.nodes):
            node.stop()
        for name in [*self._namespaces, self._bridge_namespace]:
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)

    def _host(self, node: int) -> Host:
        # Gloo would choose the interface of the machine's host name, which all namespaces share.
        return Host(_address(node), self.command_prefix(node), {"GLOO_SOCKET_IFNAME": "eth0"})

    def _create_networks(self) -> None:
        bridge = self._bridge_namespace
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for i, name in enumerate(self._namespaces):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", f"port{i}", "netns", bridge)
            _ip("-n", bridge, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{_address(i)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")


def _address(node: int) -> str:
    return f"10.77.0.{node + 1}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
