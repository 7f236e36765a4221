"""The sweep: what is lost between workers, messages and Redis is found and sent again."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time

import psutil
import pytest

from orchestrator.submission import Submission, Wanted
from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.manifests import manifest_of_file
from support.moving_origin import moving_origin, version
from support.origin import origin
from support.tools import wait_until
from tasks.jobs import JobState
from tasks.records import NewJob
from tasks.sweep import look_at_volume
from tasks.transfer.manifest import JobSpec, LayoutName, UnplannedJob

CONTENT = random.Random(11).randbytes(12 * MIB + 7)
CHUNK_BYTES = 1 * MIB
#: Quick, so that a test of what takes 15 seconds elsewhere takes three.
QUICK = {"ORCHESTRATOR_SWEEP_SECONDS": "0.5", "ORCHESTRATOR_STALL_SECONDS": "2"}


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        one.bytes_per_second = MIB
        yield one


def start(one: Cluster, *args: str):
    return one.start_worker("--concurrency", "4", "--processes", "1", *args, **QUICK)


def kill(worker) -> None:
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.kill()
    for child in children:
        child.kill()
    worker.wait()


def is_right(one: Cluster) -> bool:
    return (one.volume / "big.bin").read_bytes() == CONTENT


def test_a_job_whose_worker_was_killed_is_gone_on_with_by_the_next(empty_cluster: Cluster, served):
    first = start(empty_cluster)
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > 3 * MIB, what="some bytes")
        kill(first)
        start(empty_cluster)
        record = job.wait(90)
    assert is_right(empty_cluster)
    assert record.chunks_done == record.chunks_count == 13
    wait_until_clean(empty_cluster.volume)


def test_messages_that_vanish_before_anybody_has_one_are_sent_again(empty_cluster: Cluster, served):
    start(empty_cluster, "--queues", "control,merge")
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: empty_cluster.waiting_count("chunks") == 13, what="the messages of all chunks")
        assert client.delete(*empty_cluster.lists("chunks"))
        start(empty_cluster, "--queues", "chunks")
        record = job.wait(90)
    assert is_right(empty_cluster)
    assert record.state_times[JobState.PLANNING] > record.state_times[JobState.QUEUED] + 2, "sent again"
    wait_until_clean(empty_cluster.volume)


@pytest.mark.parametrize("kinds", [["chunks"], ["chunks", "unacked"]])
def test_messages_that_vanish_in_the_middle_cost_nothing(empty_cluster: Cluster, served, kinds):
    """Who is done goes on with chunks whose messages are gone; the sweep sends them again where nobody does."""
    start(empty_cluster)
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > 2 * MIB, what="some bytes")
        assert empty_cluster.redis.client().delete(*empty_cluster.lists(*kinds))
        job.wait(90)
    assert is_right(empty_cluster)
    wait_until_clean(empty_cluster.volume)


def test_a_submitter_that_died_before_it_sent_the_plan_is_made_good(empty_cluster: Cluster, served):
    start(empty_cluster)
    with empty_cluster.orchestrator() as orchestrator:
        new = Submission(orchestrator.settings.secret_key, {}).job(Wanted(served.url))
        orchestrator.records.create([new], now=time.time())
        orchestrator.job(new.job_id).wait(60)
    assert is_right(empty_cluster)
    wait_until_clean(empty_cluster.volume)


def test_a_merge_whose_message_vanished_runs(empty_cluster: Cluster, served):
    served.bytes_per_second = None
    planner = empty_cluster.start_worker("--queues", "control", **QUICK)
    empty_cluster.start_worker("--queues", "chunks", "--processes", "1", **QUICK)
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: empty_cluster.waiting_count("merge"), what="the message of the merge")
        kill(planner)  # it would send the job again while there is nobody to merge it
        client.delete(*empty_cluster.lists("merge"))
        start(empty_cluster)
        job.wait(60)
    assert is_right(empty_cluster)
    assert served.served_bytes < len(CONTENT) + 2 * MIB
    wait_until_clean(empty_cluster.volume)


def test_an_emptied_redis_costs_what_was_in_flight(empty_cluster: Cluster, served):
    start(empty_cluster)
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > 4 * MIB, what="some bytes")
        client.flushall()
        wait_until(lambda: client.exists(f"manyhands:job:{job.job_id}"), what="the record")
        record = job.wait(60)
    assert is_right(empty_cluster)
    assert record.url == served.url
    assert record.chunks_done == record.chunks_count == 13
    assert record.bytes_done == len(CONTENT) == sum(share.bytes for share in record.workers.values())
    print("refetched", served.served_bytes - len(CONTENT))
    wait_until_clean(empty_cluster.volume)


def test_what_is_paused_stays_so_when_redis_is_emptied(empty_cluster: Cluster, served):
    start(empty_cluster)
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > 2 * MIB, what="some bytes")
        assert job.pause()
        folder = empty_cluster.volume / ".orchestrator" / job.job_id
        wait_until((folder / "left").exists, what="the mark on the volume")
        client.flushall()
        wait_until(lambda: client.exists(f"manyhands:job:{job.job_id}"), what="the record")
        assert job.status().state is JobState.PAUSED
        assert job.resume()
        job.wait(60)
    assert is_right(empty_cluster)
    wait_until_clean(empty_cluster.volume)


def test_a_job_that_waits_for_its_turn_is_let_be(empty_cluster: Cluster, served):
    """Its messages are in the queue: sent again, they would be there twice."""
    empty_cluster.start_worker("--queues", "control,merge", **QUICK)
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().state is JobState.FETCHING)
        # Looked at as one that stands still, and each time found to be waited for.
        for _ in range(3):
            seen = client.hget("manyhands:stalls", job.job_id)
            wait_until(lambda seen=seen: client.hget("manyhands:stalls", job.job_id) != seen, what="a look")
        assert empty_cluster.waiting_count("chunks") == 13
        assert client.hget(f"manyhands:job:{job.job_id}", "generation") == "1"
        empty_cluster.start_worker("--queues", "chunks", "--processes", "1", **QUICK)
        job.wait(60)
    assert is_right(empty_cluster)


def test_a_job_of_another_cluster_on_the_same_volume_is_not_touched(empty_cluster: Cluster, served):
    first = start(empty_cluster)
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > 2 * MIB, what="some bytes")
        kill(first)
    client = empty_cluster.redis.client()
    client.flushall()  # nobody is left who knows what this cluster was called
    start(empty_cluster)
    wait_until(lambda: not client.exists("manyhands:sweep:volume"), what="the end of the first look")
    wait_until(lambda: client.exists("manyhands:sweep:volume"), what="the second look")
    wait_until(lambda: not client.exists("manyhands:sweep:volume"), what="the end of the second look")
    assert not client.exists(f"manyhands:job:{job.job_id}")
    assert not (empty_cluster.volume / "big.bin").exists()
    # Unless somebody says that it is this one's.
    shown = empty_cluster.run("recover", "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, {"jobs": [job.job_id]}), shown.stderr
    with empty_cluster.orchestrator() as orchestrator:
        orchestrator.job(job.job_id).wait(60)
    assert is_right(empty_cluster)
    assert empty_cluster.run("recover").stdout == "no job on the volume that Redis does not know\n"
    wait_until_clean(empty_cluster.volume)


def test_a_job_that_had_no_plan_yet_comes_back_too(empty_cluster: Cluster, served):
    start(empty_cluster, "--queues", "chunks")
    client = empty_cluster.redis.client()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, sha256=hashlib.sha256(CONTENT).hexdigest())
        kept = empty_cluster.volume / ".orchestrator" / "unplanned" / f"{job.job_id}.json"
        wait_until(kept.exists, what="what was asked for, on the volume")
        client.flushall()
        wait_until(lambda: client.exists(f"manyhands:job:{job.job_id}"), what="the record")
        start(empty_cluster, "--queues", "control,merge")
        record = job.wait(60)
    assert is_right(empty_cluster)
    assert record.sha256
    wait_until_clean(empty_cluster.volume)


def test_a_job_whose_merge_kills_each_worker_fails_in_the_end(empty_cluster: Cluster, served):
    """The test is the worker that dies: it takes the merge's message, begins, and is not heard of any more."""
    served.bytes_per_second = None
    empty_cluster.start_worker(
        "--queues", "control,chunks", "--processes", "1",
        ORCHESTRATOR_SWEEP_SECONDS="0.3", ORCHESTRATOR_STALL_SECONDS="1",
    )  # fmt: skip
    client = empty_cluster.redis.client()
    deaths = 0
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)

        def is_over() -> bool:
            nonlocal deaths
            if any(client.rpop(key) for key in empty_cluster.lists("merge")):
                deaths += 1
                orchestrator.records.transition(job.job_id, JobState.MERGING)
                orchestrator.records.begun(job.job_id)
                client.delete(f"manyhands:job:{job.job_id}:busy")  # as it runs out
            return not job.status().state.is_active

        wait_until(is_over, seconds=90, what="the end of the job")
        record = job.status()
    assert record.error is not None
    assert record.error.code == "SentInVain"
    # Not each of two merges that were sent at a time is a death of its own.
    told = re.search(r"(\d+) workers died", record.error.message)
    assert told is not None
    assert 5 <= int(told[1]) <= deaths
    assert served.served_bytes < len(CONTENT) + 2 * MIB


