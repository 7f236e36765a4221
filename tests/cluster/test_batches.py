"""Many files at once: small ones share tasks, and none of them holds another up."""

from __future__ import annotations

import random
import signal

import pytest

from orchestrator import Wanted
from support.events import gather_events
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import wait_until
from tasks.jobs import JobState
from tasks.transfer.errors import BadURL

PLAN_MANY = "orchestrator.plan_many"
COUNT = 200


@pytest.fixture
def served():
    chance = random.Random(3)
    with origin(chance.randbytes(100_000)) as one:
        one.contents = {f"/{number}.bin": chance.randbytes(10_000 + number) for number in range(COUNT)}
        one.contents["/large.bin"] = chance.randbytes(20 * MIB)
        yield one


def urls_of(served, *paths):
    return [served.url.replace("/big.bin", path) for path in paths or served.contents]


def is_right(one, served, path):
    return (one.volume / path.strip("/")).read_bytes() == served.contents[path]


def test_small_files_share_tasks_and_each_is_the_right_one(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "8")
    small = [path for path in served.contents if path != "/large.bin"]
    with gather_events(empty_cluster) as gathered, empty_cluster.orchestrator() as orchestrator:
        left_counts: list[int] = []
        jobs = orchestrator.submit_many(urls_of(served, *small))
        records = orchestrator.wait_for_all(jobs, 60, on_look=left_counts.append)
        wait_until(lambda: gathered.of("task-succeeded", PLAN_MANY), what="the events of the tasks")
    assert [record.job_id for record in records] == [job.job_id for job in jobs]
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert all(is_right(empty_cluster, served, path) for path in small)
    assert {record.size_bytes for record in records} == {10_000 + number for number in range(COUNT)}
    assert all(
        sum(share.bytes for share in record.workers.values()) == record.size_bytes for record in records
    )
    assert all(record.connections_count == 0 for record in records)
    tasks = [event for event in gathered.events if event["type"] == "task-received"]
    assert len(tasks) <= COUNT / 2, "a task is for several files"
    # One request for each file.
    assert sorted(served.paths) == sorted(small)
    assert left_counts[-1] == 0
    wait_until_clean(empty_cluster.volume)


def test_one_that_fails_keeps_none_of_the_others_from_their_end(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "2")
    (empty_cluster.volume / "there.bin").write_bytes(b"mine")
    with empty_cluster.orchestrator() as orchestrator:
        files = [
            Wanted(*urls_of(served, "/0.bin")),
            Wanted(*urls_of(served, "/1.bin"), digests={"sha-256": "5" * 64}),
            Wanted(*urls_of(served, "/2.bin"), output="there.bin"),
            Wanted("http://127.0.0.1:1/nothing"),
            Wanted(*urls_of(served, "/large.bin"), output="folder/large.bin"),
            *urls_of(served, "/3.bin", "/4.bin"),
        ]
        records = orchestrator.wait_for_all(orchestrator.submit_many(files, chunk_size_bytes=4 * MIB), 60)
    outcomes = [record.error.code if record.error else record.state for record in records]
    good = JobState.COMPLETE
    assert outcomes == [good, "DigestMismatch", "DestinationExists", "NoProgress", good, good, good]
    assert records[4].chunks_done == 5
    assert (empty_cluster.volume / "folder/large.bin").read_bytes() == served.contents["/large.bin"]
    assert all(is_right(empty_cluster, served, path) for path in ("/0.bin", "/3.bin", "/4.bin"))
    assert not (empty_cluster.volume / "1.bin").exists()
    assert (empty_cluster.volume / "there.bin").read_bytes() == b"mine"


