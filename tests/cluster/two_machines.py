"""Two machines on one network, as network namespaces, each with a default route through the other."""

import os
import subprocess
import sys
from pathlib import Path

ADDRESSES = ("10.78.0.1", "10.78.0.2")


class TwoMachines:
    """A context manager; needs root and iproute2."""

    def __init__(self) -> None:
        self._names = [f"vgg{os.getpid()}-{side}" for side in ("a", "b")]

    def __enter__(self) -> "TwoMachines":
        try:
            for name in self._names:
                _ip("netns", "add", name)
            first, second = self._names
            _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", second)
            for name, own, other in zip(self._names, ADDRESSES, ADDRESSES[::-1], strict=True):
                _ip("-n", name, "address", "add", f"{own}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", "eth0", "up")
                _ip("-n", name, "route", "add", "default", "via", other)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)

    def on(self, machine: int) -> tuple[str, ...]:
        """The command that runs another one there."""
        return ("ip", "netns", "exec", self._names[machine])

    def listeners(self, machine: int) -> set[tuple[str, int]]:
        """Address and port of every TCP listener there."""
        done = subprocess.run([*self.on(machine), "ss", "-ltnH"], check=True, capture_output=True, text=True)
        locals_ = [line.split()[3].rpartition(":") for line in done.stdout.splitlines()]
        return {(address.strip("[]").removeprefix("::ffff:"), int(port)) for address, _, port in locals_}

    def reachable(self, ports: set[int]) -> set[int]:
        """The ports of the first machine that the second can connect to."""
        return {
            port
            for port in ports
            if subprocess.run(
                [*self.on(1), sys.executable, "-c", CONNECT, ADDRESSES[0], str(port)],
                check=False,
                capture_output=True,
            ).returncode
            == 0
        }


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
