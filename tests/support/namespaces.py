"""Hosts on one machine: network namespaces on a bridge, whose network can be cut towards one address or all.

Services that all hosts reach run outside, on addresses of the bridge. Needs root and Debian's iproute2.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from support.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: For tests of networks, by RFC 2544: nobody's own. Each network here takes 64 addresses of it.
_FIRST_ADDRESS = 198 << 24 | 18 << 16
_NETWORKS_COUNT = 2 << 10
#: Each bridge's hardware address, on its own network.
_BRIDGE = "02:00:00:00:00:02"
#: Nobody's hardware address.
_NOWHERE = "02:00:00:00:00:01"


def _ip(*args: str) -> str:
    done = subprocess.run([need("ip"), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr.strip()}"
    return done.stdout


def _dotted(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


@dataclass(frozen=True)
class NetHost:
    """One host: a namespace with one interface, ``eth0``."""

    name: str
    address: str
    port: str  #: the bridge's end of its cable

    def command(self, *args: str) -> list[str]:
        """A command that runs there; its process id is that of what `args` start."""
        return [need("ip"), "netns", "exec", self.name, *args]

    def cut_all(self) -> None:
        """Pull the cable: nothing comes and nothing goes, and nobody is told."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend_all(self) -> None:
        _ip("-n", self.name, "link", "set", "eth0", "up")

    def cut_silently(self, address: str) -> None:
        """Have what goes to one address vanish: connections hang until somebody's patience ends."""
        _ip(
            "-n", self.name, "neigh", "replace", address, "lladdr", _NOWHERE, "dev", "eth0",
            "nud", "permanent",
        )  # fmt: skip

    def mend_silently(self, address: str) -> None:
        _ip("-n", self.name, "neigh", "del", address, "dev", "eth0")

    def cut_loudly(self, address: str) -> None:
        """Have what goes to one address be refused by the host itself, at once."""
        _ip("-n", self.name, "route", "add", "blackhole", address)

    def mend_loudly(self, address: str) -> None:
        _ip("-n", self.name, "route", "del", "blackhole", address)


@dataclass(frozen=True)
class Network:
    """Some hosts, and two addresses for what they all use."""

    redis_address: str
    origin_address: str
    hosts: list[NetHost]
    _wire: Callable[[int], NetHost]

    def add_host(self) -> NetHost:
        """One host more."""
        host = self._wire(len(self.hosts))
        self.hosts.append(host)
        return host


def _need_root() -> None:
    need("ip")
    if os.geteuid() == 0:
        return
    sentence = "network namespaces need root"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def _free_addresses() -> int:
    """The first address of a network that nobody on this machine has."""
    taken = _ip("-o", "-4", "addr", "show")
    for step in range(_NETWORKS_COUNT):
        first = _FIRST_ADDRESS + 64 * ((os.getpid() + step) % _NETWORKS_COUNT)
        if f" {_dotted(first + 1)}/" not in taken:
            return first
    pytest.fail("all addresses for networks of tests are taken")


@contextmanager
def network(hosts_count: int) -> Iterator[Network]:
    """Hosts on a bridge; all of it is gone afterwards, also after a failure."""
    _need_root()
    # Interfaces have names of 15 characters at most; a process id has five in this spelling.
    mark = f"mh{os.getpid():x}"
    first = _free_addresses()
    with ExitStack() as stack:

        def make(*args: str, undo: tuple[str, ...]) -> None:
            _ip(*args)
            stack.callback(subprocess.run, [need("ip"), *undo], check=False, stderr=subprocess.DEVNULL)

        bridge = f"{mark}br"
        # With an address of its own: else it has the lowest of its ports', and when a host is added, those before it
        # may go on sending to another one for half a minute.
        make("link", "add", bridge, "address", _BRIDGE, "type", "bridge", undo=("link", "del", bridge))
        _ip("addr", "add", f"{_dotted(first + 1)}/26", "dev", bridge)
        _ip("addr", "add", f"{_dotted(first + 2)}/26", "dev", bridge)
        _ip("link", "set", bridge, "up")

        def wire(number: int) -> NetHost:
            host = NetHost(f"{mark}-{number}", _dotted(first + 10 + number), f"{mark}p{number}")
            make("netns", "add", host.name, undo=("netns", "del", host.name))
            # The kernel may keep a namespace for a while that is gone by name, and its end of the cable with it.
            make(
                "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", host.name,
                undo=("link", "del", host.port),
            )  # fmt: skip
            _ip("link", "set", host.port, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/26", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", interface, "up")
            return host

        net = Network(_dotted(first + 1), _dotted(first + 2), [], wire)
        for _ in range(hosts_count):
            net.add_host()
        yield net
