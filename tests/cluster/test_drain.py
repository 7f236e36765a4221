"""Workers that go away in order, and jobs that are cancelled or paused: how soon, and what of it is fetched again."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time

import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.merges import held_merge
from support.origin import origin
from support.tools import end, wait_until
from tasks.jobs import JobState

pytestmark = pytest.mark.alone

CONTENT = random.Random(12).randbytes(32 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: A worker ends within 2 s of SIGTERM; on a machine that others use, too, twice that.
MOST_SECONDS = 4.0
ROLLS = ("--concurrency", "2", "--processes", "1")


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def seconds_to_end(worker) -> float:
    began = time.monotonic()
    assert end(worker) == 0
    seconds = time.monotonic() - began
    assert seconds < MOST_SECONDS
    return seconds


def test_a_rolling_restart_fetches_nothing_again(empty_cluster: Cluster, served):
    workers = [empty_cluster.start_worker(*ROLLS, ORCHESTRATOR_HOST_NAME=f"host-{n}") for n in range(3)]
    served.bytes_per_second = MIB / 4
    took = []
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB, sha256=SHA256)
        for number, worker in enumerate(workers):
            brought = job.status().bytes_done
            wait_until(lambda at_least=brought + MIB: job.status().bytes_done >= at_least, what="a MiB more")
            took.append(seconds_to_end(worker))
            empty_cluster.start_worker(*ROLLS, ORCHESTRATOR_HOST_NAME=f"host-{number + 3}")
        # Not quicker now: what was slow would be taken over, and be there before its first reader hears of it.
        record = job.wait(90)
    print(
        f"ended after {', '.join(f'{seconds:.2f}' for seconds in took)} s; "
        f"sent and read by nobody {served.served_bytes - len(CONTENT)} bytes"
    )
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert record.sha256 == SHA256
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    wait_until_clean(empty_cluster.volume)


def test_who_ends_in_order_is_not_taken_for_dead(empty_cluster: Cluster):
    worker = empty_cluster.start_worker("--queues", "merge")
    client = empty_cluster.redis.client()
    wait_until(lambda: client.zcard("manyhands:workers") == 1, what="its word that it lives")
    assert end(worker) == 0
    assert client.zcard("manyhands:workers") == 0


def to_be_merged(one: Cluster, orchestrator, served, **options):
    """A job whose parts are all there, whose planner is gone, and which nobody merges yet."""
    planner = one.start_worker("--concurrency", "2", "--queues", "control,chunks")
    job = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB, sha256=SHA256, **options)
    wait_until(lambda: job.status().chunks_done == 5, what="all chunks")
    wait_until(lambda: one.waiting_count("merge") == 1, what="the merge's message")
    end(planner)
    return job


def test_a_merge_is_given_to_another_worker(empty_cluster: Cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        job = to_be_merged(empty_cluster, orchestrator, served, layout="parts")
        with held_merge(empty_cluster.volume, job.job_id):
            worker = empty_cluster.start_worker("--queues", "merge")
            wait_until(lambda: job.status().state is JobState.MERGING, what="a merge")
            print(f"ended after {seconds_to_end(worker):.2f} s")
            assert job.status().state is JobState.MERGING
            assert empty_cluster.waiting_count("merge") == 1
        assert "reject requeue=True: drain" in empty_cluster.log(1)
        empty_cluster.start_worker("--queues", "merge")
        job.wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    wait_until_clean(empty_cluster.volume)


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_a_merge_ends_with_its_job(empty_cluster: Cluster, served, verb):
    with empty_cluster.orchestrator() as orchestrator:
        job = to_be_merged(empty_cluster, orchestrator, served, layout="parts")
        with held_merge(empty_cluster.volume, job.job_id):
            empty_cluster.start_worker("--queues", "control,merge")
            wait_until(lambda: job.status().state is JobState.MERGING, what="a merge")
            began = time.monotonic()
            assert getattr(job, verb)()
            wait_until(lambda: empty_cluster.redis.client().hlen("manyhands:unacked") == 0)
            print(f"ended after {time.monotonic() - began:.2f} s")
        assert list(empty_cluster.volume.iterdir()) == (
            [] if verb == "cancel" else [empty_cluster.volume / ".orchestrator"]
        )
        if verb == "pause":
            assert job.resume()
            job.wait(60)
            assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    wait_until_clean(empty_cluster.volume)


def test_a_cancelled_jobs_connections_are_closed_soon(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--concurrency", "4")
    served.gate.clear()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB)
        wait_until(lambda: job.status().connections_count == 4, what="four connections")
        wait_until(lambda: job.status().bytes_done > 0, what="their first bytes")
        began = time.monotonic()
        assert job.cancel()
        wait_until(lambda: job.status().connections_count == 0, what="all connections closed")
        seconds = time.monotonic() - began
        wait_until_clean(empty_cluster.volume)
    print(f"closed after {seconds:.2f} s")
    assert seconds < 2.0


def test_a_worker_ends_soon_though_redis_hangs(empty_cluster: Cluster, served):
    worker = empty_cluster.start_worker("--concurrency", "4")
    served.bytes_per_second = MIB
    redis_pid = empty_cluster.redis.process.pid
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=8 * MIB)
        wait_until(lambda: job.status().bytes_done > MIB, what="some bytes")
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            print(f"ended after {seconds_to_end(worker):.2f} s")
        finally:
            os.kill(redis_pid, signal.SIGCONT)
        # Given back or not, what came is on the volume.
        served.served_bytes, served.bytes_per_second = 0, None
        empty_cluster.start_worker("--concurrency", "4")
        job.pause()
        assert job.resume()
        job.wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    assert served.served_bytes < len(CONTENT)
    wait_until_clean(empty_cluster.volume)
