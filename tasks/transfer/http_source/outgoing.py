"""Where connections leave this host from: addresses of it, or one of its network interfaces."""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import itertools
import socket
import struct
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.transfer.errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: From linux/sockios.h: the IPv4 address of an interface.
_SIOCGIFADDR = 0x8915
_ADDRESS_OFFSET = 20  # in its answer, a struct ifreq
_IPV6_INTERFACES = Path("/proc/net/if_inet6")
_GLOBAL_SCOPE = "00"

_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class NoWayOut(OSError):
    """None of a host's addresses is of the family of those that connections leave from."""


@dataclass(frozen=True)
class Outgoing:
    """Where one connection leaves from; urllib3 carries it as the source address, for it keeps such apart."""

    ipv4: str | None = None  #: address to bind to; None: see `binds`
    ipv6: str | None = None
    interface: str | None = None  #: that the kernel is told of

    def hops(self, host: str, port: int) -> Iterator[tuple[str, tuple[str, int] | None]]:
        """The addresses of a host that can be reached from here, and what to bind to for each.

        Raises:
            NoWayOut: there are none.
            socket.gaierror: nobody knows the host.
        """
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        own = {socket.AF_INET: self.ipv4, socket.AF_INET6: self.ipv6}
        if self.ipv4 is None and self.ipv6 is None:
            yield from ((str(address[0]), None) for _, _, _, _, address in found)
            return
        fits = [(str(address[0]), bound) for family, _, _, _, address in found if (bound := own.get(family))]
        if not fits:
            missing = " or ".join(_FAMILIES[family] for family, bound in own.items() if bound)
            raise NoWayOut(
                errno.EAFNOSUPPORT,
                f"it has no {missing} address, and connections of this worker leave from {self.ipv4 or self.ipv6}",
            )
        yield from ((address, (bound, 0)) for address, bound in fits)

    @property
    def socket_options(self) -> list[tuple[int, int, bytes]]:
        """What a socket has to be told before it connects."""
        if self.interface is None:
            return []
        return [(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode() + b"\0")]


def check_ways_out(addresses: Sequence[str], interface: str | None) -> None:
    """Make sure that these are this host's.

    Raises:
        BadOption: one is not.
    """
    for address in addresses:
        with socket.socket(_family_of(address), socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                raise BadOption(
                    f"Connections cannot leave from {address} (ORCHESTRATOR_SOURCE_ADDRESS): "
                    f"{_sentence(error, 'it is no address of this host')}."
                ) from None
    if interface is None:
        return
    refusal = _refusal(interface)
    if refusal is not None and refusal.errno != errno.EPERM:
        raise BadOption(
            f"Connections cannot leave through {interface} (ORCHESTRATOR_INTERFACE): "
            f"{_sentence(refusal, 'this host has no interface of that name')}."
        )
    if refusal is not None and not addresses and not _addresses_of(interface):
        raise BadOption(
            f"Connections cannot leave through {interface} (ORCHESTRATOR_INTERFACE): this kernel lets root alone "
            f"choose an interface, and it has no address to leave from instead."
        )


def ways_out(addresses: Sequence[str], interface: str | None) -> tuple[Outgoing, ...]:
    """The places that connections leave from, in turn; one at least.

    Before Linux 5.7 only root, or who has CAP_NET_RAW, may tell the kernel an interface: others leave from its address.
    """
    if (
        interface is not None
        and (refusal := _refusal(interface)) is not None
        and refusal.errno == errno.EPERM
    ):
        addresses, interface = addresses or _addresses_of(interface), None
    ipv4 = [each for each in addresses if _family_of(each) is socket.AF_INET]
    ipv6 = [each for each in addresses if _family_of(each) is socket.AF_INET6]
    count = max(len(ipv4), len(ipv6), 1)
    return tuple(
        Outgoing(
            ipv4[number % len(ipv4)] if ipv4 else None, ipv6[number % len(ipv6)] if ipv6 else None, interface
        )
        for number in range(count)
    )


_users: weakref.WeakKeyDictionary[object, Outgoing] = weakref.WeakKeyDictionary()
_turn = itertools.count()
_choosing = threading.Lock()


def choose(ways: Sequence[Outgoing], user: object) -> Outgoing:
    """The one that the fewest leave from at present; for as long as `user` lives, it is one of them."""
    if len(ways) == 1:
        return ways[0]
    with _choosing:
        in_use = list(_users.values())
        first = next(_turn)
        in_turn = [ways[(first + step) % len(ways)] for step in range(len(ways))]
        chosen = min(in_turn, key=in_use.count)
        _users[user] = chosen
    return chosen


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ipaddress.ip_address(address).version == 4 else socket.AF_INET6  # noqa: PLR2004


def _sentence(error: OSError, usual: str) -> str:
    return usual if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV) else str(error.strerror).lower()


def _refusal(interface: str) -> OSError | None:
    """Why the kernel does not let a socket of ours use an interface; None if it does."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        except OSError as error:
            return error
    return None


def _addresses_of(interface: str) -> list[str]:
    """An interface's own addresses: the first of IPv4, and the global ones of IPv6."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()))
            found.append(socket.inet_ntoa(answer[_ADDRESS_OFFSET : _ADDRESS_OFFSET + 4]))
        except OSError:
            pass  # it has none
    try:
        lines = _IPV6_INTERFACES.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        digits, _, _, scope, _, name = line.split()
        if name == interface and scope == _GLOBAL_SCOPE:
            found.append(str(ipaddress.IPv6Address(int(digits, 16))))
    return found