def test_a_job_comes_back_whose_plan_was_at_the_origin_when_redis_was_emptied(empty_cluster: Cluster):
    """Nobody waits for it, and nothing of it was on the volume."""
    client = empty_cluster.redis.client()
    with (
        moving_origin(version(4 * MIB, 3, etag='"v1"')) as served,
        empty_cluster.orchestrator() as orchestrator,
    ):

        def empty_once(seen):
            served.on_request = lambda seen: None
            client.flushall()

        served.on_request = empty_once
        start(empty_cluster)
        job = orchestrator.submit(served.url, chunk_size_bytes=MIB)
        wait_until((empty_cluster.volume / "file").exists, seconds=60, what="the file")
        wait_until(lambda: job.status().state is JobState.COMPLETE, what="the record")
    wait_until_clean(empty_cluster.volume)


JOB, DAMAGED = "0123456789ab", "000000000001"


def plan_on_volume(here, job_id: str, cluster: str) -> None:
    folder = here.volume.job(job_id)
    folder.create()
    manifest = manifest_of_file(
        2 * MIB, job_id=job_id, destination=f"{job_id}.bin", chunk_size_bytes=MIB, layout=LayoutName.PARTS
    )
    assert folder.write_first_manifest(manifest.model_copy(update={"cluster": cluster}))


