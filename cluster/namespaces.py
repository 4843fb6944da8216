"""Machines of their own on one network, as network namespaces of this machine, and a Ray cluster on them.

Needs root and iproute2.
"""

import os
import subprocess
from pathlib import Path

from cluster.nodes import Host, Node, start_head, start_worker_node

INTERFACE = "eth0"


class Network:
    """Hosts at 10.77.0.1, 10.77.0.2, …: one namespace each, connected by a bridge in another one."""

    def __init__(self, hosts: int, bits_per_s: float | None = None) -> None:
        """`bits_per_s`: of each host's link, in either direction; None: as fast as the machine."""
        self._bridge_namespace = f"vgg{os.getpid()}-hub"
        self._namespaces = [f"vgg{os.getpid()}-{i}" for i in range(hosts)]
        try:
            self._create()
            if bits_per_s is not None:
                self._shape(bits_per_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the namespaces."""
        for name in [*self._namespaces, self._bridge_namespace]:
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)

    def command_prefix(self, host: int) -> tuple[str, ...]:
        """The command that runs another one in this host's namespace."""
        return ("ip", "netns", "exec", self._namespaces[host])

    def address(self, host: int) -> str:
        """IPv4 address of a host."""
        return f"10.77.0.{host + 1}"

    def host(self, number: int) -> Host:
        """Where a Ray node of this host runs and listens."""
        # Gloo would choose the interface of the machine's host name, which all namespaces share.
        environment = {"GLOO_SOCKET_IFNAME": INTERFACE}
        return Host(self.address(number), self.command_prefix(number), environment)

    def cut(self, host: int) -> None:
        """Pull the plug of a host's link."""
        _ip("-n", self._bridge_namespace, "link", "set", f"port{host}", "down")

    def mend(self, host: int) -> None:
        """Put it back."""
        _ip("-n", self._bridge_namespace, "link", "set", f"port{host}", "up")

    def _shape(self, bits_per_s: float) -> None:
        """A token bucket on both ends of each host's link."""
        rate = ("tbf", "rate", f"{bits_per_s:.0f}bit", "burst", "256kb", "latency", "100ms")
        for i, name in enumerate(self._namespaces):
            for namespace, interface in ((name, INTERFACE), (self._bridge_namespace, f"port{i}")):
                command = ("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", *rate)
                subprocess.run(command, check=True, capture_output=True)

    def _create(self) -> None:
        bridge = self._bridge_namespace
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for i, name in enumerate(self._namespaces):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", INTERFACE, "type", "veth", "peer", f"port{i}", "netns", bridge)
            _ip("-n", bridge, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"{self.address(i)}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")


class NetworkedCluster:
    """A Ray cluster whose nodes have IP addresses of their own."""

    def __init__(self, nodes: int, cpus: int) -> None:
        self._network = Network(nodes)
        self.command_prefix = self._network.command_prefix
        self.cut, self.mend = self._network.cut, self._network.mend
        self.nodes: list[Node] = []
        try:
            head = start_head(cpus, host=self._network.host(0))
            self.nodes.append(head)
            for i in range(1, nodes):
                self.nodes.append(start_worker_node(head, cpus, self._network.host(i)))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "NetworkedCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the nodes, the head node last, and delete their networks."""
        for node in reversed(self.nodes):
            node.stop()
        self._network.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
