"""A new submit goes on with what a job of the same cluster has left."""

from __future__ import annotations

import random

import pytest

from orchestrator import JobEndedBadly
from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import end, wait_until
from tasks.jobs import JobState

CONTENT = random.Random(8).randbytes(24 * MIB)


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def one_worker(empty_cluster: Cluster):
    empty_cluster.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-a")
    return empty_cluster


def in_the_middle(orchestrator, served):
    served.bytes_per_second = 3 * MIB
    job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB)
    wait_until(lambda: job.status().chunks_done >= 4, what="four chunks")
    return job


def assert_gone_on_with(one: Cluster, served, record):
    assert (one.volume / "big.bin").read_bytes() == CONTENT
    assert record.resumed_bytes >= 8 * MIB
    assert record.chunks_done == record.chunks_count == 12
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    # The probe's answer comes again, and each connection may have sent what nobody took.
    assert served.served_bytes < len(CONTENT) - record.resumed_bytes + 5 * MIB
    wait_until_clean(one.volume)


def test_a_failed_job_is_gone_on_with_by_another_submit(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        served.statuses = [404]
        with pytest.raises(JobEndedBadly):
            job.wait(60)
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        served.bytes_per_second = None
        served.served_bytes = 0
        record = orchestrator.submit(served.url).wait(60)
        assert_gone_on_with(one_worker, served, record)
        assert job.status().state is JobState.FAILED
        # It has nothing left, and its name is taken.
        assert job.resume()
        with pytest.raises(JobEndedBadly, match="exists already"):
            job.wait(60)
    wait_until_clean(one_worker.volume)


def test_jobs_that_redis_has_forgotten_are_gone_on_with(one_worker, served):
    """Not by a worker that lived through it: that would bring the job itself back."""
    with one_worker.orchestrator() as orchestrator:
        in_the_middle(orchestrator, served)
        end(one_worker.workers[0])
        one_worker.redis.client().flushall()
        one_worker.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-a")
        served.bytes_per_second = None
        served.served_bytes = 0
        record = orchestrator.submit(served.url).wait(60)
        assert_gone_on_with(one_worker, served, record)


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_job_that_is_active_or_paused_keeps_its_destination(one_worker, served, is_paused):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        if is_paused:
            assert job.pause()
        with pytest.raises(JobEndedBadly, match=f"is being downloaded by job {job.job_id}"):
            orchestrator.submit(served.url).wait(60)
        served.bytes_per_second = None
        if is_paused:
            assert job.resume()
        job.wait(60)
    assert (one_worker.volume / "big.bin").read_bytes() == CONTENT
    wait_until_clean(one_worker.volume)


def test_a_cancelled_job_leaves_nothing_to_go_on_with(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.cancel()
        wait_until_clean(one_worker.volume)
        served.bytes_per_second = None
        assert orchestrator.submit(served.url).wait(60).resumed_bytes == 0
    assert (one_worker.volume / "big.bin").read_bytes() == CONTENT
