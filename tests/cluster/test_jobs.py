"""Jobs through a real Redis and real worker processes."""

from __future__ import annotations

import random
import re
import shutil

import pytest

from orchestrator import Access, JobEndedBadly
from support.cluster import Cluster
from support.events import gather_events
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import end, wait_until
from tasks.jobs import JobState

FETCH, MERGE = "tasks.fetch_chunk", "tasks.merge_parts"
CONTENT = random.Random(7).randbytes(24 * MIB)
CHUNK_BYTES = 1 * MIB


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def one_worker(empty_cluster: Cluster):
    empty_cluster.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-a")
    return empty_cluster


def is_right(one: Cluster, name: str = "big.bin") -> bool:
    return (one.volume / name).read_bytes() == CONTENT


def test_two_workers_share_a_job_and_each_chunk_is_done_once(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-a")
    empty_cluster.start_worker("--concurrency", "4", ORCHESTRATOR_HOST_NAME="host-b")
    served.bytes_per_second = 4 * MIB
    with gather_events(empty_cluster) as gathered, empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        record = job.wait(60)
        # A chunk's own message may come after the merge, if others brought the chunk.
        wait_until(
            lambda: gathered.of("task-succeeded", MERGE) and len(gathered.of("task-succeeded", FETCH)) >= 24,
            what="the events of the merge and of all chunks",
        )
    assert is_right(empty_cluster)
    succeeded = gathered.of("task-succeeded", FETCH)
    assert len(succeeded) == 24
    assert len({event["uuid"] for event in succeeded}) == 24
    hosts = {event["hostname"] for event in succeeded}
    assert len(hosts) == 2, "both workers took chunks"
    # The chord's body, sent by the worker that finished the last chunk; or by one that brought the last of what others
    # had begun, and then a second one may find nothing to do.
    merges = gathered.of("task-received", MERGE)
    assert 1 <= len(merges) <= 2
    assert all(merge["parent_id"] in {event["uuid"] for event in succeeded} for merge in merges)
    assert set(record.workers) == {"host-a", "host-b"}
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)
    assert record.chunks_done == record.chunks_count == 24
    assert set(record.state_times) == {
        JobState.QUEUED, JobState.PLANNING, JobState.FETCHING, JobState.MERGING, JobState.COMPLETE
    }  # fmt: skip
    # The beginning that the probe brought was not asked for again.
    assert served.served_bytes == len(CONTENT)
    wait_until_clean(empty_cluster.volume)


def test_a_chunk_is_readable_in_the_events_and_its_url_is_not(one_worker, served):
    served.statuses = [0, 503]  # the probe, then one chunk that is retried
    with gather_events(one_worker) as gathered, one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(
            f"{served.url}?sig=s3cret",
            "debian.iso",
            chunk_size_bytes=8 * MIB,
            access=Access(headers={"X-Token": "t0ken"}),
        )
        record = job.wait(60)
        wait_until(lambda: gathered.of("task-succeeded", MERGE), what="the event of the merge")
    shown = {event["args"] for event in gathered.of("task-received", FETCH)}
    assert shown == {
        "(debian.iso 0/3, 0-8 MiB)", "(debian.iso 1/3, 8-16 MiB)", "(debian.iso 2/3, 16-24 MiB)"
    }  # fmt: skip
    # At least: a chunk whose connection is refused beside others waits for one, which is no retry in the record.
    assert len(gathered.of("task-retried", FETCH)) >= 1
    assert record.retries_count <= 1
    # Tracebacks of retries are in the events too, and requests' own errors carry the query.
    everything = str(gathered.events) + one_worker.log()
    for secret in ("s3cret", "t0ken"):
        assert secret not in everything
        assert secret not in dump(one_worker)


def dump(one: Cluster) -> str:
    """All that Redis holds, as text."""
    client = one.redis.client()
    kinds = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "zset": lambda key: client.zrange(key, 0, -1),
        "list": lambda key: client.lrange(key, 0, -1),
    }
    return "\n".join(f"{key} {kinds[client.type(key)](key)}" for key in client.scan_iter())


def test_a_refused_chunk_fails_the_job_and_stops_the_others(one_worker, served):
    served.bytes_per_second = MIB
    served.statuses = [0, 0, 404]
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB)
        with pytest.raises(JobEndedBadly) as caught:
            job.wait(60)
        assert caught.value.record.error.code == "SourceRefused"
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        assert not (one_worker.volume / "big.bin").exists()
        # What came before is kept: resume goes on from there.
        brought = served.served_bytes
        served.bytes_per_second = None
        assert job.resume()
        job.wait(60)
    assert is_right(one_worker)
    assert served.served_bytes < len(CONTENT) + brought
    wait_until_clean(one_worker.volume)


