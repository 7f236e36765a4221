"""Volumes on real small filesystems: layouts, and what a disk may do in the middle of a download."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager

import psutil
import pytest

from support.cluster import cluster
from support.disk_jobs import (
    CONTENT,
    assert_is_whole,
    failed,
    in_the_middle,
    kept_bytes,
    manifest_of,
    resumed,
)
from support.disks import disk
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.redis_server import redis_server
from support.system_helpers import stored_bytes, told_error
from support.tools import end, wait_until

KINDS = ["ext4", "xfs", "btrfs", "tmpfs"]
CLONING = {"xfs", "btrfs"}


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory):
    """A cluster of one worker whose volume is a disk of its own, and the disk."""
    folder = tmp_path_factory.mktemp(request.param)
    with (
        redis_server(folder) as redis,
        cluster(redis, folder) as one,
        disk(request.param, one.volume, folder) as its,
    ):
        one.start_worker("--concurrency", "4", ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.2")
        yield one, its


@contextmanager
def another_worker(one):
    """Another worker for chunks on the same volume."""
    worker = one.start_worker("--concurrency", "4", "--queues", "chunks")
    try:
        yield worker
    finally:
        end(worker)


def let_files_grow(worker, size_bytes):
    """Let a worker's files be only so large; RLIM_INFINITY: as large as they need to be."""
    supervisor = psutil.Process(worker.pid)
    for process in (supervisor, *supervisor.children(recursive=True)):
        process.rlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


@pytest.mark.parametrize("layout", ["auto", "shared", "parts"])
def test_each_layout_gives_the_file_and_auto_finds_the_best(place, served, layout):
    one, its = place
    served.gate.clear()
    started = one.run("submit", served.url, "--layout", layout, "--chunk-size", "4M", "--detach")
    job_id = started.stdout.strip()
    best = "parts" if its.kind in CLONING else "shared"
    assert manifest_of(one.volume)["layout"] == (best if layout == "auto" else layout)
    served.gate.set()
    done = one.run("wait", job_id)
    assert done.returncode == 0, done.stderr
    assert_is_whole(one.volume)


def test_space_is_looked_for_before_a_byte_moves(place, served):
    one, its = place
    its.fill(leave_bytes=20 * MIB)
    served.gate.clear()  # one block of the probe's answer, and no more
    done = one.run("submit", served.url, "--json")
    served.gate.set()
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "VolumeFull"
    assert "is full" in told_error(done.stderr)
    assert len(served.requests) == 1
    its.make_space()
    wait_until_clean(one.volume)


# Not on btrfs, whose free space changes by itself by tens of MiB.
@pytest.mark.parametrize("place", ["ext4", "xfs", "tmpfs"], indirect=True)
def test_without_room_for_the_parts_and_the_file_copying_is_refused_and_cloning_is_not(place, served):
    one, its = place
    its.fill(leave_bytes=36 * MIB)
    done = one.run("submit", served.url, "--layout", "parts", "--chunk-size", "4M", "--json")
    its.make_space()
    if its.kind in CLONING:
        assert done.returncode == 0, done.stderr
        assert_is_whole(one.volume)
    else:
        assert done.returncode == 4, done.stderr
        wait_until_clean(one.volume)


@pytest.mark.parametrize("layout", ["shared", "parts"])
def test_a_disk_that_fills_up_fails_the_job_and_resume_goes_on_when_there_is_space(place, served, layout):
    one, its = place
    job_id = in_the_middle(one, served, "--layout", layout)
    its.fill()
    failed(one, served, job_id, "VolumeFull")
    kept = kept_bytes(one.volume, job_id)
    assert kept > 0
    its.make_space()
    assert resumed(one, served, job_id) <= len(CONTENT) - kept
    assert_is_whole(one.volume)


@pytest.mark.parametrize("layout", ["shared", "parts"])
@pytest.mark.parametrize("place", ["btrfs"], indirect=True)
def test_a_quota_that_is_used_up_fails_the_job_and_resume_goes_on_when_it_is_raised(place, served, layout):
    one, its = place
    with its.quota():
        job_id = in_the_middle(one, served, "--layout", layout)
        its.allow(14 * MIB)
        said = failed(one, served, job_id, "VolumeFull")
        assert "quota" in said
        kept = kept_bytes(one.volume, job_id)
        assert kept > 0
        its.allow(None)
        assert resumed(one, served, job_id) <= len(CONTENT) - kept
        assert_is_whole(one.volume)


