"""The beginning of a file: the plan keeps the probe's answer, and the first chunk's task goes on there."""

from __future__ import annotations

import random
import re
import shutil

import psutil
import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import wait_until
from tasks.jobs import JobState
from tasks.transfer.manifest import LayoutName

CHUNK_BYTES = 4 * MIB
CONTENT = random.Random(12).randbytes(3 * CHUNK_BYTES)
PROBE = f"bytes=0-{MIB - 1}"


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def submit_held(one: Cluster, served, orchestrator):
    """A job whose chunks are sent and whose plan has the first block of the beginning, and waits for more."""
    one.start_worker("--queues", "control,merge")
    served.gate.clear()
    job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
    wait_until(lambda: one.waiting_count("chunks") == 3, what="the messages of all chunks")
    return job


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_no_other_chunk_waits_for_the_beginning_and_no_byte_of_it_comes_twice(
    empty_cluster: Cluster, served, layout
):
    empty_cluster.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-a")
    served.slow_starts = {0: 2 * MIB}
    with empty_cluster.orchestrator() as orchestrator:
        record = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES, layout=layout).wait(50)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    first, *others, last = served.requests
    assert first == PROBE
    assert sorted(others) == [
        f"bytes={CHUNK_BYTES}-{2 * CHUNK_BYTES - 1}",
        f"bytes={2 * CHUNK_BYTES}-{len(CONTENT) - 1}",
    ]
    assert last == f"bytes={MIB}-{CHUNK_BYTES - 1}"
    assert served.served_bytes == len(CONTENT)
    assert record.workers["host-a"].bytes == len(CONTENT)
    # The last one is counted for the merge before its worker's log has it.
    ended = re.compile(r"tasks\.fetch_chunk\[\S+\] succeeded")
    wait_until(lambda: len(ended.findall(empty_cluster.log())) == 3, what="the log's last word")
    # It waited in its slot: sent back, it would come behind all the others.
    assert empty_cluster.log().count("Task tasks.fetch_chunk[") == 2 * 3, (
        "each was received once, and ended once"
    )
    wait_until_clean(empty_cluster.volume)


def test_a_plan_that_is_killed_at_the_beginning_costs_no_more_than_that(empty_cluster: Cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        job = submit_held(empty_cluster, served, orchestrator)
        (planner,) = empty_cluster.workers
        for child in psutil.Process(planner.pid).children(recursive=True):
            child.kill()
        planner.kill()
        planner.wait()
        key = f"manyhands:job:{job.job_id}"
        # Killed as the one who is at the first chunk.
        (holder,) = empty_cluster.redis.client().zrange(f"{key}:leases", 0, -1)
        assert empty_cluster.redis.client().hget(f"{key}:speeds", "0").endswith(f" {holder}")
        served.gate.set()
        empty_cluster.start_worker("--concurrency", "4")
        record = job.wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.chunks_done == 3
    assert sum(share.bytes for share in record.workers.values()) == record.bytes_done == len(CONTENT)
    assert len(served.requests) == 1 + 3
    wait_until_clean(empty_cluster.volume)


def test_a_job_that_is_cancelled_while_its_beginning_comes_leaves_nothing(empty_cluster: Cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        job = submit_held(empty_cluster, served, orchestrator)
        job.cancel()
        served.gate.set()
        wait_until_clean(empty_cluster.volume)
        empty_cluster.start_worker("--concurrency", "4", "--queues", "chunks")
        wait_until(lambda: not empty_cluster.waiting_count("chunks"), what="an empty queue")
        assert job.status().state is JobState.CANCELLED
    wait_until(lambda: served.open_count == 0)
    assert served.requests == [PROBE]
    wait_until_clean(empty_cluster.volume)


def test_a_beginning_that_cannot_be_kept_fails_no_job(empty_cluster: Cluster, served):
    """The folder of a plan that became void goes away while the plan is still at it."""
    with empty_cluster.orchestrator() as orchestrator:
        job = submit_held(empty_cluster, served, orchestrator)
        (folder,) = (empty_cluster.volume / ".orchestrator" / job.job_id).glob("plan-*")
        shutil.move(folder, empty_cluster.logs)
        served.gate.set()
        wait_until(lambda: "beginning cut short" in empty_cluster.log(), what="the end of the beginning")
        wait_until(lambda: job.status().connections_count == 0, what="the end of the lease")
        assert job.status().state is JobState.FETCHING
        shutil.move(empty_cluster.logs / folder.name, folder)
        empty_cluster.start_worker("--concurrency", "4", "--queues", "chunks")
        record = job.wait(50)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    wait_until_clean(empty_cluster.volume)
