"""Cancel, pause and resume: what stops, what stays, and what the messages that are left cost."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest

from orchestrator import JobEndedBadly
from support.cluster import Cluster
from support.files import MIB, leftovers, wait_until_clean
from support.origin import origin
from support.tools import end, wait_until
from tasks import outcomes
from tasks.app import make_app
from tasks.jobs import JobError, JobState
from tasks.settings import Settings
from tasks.transfer.volume import Volume

CONTENT = random.Random(13).randbytes(24 * MIB)
QUEUES = ("control", "merge", "chunks")


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def one_worker(empty_cluster: Cluster):
    empty_cluster.start_worker("--concurrency", "4")
    return empty_cluster


def in_the_middle(orchestrator, served):
    served.bytes_per_second = 3 * MIB
    job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB)
    wait_until(lambda: job.status().chunks_done >= 4, what="four chunks")
    return job


def wait_for_silence(served):
    wait_until(lambda: served.open_count == 0, what="all connections closed")


def assert_only_the_rest_was_fetched(one: Cluster, served):
    assert (one.volume / "big.bin").read_bytes() == CONTENT
    # Four of the twelve chunks were there; and each of four connections may lose what was in flight.
    assert served.served_bytes < len(CONTENT) - 8 * MIB + 5 * MIB
    wait_until_clean(one.volume)


def is_idle(one: Cluster) -> bool:
    return not one.waiting_count(*QUEUES) and not one.redis.client().hlen("manyhands:unacked")


def keys_of_chords(one: Cluster) -> list[str]:
    return list(one.redis.client().scan_iter("manyhands:celery-taskset-meta-*"))


@pytest.mark.parametrize("ends", ["cancelled", "kept", "failed"])
def test_a_thousand_chunks_of_a_job_that_ended_drain_without_a_request(empty_cluster, ends):
    redis = empty_cluster.redis.client()
    planner = empty_cluster.start_worker("--queues", "control")
    with (
        origin(random.Random(2).randbytes(1000 * 64 * 1024)) as served,
        empty_cluster.orchestrator() as orchestrator,
    ):
        job = orchestrator.submit(served.url, chunk_size_bytes=64 * 1024)
        wait_until(
            lambda: empty_cluster.waiting_count("chunks") == 1000, seconds=90, what="all chunks in the queue"
        )
        assert end(planner) == 0
        requests_count = len(served.requests)
        if ends == "failed":
            assert orchestrator.records.fail(job.job_id, JobError(code="NoProgress", message="for a test"))
        else:
            assert job.cancel(keeps_parts=ends == "kept")
        # Others have all connections: what is fenced off must not wait for one.
        holders = {f"other/{number}": 2**40 for number in range(16)}
        redis.zadd(f"manyhands:origin:{served.url.rpartition('/')[0]}:leases", holders)
        empty_cluster.start_worker("--concurrency", "4")
        wait_until(lambda: is_idle(empty_cluster), seconds=120, what="empty queues")
        assert len(served.requests) == requests_count
        record = job.status()
        assert record.retries_count == 0
        assert record.connections_count == 0
    if ends == "cancelled":
        wait_until_clean(empty_cluster.volume)
    else:
        assert leftovers(empty_cluster.volume) == [".orchestrator", job.job_id, "reserved"]
    # Celery's own mark that a chord is over stays for five minutes; its counts are gone.
    wait_until(
        lambda: all(key.endswith(".c") for key in keys_of_chords(empty_cluster)), what="the chord's end"
    )
    assert all(0 < redis.ttl(key) <= 300 for key in keys_of_chords(empty_cluster))
    results = list(redis.scan_iter("manyhands:celery-task-meta-*", count=1000))
    assert len(results) == 1000
    assert all(0 < redis.ttl(key) <= 3600 for key in results)


def test_a_job_that_keeps_its_parts_is_gone_on_with_by_resume(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.cancel(keeps_parts=True)
        wait_for_silence(served)
        folder = Volume(one_worker.volume).job(job.job_id)
        wait_until(lambda: folder.left_as == "cancelled", what="the mark of who has gone")
        assert job.status().keeps_parts
        assert not job.cancel(keeps_parts=True)
        served.bytes_per_second, served.served_bytes = None, 0
        served.gate.clear()
        assert job.resume()
        wait_until(lambda: served.open_count > 0, what="connections")
        assert not folder.is_left
        assert not job.status().keeps_parts
        served.gate.set()
        job.wait(60)
    assert_only_the_rest_was_fetched(one_worker, served)


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_job_that_keeps_its_parts_is_gone_on_with_by_another_submit(one_worker, served, is_forgotten):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.cancel(keeps_parts=True)
        wait_for_silence(served)
        folder = Volume(one_worker.volume).job(job.job_id)
        wait_until(lambda: folder.is_left, what="the mark of who has gone")
        if is_forgotten:
            one_worker.redis.client().flushall()
        served.bytes_per_second, served.served_bytes = None, 0
        record = orchestrator.submit(served.url).wait(60)
        assert record.resumed_bytes >= 8 * MIB
    assert_only_the_rest_was_fetched(one_worker, served)


def test_kept_parts_are_removed_by_a_later_cancel(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.cancel(keeps_parts=True)
        wait_for_silence(served)
        assert job.cancel()
        wait_until_clean(one_worker.volume)
        assert not job.status().keeps_parts
        assert not job.cancel()


def test_a_cancelled_job_that_kept_nothing_starts_over_and_says_so(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.cancel()
        wait_for_silence(served)
        wait_until_clean(one_worker.volume)
        served.bytes_per_second, served.served_bytes = None, 0
        done = one_worker.run("resume", job.job_id)
        assert done.returncode == 0
        assert "; its parts were removed when it was cancelled, so it starts over" in done.stdout
        assert job.wait(60).bytes_done == len(CONTENT)
    assert (one_worker.volume / "big.bin").read_bytes() == CONTENT
    assert served.served_bytes >= len(CONTENT)
    wait_until_clean(one_worker.volume)


def test_a_failed_job_is_gone_on_with_by_resume(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        served.statuses = [404]
        with pytest.raises(JobEndedBadly):
            job.wait(60)
        wait_for_silence(served)
        served.bytes_per_second, served.served_bytes = None, 0
        assert job.resume()
        job.wait(60)
    assert_only_the_rest_was_fetched(one_worker, served)


def test_a_paused_job_stays_paused_over_the_end_of_its_worker(empty_cluster, served):
    first = empty_cluster.start_worker("--concurrency", "4")
    with empty_cluster.orchestrator() as orchestrator:
        job = in_the_middle(orchestrator, served)
        assert job.pause()
        wait_for_silence(served)
        # What the sockets still held was sent before they were closed: from now on, nothing.
        served_bytes = served.served_bytes
        assert end(first) == 0
        empty_cluster.start_worker("--concurrency", "4")
        wait_until(lambda: is_idle(empty_cluster), seconds=60, what="empty queues")
        with origin(CONTENT) as another:
            orchestrator.submit(another.url, "another.bin").wait(60)
        assert job.status().state is JobState.PAUSED
        assert served.served_bytes == served_bytes
        served.bytes_per_second, served.served_bytes = None, 0
        assert job.resume()
        job.wait(60)
    assert_only_the_rest_was_fetched(empty_cluster, served)


@pytest.fixture
def here(empty_cluster):
    with empty_cluster.host() as one:
        yield one


def without_broker(orchestrator):
    """Its records are at hand, and what sends messages has no connection."""
    orchestrator._app = make_app(Settings(redis_url="redis://127.0.0.1:1/0"))


def test_a_cancel_whose_message_is_lost_is_made_good_by_whoever_looks(one_worker, served, here, caplog):
    with one_worker.orchestrator() as orchestrator, one_worker.orchestrator() as cut_off:
        job = in_the_middle(orchestrator, served)
        without_broker(cut_off)
        with caplog.at_level(logging.WARNING):
            assert cut_off.cancel(job.job_id)
        assert "left to the sweep" in caplog.text
        wait_for_silence(served)
        wait_until(lambda: is_idle(one_worker), what="empty queues")
        outcomes.remove_if_over(here, job.job_id)
        assert list(one_worker.volume.iterdir()) == []
        # Once more: there is nothing, and it is nobody's.
        outcomes.remove_if_over(here, job.job_id)
        assert list(one_worker.volume.iterdir()) == []


def test_a_resume_whose_message_is_lost_waits_in_queued(one_worker, served):
    with one_worker.orchestrator() as orchestrator, one_worker.orchestrator() as cut_off:
        job = in_the_middle(orchestrator, served)
        assert job.pause()
        without_broker(cut_off)
        assert cut_off.resume(job.job_id)
        assert job.status().state is JobState.QUEUED
        served.bytes_per_second = None
        # What the sweep does.
        orchestrator.send("orchestrator.plan", job.job_id, "again")
        job.wait(60)
    assert (one_worker.volume / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("state", [JobState.FETCHING, JobState.PAUSED, JobState.FAILED])
def test_who_looks_removes_nothing_of_a_job_that_was_not_cancelled(empty_cluster, served, here, state):
    planner = empty_cluster.start_worker("--queues", "control")
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB)
        wait_until(lambda: job.status().state is JobState.FETCHING, what="a plan")
        end(planner)
        here.records.transition(job.job_id, state)
        before = sorted(Path(empty_cluster.volume).rglob("*"))
        outcomes.remove_if_over(here, job.job_id)
        assert sorted(Path(empty_cluster.volume).rglob("*")) == before


def test_several_jobs_are_steered_by_one_command(empty_cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        jobs = [orchestrator.submit(served.url, f"{number}.bin") for number in range(3)]
        ids = [job.job_id for job in jobs]
        assert empty_cluster.run("pause", *ids[:2]).returncode == 0
        assert [job.status().state for job in jobs] == [JobState.PAUSED, JobState.PAUSED, JobState.QUEUED]
        done = empty_cluster.run("cancel", "--keep", "0123456789ab", *ids)
        assert done.returncode == 2
        assert "There is no job 0123456789ab" in done.stderr
        assert done.stdout.count("is cancelled; what came is kept. Go on with: orchestrator resume") == 3
        assert all(job.status().keeps_parts for job in jobs)
        shown = json.loads(empty_cluster.run("resume", "--json", *ids).stdout)
        assert [each["state"] for each in shown] == ["queued"] * 3
        one = json.loads(empty_cluster.run("cancel", "--json", ids[0]).stdout)
        assert (one["state"], one["keeps_parts"]) == ("cancelled", False)
        again = empty_cluster.run("resume", ids[1])
        assert again.returncode == 0
