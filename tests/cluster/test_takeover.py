"""The last part of a job: who is done takes over from who is slow."""

from __future__ import annotations

import random

import psutil
import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import wait_until
from tasks.transfer.manifest import LayoutName

CONTENT = random.Random(9).randbytes(24 * MIB + 5)


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_what_a_slow_connection_has_left_is_fetched_by_others(empty_cluster: Cluster, served, layout):
    empty_cluster.start_worker("--concurrency", "4")
    served.slow_starts = {8 * MIB: MIB // 8}  # would take over a minute for its chunk of 8 MiB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB, layout=layout)
        record = job.wait(50)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.chunks_done == record.chunks_count == 4
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    # What the slow one had sent was not fetched again, but for what was on its way.
    assert served.served_bytes < len(CONTENT) + 4 * MIB
    wait_until_clean(empty_cluster.volume)


def test_a_chunk_whose_worker_died_is_taken_over_and_not_waited_for(empty_cluster: Cluster, served):
    """Its message comes back when the visibility timeout has passed: in 15 minutes."""
    first = empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
    served.bytes_per_second = 3 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        # One connection at a time gets the first chunk; the other worker begins when that one is dead.
        empty_cluster.start_worker("--concurrency", "1", "--queues", "control,merge")
        job = orchestrator.submit(served.url, chunk_size_bytes=12 * MIB)
        wait_until(lambda: job.status().connections_count == 1 and job.status().bytes_done > 2 * MIB)
        for child in psutil.Process(first.pid).children(recursive=True):
            child.kill()
        first.kill()
        first.wait()
        empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
        record = job.wait(100)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.chunks_done == 3