@pytest.mark.parametrize("state", [JobState.COMPLETE, JobState.CANCELLED, JobState.FAILED, JobState.PAUSED])
def test_a_job_of_another_cluster_that_has_the_same_id_is_let_be(empty_cluster: Cluster, state):
    with empty_cluster.host() as here:
        here.records.create([NewJob(JOB, "http://h/f", JobSpec(), "plain:{}")], now=1.0)
        here.records.transition(JOB, state)
        plan_on_volume(here, JOB, "another")
        look_at_volume(here)
        assert here.volume.job(JOB).read_manifest() is not None
        assert not here.volume.job(JOB).is_left


def test_a_damaged_job_on_the_volume_keeps_nobody_from_the_others(empty_cluster: Cluster):
    client = empty_cluster.redis.client()
    with empty_cluster.host() as here:
        plan_on_volume(here, DAMAGED, here.cluster)
        (here.volume.job(DAMAGED).path / "left").mkdir()
        plan_on_volume(here, JOB, here.cluster)
        unplanned = here.volume.root / ".orchestrator" / "unplanned"
        kept = UnplannedJob(
            job_id="00000000000b", url="http://h/f", spec=JobSpec(), sealed_request="", created_at=1.0,
            cluster=here.cluster,
        )  # fmt: skip
        here.volume.unplanned_jobs.keep(kept)
        for name, text in (
            ("00000000000a", kept.model_dump_json()),  # another's
            ("00000000000c", kept.model_dump_json().replace("b", "c", 1).replace("1.0", "NaN")),
            ("00000000000d", "nonsense"),
        ):
            (unplanned / f"{name}.json").write_text(text)
        (unplanned / "00000000000e.json").mkdir()
        client.sadd("manyhands:active", "00000000000f", "../../x")
        client.set("manyhands:job:00000000000f", "nonsense")
        client.hset("manyhands:job:../../x", "state", "queued")
        here.records.create([NewJob("0000000000ff", "http://h/f", JobSpec(), "plain:{}")], now=1.0)
        # Only of these: everything that is to be sent is sent by a worker.
        client.hset(f"manyhands:job:{JOB}", "state", "planning")
        client.hset("manyhands:job:00000000000b", "state", "queued")
        look_at_volume(here)
        assert (unplanned / "0000000000ff.json").exists()
        assert JOB in here.records.active()
        client.delete(f"manyhands:job:{JOB}", "manyhands:job:00000000000b")
    client.set("manyhands:sweep:volume", "of another worker, which is slow")
    empty_cluster.start_worker("--queues", "control")
    shown = empty_cluster.run("recover", "--json")
    assert json.loads(shown.stdout) == {"jobs": sorted([JOB, "00000000000b"], reverse=True)}, shown.stderr


def test_the_removal_of_a_folder_in_which_another_host_had_something_open_is_finished(empty_cluster: Cluster):
    rest = empty_cluster.volume / ".orchestrator" / "removed.0123456789ab.01234567" / "plan-0123456789ab"
    rest.mkdir(parents=True)
    (rest / ".nfs0000000000000001").write_bytes(b"x")
    with empty_cluster.host() as here:
        look_at_volume(here)
    assert list(empty_cluster.volume.iterdir()) == []
