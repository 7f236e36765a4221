"""Each way in which Celery's chord on Redis goes wrong, provoked in Redis itself: each ends in a whole, right file.

A gate at the origin holds the job in its middle meanwhile: four chunks are being fetched, the others wait in the queue.
Callbacks that come twice, or to a job that has ended, are in ``tests/cluster/test_twice.py``.
"""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import pytest

from support.cluster import Cluster, cluster
from support.files import MIB, wait_until_clean
from support.origin import Origin, origin
from support.redis_server import redis_server
from support.tools import wait_until
from tasks.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from orchestrator import Orchestrator
    from orchestrator.job import Job

CHUNKS_COUNT = 13
CONTENT = random.Random(17).randbytes((CHUNKS_COUNT - 1) * MIB + 7)
SLOTS = 4


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("chords")
    with redis_server(folder, appends=True) as server, cluster(server, folder) as one:
        one.start_worker(
            "--concurrency", str(SLOTS), "--processes", "1",
            ORCHESTRATOR_SWEEP_SECONDS="0.5", ORCHESTRATOR_STALL_SECONDS="2",
        )  # fmt: skip
        yield one


class Held:
    """A job that is held in its middle."""

    def __init__(self, one: Cluster, served: Origin, orchestrator: Orchestrator) -> None:
        self.cluster, self.served = one, served
        self.client: redis.Redis = one.redis.client()
        served.gate.clear()
        self.job: Job = orchestrator.submit(served.url, chunk_size_bytes=MIB)
        wait_until(lambda: len(self.waiting()) == CHUNKS_COUNT - SLOTS, what="the chunks in the queue")
        wait_until(lambda: served.open_count == SLOTS, what="the chunks that are being fetched")
        self.merges_before = self.merges_count()

    def waiting(self) -> list[tuple[str, str]]:
        """The lists and the texts of the messages that wait."""
        lists = self.cluster.lists("chunks")
        return [(key, text) for key in lists for text in self.client.lrange(key, 0, -1)]

    def keys(self, pattern: str) -> list[str]:
        found: list[str] = self.client.keys(f"manyhands:{pattern}")
        return found

    def merges_count(self) -> int:
        """How many messages of merges workers have had."""
        return len(re.findall(r"Task tasks\.merge_parts\[\S+ received", self.cluster.log()))

    def done_count(self) -> int:
        return int(self.client.scard(f"manyhands:job:{self.job.job_id}:done"))

    def let_some_through(self) -> None:
        """Let the chunks through that are being fetched, and hold those that follow them."""
        self.served.bytes_per_second = 4 * MIB
        self.served.gate.set()
        wait_until(lambda: self.done_count() >= SLOTS, what="the first chunks")
        self.served.gate.clear()
        wait_until(lambda: self.served.open_count == SLOTS, what="the chunks that follow")

    def finish(self) -> None:
        """Let the job go on, and make sure that it ends as if nothing had been."""
        self.served.gate.set()
        record = self.job.wait(120)
        assert record.state is JobState.COMPLETE
        assert (self.cluster.volume / "big.bin").read_bytes() == CONTENT
        wait_until_clean(self.cluster.volume)


@pytest.fixture
def held(one_worker: Cluster) -> Iterator[Held]:
    (one_worker.volume / "big.bin").unlink(missing_ok=True)
    client = one_worker.redis.client()
    # Or a message of the job before, that came late, would be counted after this.
    wait_until(
        lambda: not client.hlen("manyhands:unacked") and not any(map(client.llen, one_worker.lists("chunks")))
    )
    for key in client.keys("manyhands:celery-task*"):
        client.delete(key)
    with origin(CONTENT) as served, one_worker.orchestrator() as orchestrator:
        job = Held(one_worker, served, orchestrator)
        yield job
        # One that hangs must not be in the way of the tests that follow.
        job.job.cancel()


def test_a_header_task_that_runs_twice(held: Held):
    for key, text in held.waiting():
        held.client.lpush(key, text)
    held.finish()
    # The chord's, and perhaps the one of who saw before that all parts are there.
    assert held.merges_count() - held.merges_before in (1, 2)


def test_a_callback_that_comes_early(held: Held):
    """A chord that takes three chunks for all."""
    (size,) = held.keys("celery-taskset-meta-*.s")
    held.client.set(size, 3)
    held.finish()
    assert held.merges_count() > held.merges_before + 1


def test_a_submitter_that_died_midway(held: Held):
    """The size is what it would have written last, and half of the messages were not sent."""
    for key, text in held.waiting()[::2]:
        assert held.client.lrem(key, 1, text)
    assert held.client.delete(*held.keys("celery-taskset-meta-*.s"))
    held.finish()


@pytest.mark.parametrize("breaks", ["name", "body"])
def test_a_header_task_that_no_worker_knows(held: Held, breaks: str):
    """Celery drops such a message, and its chord is not told."""
    key, text = held.waiting()[1]
    message = json.loads(text)
    if breaks == "name":
        message["headers"]["task"] = "tasks.of_a_later_version"
    else:
        message["body"] = "bm9uc2Vuc2U="
    assert held.client.lrem(key, 1, text)
    held.client.rpush(key, json.dumps(message))
    held.finish()


@pytest.mark.parametrize("is_emptied", [False, True], ids=["kept", "emptied"])
def test_a_redis_that_is_away_when_chunks_are_done(held: Held, is_emptied: bool):
    server = held.cluster.redis
    server.kill()
    held.served.gate.set()
    folder = held.cluster.volume / ".orchestrator" / held.job.job_id
    wait_until(
        lambda: list(folder.rglob("*.receipt*")), what="receipts of chunks that nobody could be told of"
    )
    server.start()
    if is_emptied:
        held.client.flushall()
    held.finish()


@pytest.mark.parametrize("is_begun", [False, True], ids=["before", "midway"])
def test_a_count_that_expired(held: Held, is_begun: bool):
    if is_begun:
        held.let_some_through()
    assert held.client.delete(*held.keys("celery-taskset-meta-*"))
    held.finish()


@pytest.mark.parametrize(
    "patterns",
    [
        ["celery-task-meta-*"],  # results of chunks
        ["celery-taskset-meta-*.j"],  # those that were counted
        ["celery-taskset-meta-*.d"],  # who was counted
        ["chunks*"],  # messages that wait
        ["unacked"],  # messages that workers have
        ["unacked", "unacked_index", "chunks*"],
        ["job:*:leases", "origin:*"],
        ["job:*:bytes", "job:*:done", "job:*:speeds", "job:*:stops", "job:*:shares"],
        ["job:*"],  # all that is known of the job
        ["active", "jobs", "stalls", "workers", "names", "turns*", "_kombu.*"],
    ],
    ids=" ".join,
)
def test_keys_that_are_evicted(held: Held, patterns: list[str]):
    held.let_some_through()
    keys = [key for pattern in patterns for key in held.keys(pattern)]
    assert keys
    held.client.delete(*keys)
    held.finish()


def test_a_chunk_whose_result_is_stored_and_not_counted(held: Held):
    """Its worker died between the two."""
    held.let_some_through()
    (counted,) = held.keys("celery-taskset-meta-*.j")
    (counted_ids,) = held.keys("celery-taskset-meta-*.d")
    wait_until(lambda: held.client.zcard(counted) >= SLOTS, what="the count of the first chunks")
    held.client.zpopmin(counted)
    held.client.srem(counted_ids, next(iter(held.client.smembers(counted_ids))))
    held.finish()
