"""Where connections leave from, as the other end sees it."""

from __future__ import annotations

import socket

import pytest

from support.origin import origin
from support.proxies import microsocks, squid
from support.tools import need, wait_until
from tasks.transfer.attempt import Attempt
from tasks.transfer.errors import BadOption, OriginUnreachable
from tasks.transfer.http_source import (
    HttpLimits,
    Identity,
    Outgoing,
    Source,
    check_ways_out,
    outgoing,
    ways_out,
)
from tasks.transfer.manifest import SourceRequest, Validator
from tasks.transfer.ranges import ByteRange

CONTENT = bytes(range(256)) * 40
IDENTITY = Identity(len(CONTENT), Validator(etag='"v1"'))


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def source(url, ways, **request):
    return Source(SourceRequest(url=url, **request), HttpLimits(2, 2, ways_out=ways))


def fetch(one, number):
    part = ByteRange(number * 1000, number * 1000 + 1000)
    with one.open(part, IDENTITY, Attempt(f"a{number}")) as body:
        data = b"".join(bytes(block) for block in body.blocks())
    assert data == CONTENT[part.start : part.stop]


def test_connections_leave_from_the_addresses_in_turn_and_kept_ones_are_of_their_own(served):
    ways = ways_out(["127.0.0.2", "127.0.0.3"], None)
    for number in range(6):
        fetch(source(served.url, ways), number)
    assert sorted(served.peers) == ["127.0.0.2"] * 3 + ["127.0.0.3"] * 3
    assert served.connections_count == 2
    # And those of another worker's settings are others.
    fetch(source(served.url, ways_out(["127.0.0.4"], None)), 6)
    fetch(source(served.url, (Outgoing(),)), 7)
    assert served.peers[-2:] == ["127.0.0.4", "127.0.0.1"]
    assert served.connections_count == 4


def test_of_several_the_one_that_the_fewest_use_is_next(served):
    ways = ways_out(["127.0.0.2", "127.0.0.3"], None)
    kept = [source(served.url, ways) for _ in range(4)]
    del kept[0], kept[1]  # what they were has ended
    kept += [source(served.url, ways) for _ in range(4)]
    for number, one in enumerate(kept):
        fetch(one, number)
    assert sorted(served.peers) == ["127.0.0.2"] * 3 + ["127.0.0.3"] * 3


def test_connections_to_proxies_leave_from_there_too(served, tmp_path):
    ways = ways_out(["127.0.0.5"], None)
    with microsocks(tmp_path) as socks:
        for scheme in ("socks5", "socks5h"):
            fetch(source(served.url, ways, proxy=f"{scheme}://{socks.address}"), 0)
        wait_until(lambda: any("127.0.0.5" in line for line in socks.lines()), what="the line of microsocks")
    with squid() as http:
        fetch(source(served.url, ways, proxy=f"http://{http.address}"), 1)
        # It writes its log a little later.
        wait_until(lambda: any(" GET " in line for line in http.lines()), what="the line of squid")
        assert [line.split()[-1] for line in http.lines() if " GET " in line] == ["127.0.0.5"]


def test_an_origin_of_the_other_family_is_told(served):
    with pytest.raises(
        OriginUnreachable, match="it has no IPv6 address, and connections of this worker leave from ::1"
    ):
        fetch(source(served.url, (Outgoing(ipv6="::1"),)), 0)
    # With one of each, the one that fits is used.
    fetch(source(served.url, ways_out(["::1", "127.0.0.6"], None)), 0)
    assert served.peers == ["127.0.0.6"]


def test_an_interface_is_left_through(served):
    fetch(source(served.url, ways_out([], "lo")), 0)
    fetch(source(served.url, ways_out(["127.0.0.7"], "lo")), 1)
    assert served.peers == ["127.0.0.1", "127.0.0.7"]
    elsewhere = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not elsewhere:
        need("another interface than lo")
    # Nothing on loopback can be reached through another one.
    with pytest.raises(OriginUnreachable):
        fetch(source(served.url, ways_out([], elsewhere[0])), 2)
    assert len(served.peers) == 2


def test_an_interface_has_addresses_for_kernels_that_let_only_root_choose_one():
    assert outgoing._addresses_of("lo") == ["127.0.0.1"]
    assert outgoing._addresses_of("nowhere0") == []


@pytest.mark.parametrize(
    ("addresses", "interface", "sentence"),
    [
        (["192.0.2.7"], None, "192.0.2.7 .*no address of this host"),
        (["127.0.0.1", "2001:db8::7"], None, "2001:db8::7 .*no address of this host"),
        ([], "nowhere0", "nowhere0 .*no interface of that name"),
    ],
)
def test_what_is_not_this_hosts_is_refused_at_the_start(addresses, interface, sentence):
    with pytest.raises(BadOption, match=sentence):
        check_ways_out(addresses, interface)
    check_ways_out(["127.0.0.1"], "lo")
