"""Whose turn it is: small jobs behind large ones, priorities, several users at once, and how much waits in Redis."""

from __future__ import annotations

import random
import time

import pytest

from support.cluster import Cluster
from support.files import MIB, Endless, wait_until_clean
from support.origin import origin
from support.tools import wait_until
from tasks.jobs import JobState

pytestmark = pytest.mark.alone

RATE = MIB // 4
SMALL = random.Random(5).randbytes(MIB)  # four seconds at that rate


@pytest.fixture
def busy():
    """An origin with a file whose thousand chunks take four seconds each, and with small files."""
    with origin(Endless(1_000 * MIB)) as one:
        one.bytes_per_second = RATE
        one.contents = {f"/small{number}.bin": SMALL for number in range(9)}
        yield one


@pytest.fixture
def other():
    with origin(SMALL) as one:
        one.bytes_per_second = RATE
        one.contents = {f"/small{number}.bin": SMALL for number in range(9)}
        yield one


def seconds_of(orchestrator, one, name):
    """How long a small file takes."""
    began = time.monotonic()
    orchestrator.submit(one.url.replace("big.bin", name), f"{one.url.rpartition(':')[2][:5]}-{name}").wait(
        120
    )
    return time.monotonic() - began


@pytest.mark.parametrize("connections", [8, 4])  # what is scarce: slots, or connections
def test_a_small_job_does_not_wait_for_a_thousand_chunks(empty_cluster: Cluster, busy, other, connections):
    empty_cluster.start_worker("--concurrency", "8", ORCHESTRATOR_CONNECTIONS=str(connections))
    with empty_cluster.orchestrator() as orchestrator:
        alone = {one: seconds_of(orchestrator, one, "small0.bin") for one in (busy, other)}
        large = orchestrator.submit(busy.url, chunk_size_bytes=MIB)
        wait_until(lambda: large.status().connections_count == connections, what="all connections taken")
        for number in (1, 2):
            for which, one in (("same", busy), ("other", other)):
                more = seconds_of(orchestrator, one, f"small{number}.bin") - alone[one]
                print(f"behind 1,000 chunks, {which} origin: {more:+.2f} s")
                assert more < 6
        record = large.status()
        assert record.state is JobState.FETCHING
        assert record.chunks_done < 500
        assert large.cancel()
    for path in empty_cluster.volume.glob("*-small*.bin"):
        assert path.read_bytes() == SMALL
    assert len(list(empty_cluster.volume.glob("*-small*.bin"))) == 6
    wait_until_clean(empty_cluster.volume)


