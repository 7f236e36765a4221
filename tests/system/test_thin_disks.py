"""Volumes whose own disk fails: what was written is not there, and the kernel says so once, or never again."""

from __future__ import annotations

import pytest

from support.cluster import cluster
from support.disk_jobs import CONTENT, assert_is_whole, failed, in_the_middle, resumed
from support.disks import disk
from support.origin import origin
from support.redis_server import redis_server

#: The system's word depends on who of the writers hears it first.
CODES = ("VolumeFull", "VolumeFailed", "VolumeReadOnly")


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def place(request, tmp_path):
    """A cluster, its volume's disk, and what is below that: a disk which has the first one's image."""
    kind, kind_below = request.param
    below_folder = tmp_path / "below"
    below_folder.mkdir()
    with (
        redis_server(tmp_path) as redis,
        cluster(redis, tmp_path) as one,
        disk(kind_below, below_folder, tmp_path) as below,
        disk(kind, one.volume, below_folder) as its,
    ):
        one.start_worker("--concurrency", "4", ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.2")
        yield one, its, below


@pytest.mark.parametrize(
    ("place", "layout"),
    [
        (("ext4", "tmpfs"), "shared"),
        (("xfs", "tmpfs"), "shared"),
        (("xfs", "tmpfs"), "parts"),
        (("btrfs", "tmpfs"), "parts"),
    ],
    indirect=["place"],
)
def test_a_thin_disk_without_blocks_left_fails_the_job_and_no_wrong_byte_comes_of_it(place, served, layout):
    one, its, below = place
    job_id = in_the_middle(one, served, "--layout", layout)
    below.fill()
    failed(one, served, job_id, *CODES)
    below.make_space()
    if its.kind != "xfs":
        # They have become read-only; xfs goes on, and has pages in memory that are not on the disk.
        its.unmount()
        its.mount()
    resumed(one, served, job_id)
    # From the disk, not from memory.
    its.unmount()
    its.mount()
    assert_is_whole(one.volume)


# The shared file on the first, parts on the others.
@pytest.mark.parametrize("place", [("ext4", "ext4"), ("xfs", "ext4"), ("btrfs", "ext4")], indirect=True)
def test_a_disk_that_answers_with_errors_fails_the_job_and_no_wrong_byte_comes_of_it(place, served):
    one, its, below = place
    job_id = in_the_middle(one, served)
    below.break_down()
    failed(one, served, job_id, *CODES)
    its.unmount()
    its.detach()
    below.unmount()
    below.mount()
    its.attach()
    its.mount()
    resumed(one, served, job_id)
    its.unmount()
    its.mount()
    assert_is_whole(one.volume)