@pytest.mark.parametrize("size_bytes", [len(CONTENT), MIB // 2])
@pytest.mark.parametrize("place", ["btrfs"], indirect=True)
def test_a_quota_that_is_used_up_before_a_job_begins_leaves_nothing_and_resume_begins(place, size_bytes):
    """Of several chunks, and of one."""
    one, its = place
    with origin(CONTENT[:size_bytes]) as served, its.quota():
        its.allow(64 * 1024)
        done = one.run("submit", served.url, "--chunk-size", "4M", "--json")
        assert done.returncode == 4, done.stderr
        assert "quota" in told_error(done.stderr)
        record = json.loads(done.stdout)
        assert record["error"]["code"] == "VolumeFull"
        wait_until_clean(one.volume)
        assert list(one.volume.iterdir()) == []
        its.allow(None)
        resumed(one, served, record["job_id"])
        wait_until_clean(one.volume)
        assert (one.volume / "big.bin").read_bytes() == served.content
        (one.volume / "big.bin").unlink()


@pytest.mark.parametrize("place", ["ext4"], indirect=True)
def test_a_file_that_is_larger_than_files_may_be_is_refused_before_its_chunks(place, served):
    one, _ = place
    let_files_grow(one.workers[0], 8 * MIB)
    done = one.run("submit", served.url, "--chunk-size", "4M", "--layout", "shared", "--json")
    let_files_grow(one.workers[0], resource.RLIM_INFINITY)
    assert done.returncode == 4, done.stderr
    assert "file too large" in told_error(done.stderr)
    assert len(served.requests) == 1
    wait_until_clean(one.volume)
    resumed(one, served, json.loads(done.stdout)["job_id"])
    assert_is_whole(one.volume)


# Those that do not clone: the parts are copied, and the file is as large as all of them.
@pytest.mark.parametrize("place", ["ext4", "tmpfs"], indirect=True)
def test_a_disk_that_fills_up_while_parts_are_joined_keeps_them_and_nothing_of_the_file(place, served):
    one, its = place
    served.gate.clear()
    started = one.run(
        "submit", served.url, "--layout", "parts", "--chunk-size", "4M", "--connections", "4", "--detach"
    )
    job_id = started.stdout.strip()
    wait_until(lambda: len(served.requests) == 5, what="the probe and the job's four connections")
    # All parts have room, and of the file, which comes after them, the beginning.
    its.fill(leave_bytes=len(CONTENT) + 8 * MIB)
    served.gate.set()
    failed(one, served, job_id, "VolumeFull")
    assert kept_bytes(one.volume, job_id) == len(CONTENT)
    assert stored_bytes(one.volume) < len(CONTENT) + MIB
    its.make_space()
    assert resumed(one, served, job_id) == 0
    assert_is_whole(one.volume)


@pytest.mark.parametrize("layout", ["shared", "parts"])
@pytest.mark.parametrize("place", ["xfs"], indirect=True)
def test_one_worker_whose_files_may_not_grow_stops_the_others_too(place, served, layout):
    """What a volume does to one host alone."""
    one, _ = place
    with another_worker(one) as worker:
        job_id = in_the_middle(one, served, "--layout", layout)
        # In the middle of a block: of that, a part is still written.
        let_files_grow(worker, 2 * MIB + 777)
        said = failed(one, served, job_id, "VolumeFull")
        assert "file too large" in said
        told = f"job failed job={job_id}"
        assert told not in one.log(0)
        assert told in one.log(len(one.workers) - 1)
        kept = kept_bytes(one.volume, job_id)
        assert kept > 0
        let_files_grow(worker, resource.RLIM_INFINITY)
        assert resumed(one, served, job_id) <= len(CONTENT) - kept
        assert_is_whole(one.volume)


@pytest.mark.parametrize("place", ["ext4"], indirect=True)
def test_a_disk_that_becomes_read_only_is_told_and_resume_goes_on(place, served):
    one, its = place
    job_id = in_the_middle(one, served)
    its.become_read_only()
    failed(one, served, job_id, "VolumeReadOnly")
    its.unmount()
    its.mount()
    kept = kept_bytes(one.volume, job_id)
    assert kept > 0
    assert resumed(one, served, job_id) <= len(CONTENT) - kept
    assert_is_whole(one.volume)


def test_a_disk_that_is_remounted_read_only_is_told_and_resume_goes_on(place, served):
    one, its = place
    job_id = in_the_middle(one, served)
    # The kernel refuses it while a file is being written.
    assert one.run("pause", job_id).returncode == 0
    its.remount("ro")
    kept = kept_bytes(one.volume, job_id)
    assert one.run("resume", job_id).returncode == 0
    failed(one, served, job_id, "VolumeReadOnly")
    its.remount("rw")
    assert kept_bytes(one.volume, job_id) == kept > 0
    assert resumed(one, served, job_id) <= len(CONTENT) - kept
    assert_is_whole(one.volume)


# The shared file on the one, parts on the other.
@pytest.mark.parametrize("place", ["ext4", "xfs"], indirect=True)
def test_a_disk_that_breaks_down_loses_what_was_not_synced_and_no_wrong_byte_comes_of_it(place, served):
    one, its = place
    job_id = in_the_middle(one, served)
    its.break_down()
    # EIO: ext4 calls it read-only where it is asked for a new name.
    failed(one, served, job_id, "VolumeFailed", "VolumeReadOnly")
    its.unmount()
    its.mount()
    resumed(one, served, job_id)
    assert_is_whole(one.volume)


# The shared file on the one, parts on the other.
@pytest.mark.parametrize("place", ["ext4", "btrfs"], indirect=True)
def test_nothing_is_written_below_a_disk_that_was_torn_away(place, served):
    one, its = place
    job_id = in_the_middle(one, served)
    its.tear_away()
    failed(one, served, job_id, "VolumeMissing")
    assert list(one.volume.iterdir()) == []
    # Nor by who comes too early, or anew.
    assert one.run("resume", job_id).returncode == 0
    failed(one, served, job_id, "VolumeMissing")
    done = one.run("submit", served.url, "-o", "other.bin")
    assert "is not mounted" in told_error(done.stderr)
    assert done.returncode == 4
    assert list(one.volume.iterdir()) == []
    its.mount()
    kept = kept_bytes(one.volume, job_id)
    # Of 12 MiB: each of four connections loses what came since its last checkpoint.
    assert kept > 4 * MIB
    assert resumed(one, served, job_id) <= len(CONTENT) - kept
    assert_is_whole(one.volume)