@pytest.mark.parametrize("connections", [16, 4])
def test_a_job_of_higher_priority_goes_first(empty_cluster: Cluster, other, connections):
    other.content = random.Random(6).randbytes(12 * MIB)
    other.bytes_per_second = MIB // 2
    empty_cluster.start_worker("--concurrency", "8", ORCHESTRATOR_CONNECTIONS=str(connections))
    with empty_cluster.orchestrator() as orchestrator:
        jobs = [
            orchestrator.submit(other.url, f"{number}.bin", chunk_size_bytes=MIB, priority=priority)
            for number, priority in enumerate(["low", "normal", "normal"])
        ]
        wait_until(
            lambda: all(job.status().state is JobState.FETCHING for job in jobs), what="all chunks sent"
        )
        done = empty_cluster.run(
            "submit", other.url, "-o", "high.bin", "--chunk-size", "1M", "--priority", "high", timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert {job.status().state for job in jobs} == {JobState.FETCHING}
        records = orchestrator.wait_for_all(jobs, 120)
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert records[0].finished_at == max(record.finished_at for record in records), "the low one was the last"
    for name in ("0.bin", "1.bin", "2.bin", "high.bin"):
        assert (empty_cluster.volume / name).read_bytes() == other.content


def test_two_large_jobs_share_an_origins_connections(empty_cluster: Cluster, busy):
    empty_cluster.start_worker("--concurrency", "16", ORCHESTRATOR_CONNECTIONS="8")
    with empty_cluster.orchestrator() as orchestrator:
        first = orchestrator.submit(busy.url, "first.bin", chunk_size_bytes=MIB)
        wait_until(lambda: first.status().connections_count == 8, what="all connections taken")
        second = orchestrator.submit(busy.url, "second.bin", chunk_size_bytes=MIB)
        wait_until(lambda: second.status().connections_count >= 3, seconds=60, what="the second one's share")
        assert first.status().connections_count >= 1
        for job in (first, second):
            assert job.cancel()
    assert busy.most_open_count <= 10  # one that was ended stands a moment longer at the origin
    wait_until_clean(empty_cluster.volume)


def test_batches_of_two_users_share_the_slots(empty_cluster: Cluster, other):
    other.contents = {f"/{user}{number}.bin": SMALL[:100_000] for user in "ab" for number in range(60)}
    other.bytes_per_second = 200_000
    empty_cluster.start_worker("--concurrency", "4")

    def urls(user):
        return [other.url.replace("/big.bin", path) for path in other.contents if path.startswith(f"/{user}")]

    with empty_cluster.orchestrator() as orchestrator:
        a_jobs = orchestrator.submit_many(urls("a"))
        wait_until(lambda: len(other.paths) >= 8, what="the first user's beginning")
        b_jobs = orchestrator.submit_many(urls("b"))
        a_records = orchestrator.wait_for_all(a_jobs, 120)
        b_records = orchestrator.wait_for_all(b_jobs, 120)
    a_end = max(record.finished_at for record in a_records)
    b_done = sum(record.finished_at <= a_end for record in b_records)
    print(f"when the first user's 60 were done, {b_done} of the second's were")
    # 52 or so of the first's were left when the second came.
    assert b_done >= 30
    assert {record.state for record in [*a_records, *b_records]} == {JobState.COMPLETE}


def test_no_more_chunks_are_sent_than_redis_should_keep(empty_cluster: Cluster):
    empty_cluster.start_worker("--queues", "control,merge")
    client = empty_cluster.redis.client()

    with origin(Endless(1_000 * 64 * 1024)) as one, empty_cluster.orchestrator() as orchestrator:
        jobs = []
        for number in range(3):
            began = time.monotonic()
            before_bytes = client.info("memory")["used_memory"]
            jobs.append(orchestrator.submit(one.url, f"{number}.bin", chunk_size_bytes=64 * 1024))
            wait_until(
                lambda number=number: empty_cluster.waiting_count("chunks") == 1_000 * (number + 1),
                seconds=60,
                what="its chunks",
            )
            seconds = time.monotonic() - began
            grown_bytes = client.info("memory")["used_memory"] - before_bytes
            print(f"1,000 chunks: {seconds:.2f} s to plan and send, {grown_bytes} B of Redis")
            assert grown_bytes < 3_000_000
        more = orchestrator.submit(one.url, "more.bin", chunk_size_bytes=64 * 1024)
        wait_until(lambda: more.status().chunks_count == 1_000, what="its plan")
        small = orchestrator.submit(one.url, "small.bin", chunk_size_bytes=2 * MIB)
        wait_until(lambda: empty_cluster.waiting_count("chunks") > 3_000, what="the chunks of a small plan")
        began = more.status().state_times[JobState.PLANNING]
        wait_until(lambda: more.status().state_times[JobState.PLANNING] > began, what="another look")
        assert more.status().state is JobState.PLANNING
        assert empty_cluster.waiting_count("chunks") == 3_000 + small.status().chunks_count
        for job in jobs:
            assert job.cancel()
        empty_cluster.start_worker("--queues", "chunks", "--concurrency", "4")
        assert more.wait(120).chunks_done == 1_000
        small.wait(60)
    wait_until_clean(empty_cluster.volume)
