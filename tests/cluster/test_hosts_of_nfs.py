"""Whole jobs on hosts where a file ends that another one has removed, and what is known of a name may be old."""

from __future__ import annotations

import hashlib
import random

import pytest

from support.cluster import Cluster
from support.files import MIB, sha256_of, wait_until_clean
from support.origin import Origin, origin
from support.stale_volume import hosts_of
from support.stopping import stopped
from support.tools import wait_until
from tasks.transfer.manifest import LayoutName

CONTENT = random.Random(17).randbytes(24 * MIB + 5)
CHUNK_BYTES = 8 * MIB
#: The least that NFS goes by what it knows of a file.
KNOWN_SECONDS = 3


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def hosts(empty_cluster: Cluster, tmp_path):
    with hosts_of(empty_cluster.volume, tmp_path, known_seconds=KNOWN_SECONDS) as views:
        try:
            yield views
        finally:
            empty_cluster.end()


def submit_both(orchestrator, served):
    """A job of each layout."""
    return [
        orchestrator.submit(served.url, f"{layout}.bin", chunk_size_bytes=CHUNK_BYTES, layout=layout)
        for layout in (LayoutName.PARTS, LayoutName.SHARED)
    ]


def assert_complete(one: Cluster, jobs, content=CONTENT):
    records = [job.wait(60) for job in jobs]
    assert all(record.chunks_done == record.chunks_count > 1 for record in records)
    assert all(sum(share.bytes for share in record.workers.values()) == len(content) for record in records)
    wait_until_clean(one.volume)
    digest = hashlib.sha256(content).hexdigest()
    digests = {path.name: sha256_of(path) for path in one.volume.iterdir()}
    assert digests == {"parts.bin": digest, "shared.bin": digest}
    for number in range(len(one.workers)):
        assert "Traceback" not in one.log(number), one.log(number)


def test_what_a_slow_connection_has_left_is_fetched_by_other_hosts(empty_cluster: Cluster, hosts, served):
    for host in hosts:
        empty_cluster.start_worker("--concurrency", "3", inside=host.inside)
    served.slow_starts = {CHUNK_BYTES: MIB // 8}
    with empty_cluster.orchestrator() as orchestrator:
        assert_complete(empty_cluster, submit_both(orchestrator, served))


def test_a_frozen_host_wakes_up_where_another_has_taken_over(empty_cluster: Cluster, hosts, served):
    one, other = hosts
    empty_cluster.start_worker("--concurrency", "2", "--queues", "control,merge", inside=other.inside)
    frozen = empty_cluster.start_worker("--concurrency", "2", "--queues", "chunks", inside=one.inside)
    served.content = CONTENT[: CHUNK_BYTES + 5]
    served.bytes_per_second = 2 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        jobs = submit_both(orchestrator, served)
        wait_until(lambda: all(job.status().bytes_done > 2 * MIB for job in jobs), what="both at work")
        with stopped(frozen):
            # From here on, chunks of five bytes come, and of the others what is on its way.
            served.gate.clear()
            asked_count = times_asked_for_first(served)
            empty_cluster.start_worker("--concurrency", "2", "--queues", "chunks", inside=other.inside)
            wait_until(lambda: times_asked_for_first(served) >= asked_count + 2, what="another's taking over")
        wait_until(lambda: empty_cluster.log(1).count("lease lost") >= 2, what="its noticing")
        served.gate.set()
        assert_complete(empty_cluster, jobs, served.content)


def times_asked_for_first(served: Origin) -> int:
    """How often the end of a first chunk was asked for."""
    return sum(asked.endswith(f"-{CHUNK_BYTES - 1}") for asked in served.requests)
