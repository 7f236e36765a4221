"""Workers that stand still for longer than their leases last, and go on when others have done their work."""

from __future__ import annotations

import hashlib
import random
import re

import pytest

from support.cluster import Cluster
from support.files import MIB, leftovers, wait_until_clean
from support.merges import held_merge
from support.origin import origin
from support.stopping import stopped
from support.tools import end, wait_until
from tasks.app import PLAN_TASK
from tasks.jobs import JobState
from tasks.transfer.manifest import LayoutName

CONTENT = random.Random(11).randbytes(24 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LAYOUTS = [LayoutName.PARTS, LayoutName.SHARED]


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def traces(path):
    """What changes when anybody writes to a file, replaces it, or gives it another name."""
    seen = path.stat()
    return seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_nlink, path.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frozen_chunk_process_writes_nothing_more(empty_cluster: Cluster, served, layout):
    empty_cluster.start_worker("--concurrency", "1", "--queues", "control,merge")
    frozen = empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
    served.bytes_per_second = 3 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=12 * MIB, layout=layout)
        wait_until(lambda: job.status().connections_count == 1 and job.status().bytes_done > 2 * MIB)
        with stopped(frozen):
            empty_cluster.start_worker("--concurrency", "1", "--queues", "chunks")
            served.bytes_per_second = None
            record = job.wait(90)
            wait_until_clean(empty_cluster.volume)
            before = traces(empty_cluster.volume / "big.bin")
        wait_until(lambda: "lease lost" in empty_cluster.log(1), what="its noticing")
        # It takes messages again; behind this one, its own is done.
        orchestrator.submit(served.url, "second.bin").wait(60)
        assert job.status().bytes_done == len(CONTENT)
    assert before[-1] == CONTENT
    assert traces(empty_cluster.volume / "big.bin") == before
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    wait_until_clean(empty_cluster.volume)
    assert "Traceback" not in empty_cluster.log(1)


def to_be_merged(one: Cluster, orchestrator, served, layout):
    """A job whose parts are all there, whose planner is gone, and which nobody merges yet."""
    planner = one.start_worker("--concurrency", "2", "--queues", "control,chunks")
    job = orchestrator.submit(served.url, chunk_size_bytes=6 * MIB, layout=layout, sha256=SHA256)
    wait_until(lambda: job.status().chunks_done == 5, what="all chunks")
    wait_until(lambda: one.waiting_count("merge") >= 1, what="the merge's message")
    # A chunk's own message may come after the merge. With the planner it would go back to the queue, where nobody is.
    wait_until(lambda: one.redis.client().hlen("manyhands:unacked") == 0, what="the end of all messages")
    end(planner)
    return job


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_merge_that_froze_publishes_nothing_more(empty_cluster: Cluster, served, layout):
    with empty_cluster.orchestrator() as orchestrator:
        job = to_be_merged(empty_cluster, orchestrator, served, layout)
        with held_merge(empty_cluster.volume, job.job_id):
            frozen = empty_cluster.start_worker("--queues", "merge")
            wait_until(lambda: job.status().state is JobState.MERGING, what="a merge")
            with stopped(frozen):
                # Somebody finds that nothing moves, and sends again what is missing: the merge.
                celery = orchestrator._celery()
                celery.send_task(PLAN_TASK, args=(job.job_id,), kwargs={"resends": True}, ignore_result=True)
                empty_cluster.start_worker("--queues", "control,merge")
                job.wait(60)
                wait_until_clean(empty_cluster.volume)
                before = traces(empty_cluster.volume / "big.bin")
            wait_until(lambda: "lease lost" in empty_cluster.log(1), what="its noticing")
            wait_until(lambda: empty_cluster.redis.client().hlen("manyhands:unacked") == 0)
    assert before[-1] == CONTENT
    assert traces(empty_cluster.volume / "big.bin") == before
    assert job.status().state is JobState.COMPLETE
    assert leftovers(empty_cluster.volume) == []


@pytest.mark.parametrize("seconds", [3, 11])
def test_a_plan_that_froze_does_not_publish_a_cancelled_job(empty_cluster: Cluster, seconds):
    frozen = empty_cluster.start_worker("--queues", "control")
    with origin(CONTENT[:200_000]) as served, empty_cluster.orchestrator() as orchestrator:
        served.gate.clear()
        job = orchestrator.submit(served.url)
        wait_until(lambda: job.status().bytes_done > 0 and served.open_count == 1, what="its first bytes")
        with stopped(frozen, seconds=seconds):
            served.gate.set()
            wait_until(lambda: served.served_bytes == 200_000, what="all bytes on their way")
            assert job.cancel()
            empty_cluster.start_worker("--queues", "merge")
            wait_until_clean(empty_cluster.volume)
        wait_until(lambda: empty_cluster.redis.client().hlen("manyhands:unacked") == 0)
        orchestrator.submit(served.url, "second.bin").wait(60)
        assert job.status().state is JobState.CANCELLED
    assert [path.name for path in empty_cluster.volume.iterdir() if path.is_file()] == ["second.bin"]
    wait_until_clean(empty_cluster.volume)
    assert not re.findall(r"Traceback|bug met", empty_cluster.log(0))