def test_cancel_closes_the_connections_and_leaves_nothing(one_worker, served):
    served.gate.clear()
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB)
        wait_until(lambda: job.status().connections_count == 4, what="four connections")
        assert job.cancel()
        assert not job.cancel()
        wait_until_clean(one_worker.volume)
        served.gate.set()
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        assert job.status().state is JobState.CANCELLED
    assert list(one_worker.volume.iterdir()) == []


def test_pause_keeps_the_bytes_and_resume_fetches_only_the_rest(one_worker, served):
    served.bytes_per_second = 2 * MIB
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB)
        wait_until(lambda: job.status().bytes_done > 6 * MIB, what="some bytes")
        assert job.pause()
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        with pytest.raises(JobEndedBadly, match="paused"):
            job.wait(5)
        served.bytes_per_second = None
        assert job.resume()
        record = job.wait(60)
    assert is_right(one_worker)
    assert record.bytes_done == len(CONTENT)
    # Each of the four connections may lose what was in flight when it was closed.
    assert served.served_bytes < len(CONTENT) + 4 * 4 * MIB // 2
    wait_until_clean(one_worker.volume)


def test_a_terminated_worker_gives_its_chunks_to_another_at_the_byte(empty_cluster, served):
    first = empty_cluster.start_worker(
        "--concurrency", "4", "--queues", "chunks", ORCHESTRATOR_HOST_NAME="host-a"
    )
    empty_cluster.start_worker("--queues", "control,merge")
    served.bytes_per_second = 2 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=12 * MIB)
        wait_until(lambda: job.status().bytes_done > 4 * MIB, what="some bytes")
        assert end(first) == 0
        kept = job.status().bytes_done
        served.bytes_per_second = None
        empty_cluster.start_worker(
            "--concurrency", "4", "--queues", "chunks", ORCHESTRATOR_HOST_NAME="host-b"
        )
        record = job.wait(60)
    assert is_right(empty_cluster)
    # By design, and so without a warning.
    log = empty_cluster.log(0)
    assert (
        len(re.findall(r"INFO/chunks-\d+\] Task tasks.fetch_chunk\[\S+\] reject requeue=True: drain", log))
        == 2
    )
    assert "Traceback" not in log
    # A MiB of the beginning came with the probe; of the rest, nothing that host-a had was fetched again.
    assert record.workers["host-a"].bytes >= kept - MIB - 128 * 1024
    assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)


def test_no_more_connections_are_open_than_the_job_may_have(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "8")
    served.bytes_per_second = 8 * MIB
    with empty_cluster.orchestrator() as orchestrator:
        orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES, connections=3).wait(60)
    assert is_right(empty_cluster)
    assert served.most_open_count <= 3


def test_tasks_that_run_twice_or_late_change_nothing(one_worker, served):
    served.bytes_per_second = 4 * MIB
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=4 * MIB)
        wait_until(lambda: job.status().state is JobState.FETCHING, what="fetching")
        celery = orchestrator._celery()
        for number in (0, 0, 3):
            celery.send_task(FETCH, args=(job.job_id, 1, number), ignore_result=True)
        # Too early: it finds parts missing, and has them sent again as a new generation.
        celery.send_task(MERGE, args=(job.job_id, 1), ignore_result=True)
        job.wait(60)
        assert is_right(one_worker)
        before = (one_worker.volume / "big.bin").stat()
        for generation in (1, 2, 3):
            celery.send_task(MERGE, args=(job.job_id, generation), ignore_result=True)
            celery.send_task(FETCH, args=(job.job_id, generation, 1), ignore_result=True)
        celery.send_task("orchestrator.plan", args=(job.job_id,), ignore_result=True)
        # One more job behind them: when that is done, they are.
        orchestrator.submit(served.url, "second.bin").wait(60)
        assert job.status().state is JobState.COMPLETE
    after = (one_worker.volume / "big.bin").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    wait_until_clean(one_worker.volume)


@pytest.mark.parametrize(
    "args",
    [
        ("../../../tmp", 1, 0),  # a path for an id
        ("0123456789ab", 1, 0),  # no such job
        ("0123456789ab", 1, 10**9),
        (7, "x", None),  # nonsense
    ],
)
def test_messages_from_anyone_are_harmless(one_worker, served, args):
    with one_worker.orchestrator() as orchestrator:
        celery = orchestrator._celery()
        celery.send_task(FETCH, args=args, ignore_result=True)
        celery.send_task(MERGE, args=args[:2], ignore_result=True)
        celery.send_task("orchestrator.plan", args=args[:1], ignore_result=True)
        celery.send_task("tasks.remove_job", args=args[:1], ignore_result=True)
        orchestrator.submit(served.url).wait(60)
    assert is_right(one_worker)
    wait_until_clean(one_worker.volume)


def test_a_job_sealed_with_another_key_is_refused_with_a_sentence(one_worker, served):
    from orchestrator import Orchestrator
    from tasks.sealing import new_key

    with (
        Orchestrator(redis_url=one_worker.redis.url, secret_key=new_key()) as orchestrator,
        pytest.raises(JobEndedBadly, match="another ORCHESTRATOR_SECRET_KEY"),
    ):
        orchestrator.submit(served.url).wait(60)


