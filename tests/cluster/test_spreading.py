"""Connections of an origin on real workers that have hosts of their own, by name."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import wait_until

CONTENT = random.Random(12).randbytes(48 * MIB + 5)


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        one.bytes_per_second = MIB // 8  # a chunk of 4 MiB takes half a minute
        yield one


def start_hosts(cluster: Cluster, *names: str):
    for name in names:
        cluster.start_worker(
            "--queues", "chunks", "--concurrency", "8", "--processes", "1", ORCHESTRATOR_HOST_NAME=name
        )  # fmt: skip


def connections(cluster: Cluster) -> dict[str, int]:
    """How many connections each host has."""
    client = cluster.redis.client()
    leases = [
        each for key in client.scan_iter("manyhands:origin:*:leases") for each in client.zrange(key, 0, -1)
    ]
    return dict(Counter(lease.partition("/")[0] for lease in leases))


def test_hosts_share_an_origins_connections_also_those_that_are_added(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--queues", "control,merge")
    start_hosts(empty_cluster, "a", "b")
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB, connections=6)
        wait_until(lambda: connections(empty_cluster) == {"a": 3, "b": 3}, what="equally many on two hosts")
        start_hosts(empty_cluster, "c")
        wait_until(
            lambda: connections(empty_cluster) == {"a": 2, "b": 2, "c": 2}, what="equally many on three hosts"
        )
        served.bytes_per_second = MIB
        record = job.wait(120)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert set(record.workers) >= {"a", "b", "c"}
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    assert "to=host c" in empty_cluster.log(1) + empty_cluster.log(2)
    # Who yields has saved what came; some of what was cut was on its way.
    assert served.served_bytes < len(CONTENT) + 8 * MIB
    wait_until_clean(empty_cluster.volume)
