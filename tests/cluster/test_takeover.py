"""The last part of a job: who is done takes over from who is slow."""

from __future__ import annotations

import random
import re

import psutil
import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.moving_origin import answer, moving_origin, version
from support.origin import origin
from support.tools import wait_until
from tasks.jobs import JobState
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


def test_a_host_whose_last_chunk_had_five_bytes_is_not_taken_for_slow(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--queues", "control,merge")
    for name in ("a", "b"):
        args = ("--queues", "chunks", "--concurrency", "1", "--processes", "1")
        empty_cluster.start_worker(*args, ORCHESTRATOR_HOST_NAME=name)
    served.slow_starts = {8 * MIB: MIB // 8}  # would take over a minute for its chunk of 8 MiB
    with empty_cluster.orchestrator() as orchestrator:
        record = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB).wait(50)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert set(record.workers) >= {"a", "b"}


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


def test_a_part_that_the_origin_is_too_busy_for_is_tried_by_its_own_message_only(empty_cluster: Cluster):
    """Those that are done would each try it at once, and come back with a failure that is not theirs."""
    empty_cluster.start_worker("--concurrency", "4")
    with moving_origin(version(6 * MIB, 2, etag='"v1"')) as one:
        refused = []

        def refuses_the_last_part(seen):
            if seen.first < 4 * MIB or len(refused) == 4:
                return None
            refused.append(seen)
            return lambda handler: answer(handler, 500)

        one.on_request = refuses_the_last_part
        with empty_cluster.orchestrator() as orchestrator:
            record = orchestrator.submit(one.url, chunk_size_bytes=2 * MIB).wait(50)
        assert (empty_cluster.volume / "file").read_bytes() == one.version.content
    assert record.retries_count <= len(refused) == 4  # one that was refused among others is not a failure
    assert set(re.findall(r"chunk to be retried .* number=(\d+)", empty_cluster.log())) == {"2"}


@pytest.mark.parametrize("stop", ["0", "1", str(2**60), "-3", "nonsense"])
def test_where_redis_says_that_a_span_ends_is_not_believed_blindly(empty_cluster: Cluster, served, stop):
    empty_cluster.start_worker("--concurrency", "1", "--queues", "control,merge")
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB)
        wait_until(lambda: job.status().state is JobState.FETCHING)
        stops = {str(number): stop for number in range(4)}
        empty_cluster.redis.client().hset(f"manyhands:job:{job.job_id}:stops", mapping=stops)
        empty_cluster.start_worker("--concurrency", "2", "--queues", "chunks")
        record = job.wait(50)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.chunks_done == 4
    wait_until_clean(empty_cluster.volume)


def test_who_helps_ends_a_job_whose_time_is_over(empty_cluster: Cluster, served):
    """The message of the part that is missing is with a worker that died, and nobody waits for the job."""
    empty_cluster.start_worker("--concurrency", "1", "--queues", "control,merge")
    first = empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
    served.bytes_per_second = 3 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=12 * MIB, timeout_seconds=9)
        wait_until(lambda: job.status().connections_count == 1 and job.status().bytes_done > 2 * MIB)
        for child in psutil.Process(first.pid).children(recursive=True):
            child.kill()
        first.kill()
        first.wait()
        served.bytes_per_second = None
        served.stalls_before = 12 * MIB  # or what is left of that part would be there in time
        empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
        wait_until(lambda: job.status().state is JobState.FAILED, what="the end of the job")
        assert job.status().error.code == "JobTimedOut"
        assert job.status().chunks_done == 2
    assert not (empty_cluster.volume / "big.bin").exists()


def test_a_connection_that_stands_still_is_not_waited_for(empty_cluster: Cluster, served):
    empty_cluster.start_worker(
        "--concurrency", "4",
        ORCHESTRATOR_LOW_SPEED_SECONDS="3600", ORCHESTRATOR_READ_TIMEOUT_SECONDS="3600",
    )  # fmt: skip
    served.stalled_starts = [8 * MIB, 24 * MIB]  # a large part, and one of five bytes
    with empty_cluster.orchestrator() as orchestrator:
        record = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB).wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.chunks_done == 4
    wait_until(lambda: served.open_count == 0, what="the end of the connections that stood still")
    wait_until_clean(empty_cluster.volume)