def test_of_a_list_with_nonsense_in_it_nothing_is_submitted(empty_cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        with pytest.raises(BadURL):
            orchestrator.submit_many([*urls_of(served, "/0.bin"), "ftp://h/x"])
        assert orchestrator.list() == []
        assert orchestrator.submit_many([]) == []
        assert orchestrator.wait_for_all([]) == []


def test_what_was_paused_or_cancelled_before_its_turn_is_not_fetched(empty_cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        jobs = orchestrator.submit_many(urls_of(served, *(f"/{number}.bin" for number in range(128))))
        assert jobs[1].pause()
        assert jobs[2].cancel()
        assert [record.state for record in orchestrator.wait_for_all(jobs[:3], 0.1)] == [
            JobState.QUEUED, JobState.PAUSED, JobState.CANCELLED
        ]  # fmt: skip
        empty_cluster.start_worker("--concurrency", "4")
        orchestrator.wait_for_all(jobs, 60)
        assert not {"/1.bin", "/2.bin"} & set(served.paths)
        assert jobs[1].resume()
        jobs[1].wait(60)
    assert is_right(empty_cluster, served, "/1.bin")
    wait_until_clean(empty_cluster.volume)


def test_large_and_slow_ones_are_left_to_tasks_of_their_own(empty_cluster, served):
    """A task that has several of them gives the rest back after its time."""
    empty_cluster.start_worker("--concurrency", "4")
    served.bytes_per_second = 256 * 1024
    served.contents |= {
        f"/slow{number}.bin": served.contents["/large.bin"][: MIB + number] for number in range(4)
    }
    slow = [f"/slow{number}.bin" for number in range(4)]
    with gather_events(empty_cluster) as gathered, empty_cluster.orchestrator() as orchestrator:
        names = [*slow, *(f"/{number}.bin" for number in range(124))]
        jobs = orchestrator.submit_many(urls_of(served, *names))
        records = orchestrator.wait_for_all(jobs, 90)
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert all(is_right(empty_cluster, served, name) for name in names)
    assert gathered.of("task-retried", PLAN_MANY), "the rest was given back"
    assert gathered.of("task-received", "tasks.fetch_chunk"), "a slow one had a chunk's task"
    wait_until_clean(empty_cluster.volume)


def test_what_a_worker_that_goes_away_leaves_another_one_brings(empty_cluster, served):
    worker = empty_cluster.start_worker("--concurrency", "2")
    small = [path for path in served.contents if path != "/large.bin"]
    served.bytes_per_second = 200_000
    with empty_cluster.orchestrator() as orchestrator:
        jobs = orchestrator.submit_many(urls_of(served, *small))
        wait_until(lambda: len(served.paths) > 10, what="the middle of the batch")
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)
        served.bytes_per_second = None
        empty_cluster.start_worker("--concurrency", "4")
        records = orchestrator.wait_for_all(jobs, 60)
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert all(is_right(empty_cluster, served, path) for path in small)
    # What was complete is not fetched once more.
    assert len(served.paths) <= COUNT + 2
    wait_until_clean(empty_cluster.volume)


def test_a_batch_whose_messages_come_several_times_is_harmless(empty_cluster, served):
    small = [path for path in served.contents if path != "/large.bin"]
    with empty_cluster.orchestrator() as orchestrator:
        jobs = orchestrator.submit_many(urls_of(served, *small))
        celery = orchestrator._celery()
        for args in (
            ([job.job_id for job in jobs],),
            ([job.job_id for job in jobs[::-1]],),
            (["../x", 7, None],),
            ("x",),
        ):
            celery.send_task(PLAN_MANY, args=args, ignore_result=True)
        empty_cluster.start_worker("--concurrency", "8")
        records = orchestrator.wait_for_all(jobs, 60)
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert all(is_right(empty_cluster, served, path) for path in small)
    wait_until_clean(empty_cluster.volume)


def test_as_many_connections_as_an_origin_may_have_are_used_and_no_more(empty_cluster, served):
    for _ in range(2):
        empty_cluster.start_worker("--concurrency", "8")
    served.bytes_per_second = 500_000
    small = [path for path in served.contents if path != "/large.bin"]
    with empty_cluster.orchestrator() as orchestrator:
        records = orchestrator.wait_for_all(
            orchestrator.submit_many(urls_of(served, *small), connections=3), 90
        )
    assert {record.state for record in records} == {JobState.COMPLETE}
    assert served.most_open_count == 3
    assert all(is_right(empty_cluster, served, path) for path in small)
