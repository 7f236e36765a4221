"""Pruning: what goes, what stays, and that nothing in Redis stays for ever."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import time

import pytest

from orchestrator import JobEndedBadly
from orchestrator.asking import NotAnswered
from support.cluster import Cluster
from support.files import MIB, leftovers, wait_until_clean
from support.manifests import manifest_of_file
from support.origin import origin
from support.tools import wait_until
from tasks.host import records_of
from tasks.jobs import JobError, JobState
from tasks.prune import prune, prune_by_age
from tasks.records import NewJob, Progress
from tasks.records.queues import CHUNKS_LISTS
from tasks.settings import Settings
from tasks.transfer.manifest import JobSpec, LayoutName, Span, UnplannedJob
from tasks.transfer.volume import Volume

CONTENT = random.Random(17).randbytes(8 * MIB)
DAY = 24 * 3600
WEEK = 7 * DAY
PART_BYTES = 1 * MIB

#: What stays in Redis for ever, because it does not grow with the number of jobs: kombu's queues, and what it calls
#: bindings, of our queues and of Celery's own for remote control and events.
FIXED_KEYS = (
    {f"_kombu.binding.{queue}" for queue in ("control", "merge", *CHUNKS_LISTS)}
    | {f"_kombu.binding_permanent.{queue}" for queue in ("control", "merge", *CHUNKS_LISTS)}
    | {"_kombu.binding.celery.pidbox", "_kombu.binding.celeryev", "_kombu.binding.reply.celery.pidbox"}
    | {"_kombu.binding_deadlines"}
    | {"names", "workers", "hosts"}
)


@pytest.fixture
def records(redis):
    redis.client().flushall()
    one = records_of(
        Settings(redis_url=redis.url, key_prefix="t:", redis_timeout_seconds=5, record_age_seconds=10 * DAY)
    )
    yield one
    one.close()


@pytest.fixture
def volume(tmp_path):
    return Volume(tmp_path)


def age(path, seconds):
    """Have everything in a folder look that old."""
    at = time.time() - seconds
    for each in (*path.rglob("*"), path):
        os.utime(each, (at, at), follow_symlinks=False)


def leave_parts(volume, job_id, *, seconds=0, left_as=None):
    """What a job has on the volume that came so far: a part, a manifest, a reservation."""
    folder = volume.job(job_id)
    manifest = manifest_of_file(
        4 * PART_BYTES,
        job_id=job_id,
        destination=f"{job_id}.bin",
        chunk_size_bytes=PART_BYTES,
        layout=LayoutName.PARTS,
    )
    folder.create()
    assert folder.write_first_manifest(manifest)
    (folder.path / f"plan-{manifest.plan_name}" / "00000.part").write_bytes(bytes(PART_BYTES))
    volume.reserve(manifest.destination, job_id, is_active=lambda _: False)
    if left_as:
        folder.mark_left(left_as)
    age(folder.path, seconds)
    return folder.path


def record(records, job_id, state, *, ended_seconds=0, **fields):
    created_at = time.time() - ended_seconds - 100
    records.create([NewJob(job_id, "http://h/f", JobSpec(), "plain:{}")], now=created_at)
    if state is not JobState.QUEUED:
        fields |= {"finished_at": repr(time.time() - ended_seconds)} if state.is_final else {}
        assert records.transition(job_id, state, fields=fields)


def test_what_another_cluster_is_at_stays_though_its_job_has_the_same_id(records, volume):
    """With one secret key, batches of the same list have jobs of the same ids."""
    job_id = new_id()
    record(records, job_id, JobState.COMPLETE, ended_seconds=8 * DAY)
    path = leave_parts(volume, job_id)
    folder = volume.job(job_id)
    records.join("this one")
    folder.write_manifest(folder.read_manifest().model_copy(update={"cluster": "another"}))
    assert prune(volume, records, older_than_seconds=9 * DAY).jobs == []
    assert prune(volume, records, older_than_seconds=WEEK).jobs == [job_id], "the record"
    assert path.exists()
    folder.write_manifest(folder.read_manifest().model_copy(update={"cluster": "this one"}))
    record(records, job_id, JobState.COMPLETE)
    assert prune(volume, records, older_than_seconds=WEEK).jobs == [job_id]
    assert not path.exists()


def new_id():
    return secrets.token_hex(6)


@pytest.mark.parametrize("state", [state for state in JobState if not state.is_final])
def test_a_job_that_is_active_or_paused_is_never_touched(records, volume, state):
    job_id = new_id()
    record(records, job_id, state, ended_seconds=2 * WEEK)
    path = leave_parts(volume, job_id, seconds=2 * WEEK)
    before = leftovers(volume.root), sorted(path.rglob("*"))
    pruned = prune(volume, records, older_than_seconds=0)
    assert (pruned.jobs, pruned.bytes, pruned.leftovers_count) == ([], 0, 0)
    assert (leftovers(volume.root), sorted(path.rglob("*"))) == before
    assert records.state(job_id) is state
    # Another cluster that shares the volume, and whose Redis does not know it, leaves it alone too from now on.
    assert prune(volume, None, older_than_seconds=0).jobs == []


@pytest.mark.parametrize(
    ("state", "ended_seconds", "fields", "keeps_record", "keeps_parts"),
    [
        (JobState.FAILED, 2 * DAY, {}, True, True),
        (JobState.FAILED, 8 * DAY, {}, False, False),
        (JobState.CANCELLED, 2 * DAY, {"keeps_parts": 1}, True, True),
        (JobState.CANCELLED, 8 * DAY, {"keeps_parts": 1}, False, False),
        (
            JobState.CANCELLED,
            0,
            {"keeps_parts": 0},
            True,
            False,
        ),  # the message that was to remove them was lost
        (JobState.COMPLETE, 0, {}, True, False),  # the merge died before it cleaned up
        (JobState.COMPLETE, 8 * DAY, {}, False, False),
    ],
)
def test_a_job_that_ended_goes_with_its_parts_when_its_time_has_come(
    records, redis, volume, state, ended_seconds, fields, keeps_record, keeps_parts
):
    job_id = new_id()
    record(records, job_id, state, ended_seconds=ended_seconds, **fields)
    redis.client().hset(f"t:job:{job_id}:bytes", "0", PART_BYTES)
    leave_parts(volume, job_id, seconds=ended_seconds)
    would = prune(volume, records, older_than_seconds=WEEK, is_dry_run=True)
    assert leftovers(volume.root) == [".orchestrator", job_id, "reserved"]
    assert records.state(job_id) is state
    pruned = prune(volume, records, older_than_seconds=WEEK)
    assert pruned == would.model_copy(update={"is_dry_run": False})
    assert pruned.jobs == ([] if keeps_record and keeps_parts else [job_id])
    assert (records.state(job_id) is not None) == keeps_record
    if keeps_parts:
        assert (pruned.bytes, pruned.leftovers_count) == (0, 0)
        assert leftovers(volume.root) == [".orchestrator", job_id, "reserved"]
    else:
        assert PART_BYTES <= pruned.bytes < 2 * PART_BYTES
        assert leftovers(volume.root) == []
    if not keeps_record:
        assert list(redis.client().scan_iter("t:*")) == []


@pytest.mark.parametrize(
    ("seconds", "left_as", "older_than_seconds", "stays"),
    [
        (2 * DAY, None, WEEK, True),
        (8 * DAY, None, WEEK, False),
        (3600, None, 0, True),  # another cluster's chunks may wait for hours
        (25 * 3600, None, 0, False),
        (3600, "ended", 0, False),
        (2 * DAY, "ended", WEEK, True),
        (8 * DAY, "ended", WEEK, False),
        (8 * DAY, "paused", WEEK, True),
    ],
)
@pytest.mark.parametrize("has_cluster", [False, True])
def test_parts_of_unknown_jobs_go_when_nobody_has_written_to_them(
    records, volume, seconds, left_as, older_than_seconds, stays, has_cluster
):
    job_id = new_id()
    leave_parts(volume, job_id, seconds=seconds, left_as=left_as)
    pruned = prune(volume, records if has_cluster else None, older_than_seconds=older_than_seconds)
    assert pruned.jobs == ([] if stays else [job_id])
    assert leftovers(volume.root) == ([".orchestrator", job_id, "reserved"] if stays else [])


def test_one_file_that_is_written_keeps_an_unknown_job(records, volume):
    job_id = new_id()
    path = leave_parts(volume, job_id, seconds=30 * DAY)
    part = next(path.rglob("*.part"))
    os.utime(part)
    assert prune(volume, records, older_than_seconds=0).jobs == []
    assert part.exists()


def test_what_was_asked_for_of_jobs_without_a_plan_goes_when_nobody_has_waited_for_long(records, volume):
    waiting, young, old = new_id(), new_id(), new_id()
    record(records, waiting, JobState.QUEUED)
    unplanned = volume.unplanned_jobs
    for job_id, seconds in ((waiting, 2 * WEEK), (young, DAY / 2), (old, 2 * DAY)):
        unplanned.keep(
            UnplannedJob(
                job_id=job_id,
                url="http://h/f",
                spec=JobSpec(),
                sealed_request="",
                created_at=1.0,
                cluster="c",
            )
        )
        age(unplanned._of(job_id), seconds)
    assert prune(volume, records, older_than_seconds=0, is_dry_run=True).leftovers_count == 1
    assert unplanned.job_ids() == sorted([waiting, young, old])
    assert prune(volume, records, older_than_seconds=0).leftovers_count == 1
    assert unplanned.job_ids() == sorted([waiting, young])


def test_links_that_somebody_planted_are_not_followed(records, volume, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").write_bytes(b"mine")
    age(outside, 30 * DAY)
    job_id = new_id()
    path = leave_parts(volume, job_id)
    (path / "link").symlink_to(outside)
    (path / "plan-x").symlink_to(outside)
    age(path, 30 * DAY)
    for name in (new_id(), f"removed.{new_id()}.0a0b0c0d"):
        (path.parent / name).symlink_to(outside)
    (volume.root / ".orchestrator.0a0b0c0d.new").symlink_to(outside)
    (path.parent / "reserved" / f"{'0' * 32}.0a0b0c0d").symlink_to(outside / "precious")
    age(path.parent / "reserved", 30 * DAY)
    pruned = prune(volume, records, older_than_seconds=WEEK)
    assert pruned.jobs == [job_id]
    assert (outside / "precious").read_bytes() == b"mine"
    assert list(outside.iterdir()) == [outside / "precious"]


def test_a_volume_whose_own_folder_is_a_link_is_left_alone(records, volume, tmp_path_factory):
    outside = Volume(tmp_path_factory.mktemp("outside"))
    job_id = new_id()
    path = leave_parts(outside, job_id, seconds=30 * DAY)
    (volume.root / ".orchestrator").symlink_to(path.parent)
    assert prune(volume, records, older_than_seconds=0).jobs == []
    assert path.exists()


def test_what_dead_writers_left_goes_and_what_is_being_written_stays(records, volume):
    job_id = new_id()
    record(records, job_id, JobState.FETCHING)
    path = leave_parts(volume, job_id)
    folder, reserved = path.parent, path.parent / "reserved"
    taken = next(reserved.iterdir()).name
    old = [
        folder / f"removed.{new_id()}.0a0b0c0d",
        volume.root / ".orchestrator.0a0b0c0d.new",
        reserved / f"{taken}.0a0b0c0d",
        reserved / f"{taken}.0a0b0c0d.first",
        reserved / f"{taken}.0a0b0c0d.first.0a0b0c0d.new",
    ]
    young = [volume.root / ".orchestrator.0a0b0c0e.new", reserved / f"{taken}.0a0b0c0e.first"]
    others = [volume.root / ".orchestrator.backup.new", folder / "notes", reserved / "notes"]
    for each in (*old, *young, *others):
        if each.parent == reserved:
            each.write_text(job_id)
        else:
            (each / "plan-x").mkdir(parents=True)
            (each / "plan-x" / "00000.part").write_bytes(bytes(PART_BYTES))
        if each not in young:
            os.utime(each, (0, 0))
    would = prune(volume, records, older_than_seconds=WEEK, is_dry_run=True)
    assert all(each.exists() for each in (*old, *young, *others))
    pruned = prune(volume, records, older_than_seconds=WEEK)
    assert pruned.leftovers_count == would.leftovers_count == len(old)
    assert 2 * PART_BYTES <= pruned.bytes == would.bytes
    assert not any(each.exists() for each in old)
    assert all(each.exists() for each in (*young, *others, path, reserved / taken))


def test_reservations_of_jobs_that_are_gone_end_and_others_stay(records, volume):
    gone, active, planned = new_id(), new_id(), new_id()
    record(records, active, JobState.FETCHING)
    for job_id in (gone, active):
        leave_parts(volume, job_id)
        shutil.rmtree(volume.job(job_id).path)
    volume.job(planned).create()  # another cluster's, that has not come to a manifest
    volume.reserve("planned.bin", planned, is_active=lambda _: False)
    assert prune(volume, records, older_than_seconds=WEEK).leftovers_count == 1
    assert sorted(filter(None, volume.reservations().values())) == sorted([active, planned])


def test_published_bytes_are_not_counted_as_given_back(records, volume):
    job_id = new_id()
    record(records, job_id, JobState.COMPLETE)
    path = leave_parts(volume, job_id)
    published = volume.root / "file.bin"
    published.hardlink_to(next(path.rglob("*.part")))
    assert prune(volume, records, older_than_seconds=WEEK).bytes < PART_BYTES
    assert published.stat().st_size == PART_BYTES
    assert leftovers(volume.root) == []


def test_ten_thousand_folders_are_pruned(records, volume):
    old = [new_id() for _ in range(5000)]
    (volume.root / ".orchestrator").mkdir(0o700)
    for job_id in old:
        path = volume.job(job_id).path
        path.mkdir()
        os.utime(path, (0, 0))
    failed = [new_id() for _ in range(5000)]
    records.create([NewJob(each, "http://h/f", JobSpec(), "plain:{}") for each in failed], now=1.0)
    for job_id in failed:
        records.fail(job_id, JobError(code="X", message="x"))
        volume.job(job_id).path.mkdir()
    pruned = prune(volume, records, older_than_seconds=WEEK)
    assert pruned.jobs == sorted(old)
    assert sorted(volume.job_ids()) == sorted(failed)


def test_jobs_whose_records_expired_leave_the_list(records, redis, volume):
    kept, expired = new_id(), new_id()
    for job_id in (kept, expired):
        record(records, job_id, JobState.FAILED)
    redis.client().delete(f"t:job:{expired}")
    prune(volume, records, older_than_seconds=WEEK)
    assert redis.client().zrange("t:jobs", 0, -1) == [kept]


def test_reports_of_jobs_that_have_no_record_expire(records, redis, volume):
    job_id = new_id()
    progress = Progress(job_id, Span(0), 1, 7, None, "h/a", "http://h:80")
    # A worker that asked for a connection when the record was gone, and died.
    records.acquire(progress, origin_limit=9, job_limit=9, length_bytes=9)
    live = new_id()
    record(records, live, JobState.FETCHING)
    redis.client().hset(f"t:job:{live}:bytes", "0", 7)
    prune(volume, records, older_than_seconds=WEEK)
    assert all(redis.client().ttl(f"t:job:{job_id}:{kind}") > 0 for kind in ("bytes", "speeds", "leases"))
    assert redis.client().ttl(f"t:job:{live}:bytes") == -1


def test_nothing_is_removed_without_redis(volume):
    away = records_of(
        Settings(
            redis_url="redis://127.0.0.1:1/0", key_prefix="t:", redis_timeout_seconds=1, record_age_seconds=60
        )
    )
    path = leave_parts(volume, new_id(), seconds=30 * DAY)
    with pytest.raises(Exception, match="cannot be reached"):
        prune(volume, away, older_than_seconds=0)
    assert path.exists()


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def test_after_jobs_of_every_end_each_key_in_redis_has_a_time_to_go(empty_cluster: Cluster, served):
    redis = empty_cluster.redis.client()
    empty_cluster.start_worker("--concurrency", "4")
    with empty_cluster.orchestrator() as orchestrator:
        complete = orchestrator.submit(served.url, chunk_size_bytes=1 * MIB)
        complete.wait(60)
        complete.verify(60)
        served.bytes_per_second = 1 * MIB
        cancelled, kept, failed = (
            orchestrator.submit(served.url, f"{name}.bin", chunk_size_bytes=1 * MIB)
            for name in ("cancelled", "kept", "failed")
        )
        for job in (cancelled, kept, failed):
            wait_until(lambda job=job: job.status().connections_count > 0, what="connections")
        cancelled.cancel()
        kept.cancel(keeps_parts=True)
        served.statuses = [404] * 4
        with pytest.raises(JobEndedBadly):
            failed.wait(60)
        orchestrator.submit(f"{served.url}?small", "small.bin", chunk_size_bytes=64 * MIB)
        wait_until(lambda: not any(each.state.is_active for each in orchestrator.list()), what="all ends")
        wait_until(lambda: not redis.hlen("manyhands:unacked"), what="the end of all messages")
        orchestrator.prune()
        jobs_count = len(orchestrator.list())

        def immortal():
            keys = {
                key.removeprefix("manyhands:") for key in redis.scan_iter(count=1000) if redis.ttl(key) == -1
            }
            return {key for key in keys - FIXED_KEYS if not key.endswith(".reply.celery.pidbox")}

        wait_until(lambda: immortal() == {"jobs"}, what="a Redis of keys that expire")
        assert redis.zcard("manyhands:jobs") == jobs_count == 5
        served.bytes_per_second = None
        orchestrator.prune(0)
        # Three records are the last of their jobs; each of the others had parts as well, which are gone with them.
        assert orchestrator.list() == []
        assert not redis.exists("manyhands:jobs")
        assert not list(redis.scan_iter("manyhands:job:*"))
    wait_until_clean(empty_cluster.volume)


def test_the_command_has_a_worker_prune_and_says_what_went(empty_cluster: Cluster, served):
    volume = Volume(empty_cluster.volume)
    job_id = new_id()
    leave_parts(volume, job_id, seconds=10 * DAY)
    young = new_id()
    leave_parts(volume, young, seconds=2 * DAY)
    with empty_cluster.orchestrator() as orchestrator, pytest.raises(NotAnswered, match="Is there a worker"):
        orchestrator.prune(is_dry_run=True, timeout_seconds=1)
    # By age it would do so by itself.
    empty_cluster.start_worker("--queues", "merge", ORCHESTRATOR_RECORD_AGE_SECONDS=str(90 * DAY))
    would = empty_cluster.run("prune", "--dry-run")
    assert (would.returncode, would.stdout) == (0, "would be removed: 1 job, 1.1 MB on the volume\n")
    assert volume.job(job_id).path.exists()
    shown = json.loads(empty_cluster.run("prune", "--json").stdout)
    assert (shown["jobs"], shown["stuck"], shown["is_dry_run"]) == ([job_id], [], False)
    assert empty_cluster.run("prune").stdout == "nothing to remove\n"
    assert volume.job(young).path.exists()
    assert empty_cluster.run("prune", "--older-than", "1d").stdout.startswith("removed: 1 job, 1.1 MB")
    assert leftovers(empty_cluster.volume) == []
    wrong = empty_cluster.run("prune", "--older-than", "soon")
    assert wrong.returncode == 2
    assert "is not an age such as" in wrong.stderr


def test_a_worker_prunes_by_the_age_of_records(empty_cluster: Cluster):
    with empty_cluster.host() as here:
        old, young = new_id(), new_id()
        for job_id, seconds in ((old, WEEK + 60), (young, WEEK - 60)):
            record(here.records, job_id, JobState.FAILED, ended_seconds=seconds)
            leave_parts(here.volume, job_id)
        assert prune_by_age(here).jobs == [old]
        assert here.volume.job_ids() == [young]


def test_a_worker_without_its_volume_says_so(empty_cluster: Cluster):
    empty_cluster.start_worker("--queues", "merge")
    empty_cluster.volume.rename(empty_cluster.volume.with_name("away"))
    done = empty_cluster.run("prune")
    assert done.returncode == 4
    assert "volume" in done.stderr


def test_without_a_cluster_the_volume_here_is_pruned(empty_cluster: Cluster, tmp_path):
    runtime = tmp_path / "runtime"
    runtime.mkdir(0o700)
    alone = {"ORCHESTRATOR_REDIS_URL": "", "XDG_RUNTIME_DIR": str(runtime)}
    volume = Volume(empty_cluster.volume)
    job_id = new_id()
    leave_parts(volume, job_id, seconds=3600, left_as="ended")
    assert empty_cluster.run("prune", **alone).stdout == "nothing to remove\n"
    done = empty_cluster.run("prune", "--older-than", "30m", **alone)
    assert (done.returncode, done.stdout) == (0, "removed: 1 job, 1.1 MB on the volume\n")
    assert leftovers(empty_cluster.volume) == []
