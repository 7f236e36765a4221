"""Volumes on real small filesystems: layouts, and what a disk may do in the middle of a download."""

from __future__ import annotations

import json
import random

import pytest

from support.cluster import cluster
from support.disks import disk
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.redis_server import redis_server
from support.system_helpers import stored_bytes, told_error
from support.tools import wait_until

CONTENT = random.Random(13).randbytes(24 * MIB + 5)
KINDS = ["ext4", "xfs", "btrfs", "tmpfs"]
CLONING = {"xfs", "btrfs"}
#: What a connection may lose that cannot leave a last checkpoint, and what a socket's buffer holds.
LOST_BYTES = 4 * (2 + 3) * MIB


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


def manifest_of(volume):
    """The only job's manifest, as soon as there is one."""
    paths = []

    def is_there():
        paths[:] = volume.glob(".orchestrator/*/manifest.json")
        return paths

    wait_until(is_there, what="a manifest")
    return json.loads(paths[0].read_text())


def assert_is_whole(volume):
    wait_until_clean(volume)
    assert [path.name for path in volume.iterdir() if path.name != "lost+found"] == ["big.bin"]
    assert (volume / "big.bin").read_bytes() == CONTENT
    (volume / "big.bin").unlink()


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


def in_the_middle(one, served, *options):
    """A job that has some of its bytes; its id."""
    served.bytes_per_second = 1.5 * MIB
    started = one.run("submit", served.url, "--chunk-size", "4M", "--detach", *options)
    assert started.returncode == 0, started.stderr
    wait_until(lambda: stored_bytes(one.volume) > 12 * MIB, what="the middle of the job")
    return started.stdout.strip()


def failed(one, served, job_id, *codes):
    """Wait until the job has failed, as a user does; and that all of its connections are closed."""
    done = one.run("wait", job_id, "--json")
    assert done.returncode == 4, done.stderr + done.stdout
    assert json.loads(done.stdout)["error"]["code"] in codes, done.stdout
    wait_until(lambda: served.open_count == 0, what="all connections being closed")
    served.bytes_per_second = None


def resumed(one, job_id):
    done = one.run("resume", job_id)
    assert done.returncode == 0, done.stderr
    done = one.run("wait", job_id)
    assert done.returncode == 0, done.stderr + one.log()


@pytest.mark.parametrize("layout", ["shared", "parts"])
def test_a_disk_that_fills_up_fails_the_job_and_resume_goes_on_when_there_is_space(place, served, layout):
    one, its = place
    job_id = in_the_middle(one, served, "--layout", layout)
    its.fill()
    failed(one, served, job_id, "VolumeFull")
    assert not (one.volume / "big.bin").exists()
    kept_bytes = stored_bytes(one.volume)
    assert kept_bytes > 8 * MIB
    its.make_space()
    served.served_bytes = 0
    resumed(one, job_id)
    assert_is_whole(one.volume)
    assert served.served_bytes < len(CONTENT) - kept_bytes + LOST_BYTES


@pytest.mark.parametrize("place", ["ext4"], indirect=True)
def test_a_disk_that_becomes_read_only_is_told_and_resume_goes_on(place, served):
    one, its = place
    job_id = in_the_middle(one, served)
    its.become_read_only()
    failed(one, served, job_id, "VolumeReadOnly")
    its.unmount()
    its.mount()
    resumed(one, job_id)
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
    resumed(one, job_id)
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
    served.served_bytes = 0
    resumed(one, job_id)
    assert_is_whole(one.volume)
    assert served.served_bytes < len(CONTENT) - 12 * MIB + LOST_BYTES