@pytest.mark.parametrize("restarts", [True, False])
def test_a_file_that_changes_midway_is_never_mixed(one_worker, served, restarts):
    served.bytes_per_second = 2 * MIB
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, restarts=restarts)
        wait_until(lambda: job.status().chunks_done >= 2, what="two chunks")
        served.etag, served.content, served.bytes_per_second = '"v2"', CONTENT[::-1], None
        if restarts:
            job.wait(60)
            assert (one_worker.volume / "big.bin").read_bytes() == CONTENT[::-1]
            return
        with pytest.raises(JobEndedBadly) as caught:
            job.wait(60)
        assert caught.value.record.error.code == "SourceChanged"
        assert not (one_worker.volume / "big.bin").exists()


def test_celery_runs_the_app_without_our_worker_command(empty_cluster, served):
    import subprocess
    import sys

    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "celery", "-A", "tasks.app", "worker", "-Q", "control,merge,chunks",
         "--without-mingle"],
        env=empty_cluster.environment,
        cwd=empty_cluster.logs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with empty_cluster.orchestrator() as orchestrator:
            orchestrator.submit(served.url).wait(60)
        assert is_right(empty_cluster)
    finally:
        end(worker)


def test_an_unreachable_origins_query_is_in_no_event(one_worker):
    with gather_events(one_worker) as gathered, one_worker.orchestrator() as orchestrator:
        with pytest.raises(JobEndedBadly, match="connection refused"):
            orchestrator.submit("http://127.0.0.1:1/x?sig=s3cret").wait(60)
        wait_until(lambda: gathered.of("task-retried", "orchestrator.plan"), what="a retry")
    assert "s3cret" not in str(gathered.events) + one_worker.log()


def test_two_plans_at_once_never_mix_two_versions(one_worker, served):
    with one_worker.orchestrator() as orchestrator:
        celery = orchestrator._celery()
        for turn in range(6):
            served.etag, served.content = '"v1"', CONTENT
            job = orchestrator.submit(served.url, f"{turn}.bin", chunk_size_bytes=8 * MIB)
            for _ in range(3):
                celery.send_task("orchestrator.plan", args=(job.job_id,), ignore_result=True)
            served.etag, served.content = '"v2"', CONTENT[::-1]
            record = ended(job)
            published = one_worker.volume / f"{turn}.bin"
            if record.state is JobState.COMPLETE:
                assert published.read_bytes() in (CONTENT, CONTENT[::-1])
            else:
                assert record.error.code == "SourceChanged", one_worker.log()
                assert not published.exists()


def ended(job):
    """The record of a job at its end, whatever that is."""
    try:
        return job.wait(60)
    except JobEndedBadly as error:
        return error.record


def test_a_small_file_that_is_planned_several_times_at_once_is_complete(one_worker):
    with origin(CONTENT[:100_000]) as small, one_worker.orchestrator() as orchestrator:
        celery = orchestrator._celery()
        for turn in range(10):
            job = orchestrator.submit(small.url, f"{turn}.bin")
            for _ in range(3):
                celery.send_task("orchestrator.plan", args=(job.job_id,), ignore_result=True)
            job.wait(60)
            assert (one_worker.volume / f"{turn}.bin").read_bytes() == CONTENT[:100_000]
    wait_until_clean(one_worker.volume)


def remove_jobs(volume):
    removed = volume.with_name("removed")
    # Renamed first: workers go on writing to it.
    (volume / ".orchestrator").rename(removed)
    shutil.rmtree(removed)


@pytest.mark.parametrize("layout", ["parts", "shared"])
def test_a_job_whose_folder_somebody_removes_fails_and_is_not_waited_for(one_worker, served, layout):
    served.bytes_per_second = 2 * MIB
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES, layout=layout)
        wait_until(lambda: job.status().bytes_done > 2 * MIB, what="some bytes")
        remove_jobs(one_worker.volume)
        with pytest.raises(JobEndedBadly) as caught:
            job.wait(60)
        assert caught.value.record.error.code == "VolumeMissing"
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        wait_until_clean(one_worker.volume)
        served.bytes_per_second = None
        orchestrator.submit(served.url).wait(60)
    assert is_right(one_worker)
    wait_until_clean(one_worker.volume)


def test_a_job_whose_folder_is_gone_when_it_is_merged_fails(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "4", "--queues", "control,chunks")
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().chunks_done == job.status().chunks_count > 1, what="all chunks")
        remove_jobs(empty_cluster.volume)
        empty_cluster.start_worker("--queues", "merge")
        with pytest.raises(JobEndedBadly) as caught:
            job.wait(60)
    assert caught.value.record.error.code == "VolumeMissing"
    assert list(empty_cluster.volume.iterdir()) == []
