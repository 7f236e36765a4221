"""Messages that come twice, twice at once, too early, too late: chunks, merges and plans of one job."""

from __future__ import annotations

import hashlib
import random

import pytest

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.manifests import manifest_of_file
from support.origin import origin
from support.stopping import stopped
from support.tools import wait_until
from tasks.app import FETCH_TASK, MERGE_TASK, PLAN_TASK, QUEUES
from tasks.jobs import JobState
from tasks.transfer.digests import crc32c
from tasks.transfer.manifest import LayoutName
from tasks.transfer.volume import Volume

CONTENT = random.Random(13).randbytes(12 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LAYOUTS = [LayoutName.PARTS, LayoutName.SHARED]
OPTIONS = {"chunk_size_bytes": 2 * MIB, "sha256": SHA256}
CHUNKS_COUNT = 7


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def two_workers(empty_cluster: Cluster):
    """A plan and a merge that come twice may run at the same time in two processes, or in one."""
    for _ in range(2):
        empty_cluster.start_worker("--concurrency", "2", "--processes", "1")
    return empty_cluster


class Sender:
    """Sends messages of a job by hand."""

    def __init__(self, one: Cluster, orchestrator, job) -> None:
        self._cluster = one
        self._celery = orchestrator._celery()
        self._job_id = job.job_id

    def chunks(self, generation, *numbers):
        for number in numbers:
            self._send(FETCH_TASK, self._job_id, generation, number)

    def merges(self, *generations):
        for generation in generations:
            self._send(MERGE_TASK, self._job_id, generation)

    def plans(self, count, **named):
        for _ in range(count):
            self._celery.send_task(PLAN_TASK, args=(self._job_id,), kwargs=named, ignore_result=True)

    def _send(self, task, *args):
        self._celery.send_task(task, args=args, ignore_result=True)

    def wait_until_idle(self):
        """Until no message waits and none is being worked on."""
        client = self._cluster.redis.client()
        # Seen three times: a message that was taken is not among the unacknowledged at once.
        for _ in range(3):
            wait_until(
                lambda: not self._cluster.waiting_count(*QUEUES) and not client.hlen("manyhands:unacked"),
                seconds=60,
                what="the end of all messages",
            )


def assert_one_file(one: Cluster, orchestrator, record):
    assert [path.name for path in one.volume.iterdir() if path.is_file()] == ["big.bin"]
    assert (one.volume / "big.bin").read_bytes() == CONTENT
    assert record.state is JobState.COMPLETE
    assert (record.sha256, record.bytes_done) == (SHA256, len(CONTENT))
    assert record.chunks_done == record.chunks_count == CHUNKS_COUNT
    assert [each.job_id for each in orchestrator.list()] == [record.job_id]
    wait_until_clean(one.volume)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_while_the_job_runs_and_after_its_end(two_workers: Cluster, served, layout):
    served.bytes_per_second = 2 * MIB
    with two_workers.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, layout=layout, **OPTIONS)
        wait_until(lambda: job.status().bytes_done > 0, what="first bytes")
        send = Sender(two_workers, orchestrator, job)
        send.chunks(1, 0, 0, 3, 3, 6, 99)
        send.merges(1, 1)  # too early: what is missing is sent again, as a newer generation
        send.plans(2)  # they find nothing to plan
        send.plans(2, resends=True)
        send.chunks(2, 1, 1)
        served.bytes_per_second = None
        job.wait(90)
        send.wait_until_idle()
        assert_one_file(two_workers, orchestrator, job.status())
        before = (two_workers.volume / "big.bin").stat()
        for generation in range(1, 6):
            send.merges(generation, generation)
            send.chunks(generation, 0, 3, 3)
        send.plans(2)
        send.plans(2, resends=True)
        send.plans(1, void_generation=1)
        send.wait_until_idle()
        assert_one_file(two_workers, orchestrator, job.status())
    after = (two_workers.volume / "big.bin").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino, after.st_mtime_ns, after.st_ctime_ns
    )  # fmt: skip


def test_a_chunk_and_a_merge_before_there_is_a_manifest(empty_cluster: Cluster, served):
    """Before, the job failed when the chunk's retries were used up, however well its plan went on."""
    planner = empty_cluster.start_worker("--queues", "control")
    served.bytes_per_second = MIB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=len(CONTENT), sha256=SHA256)
        wait_until(lambda: job.status().bytes_done > 0, what="first bytes of the plan")
        with stopped(planner, seconds=0):
            assert Volume(empty_cluster.volume).job(job.job_id).read_manifest() is None
            send = Sender(empty_cluster, orchestrator, job)
            send.chunks(1, 0, 0)
            send.merges(1, 1)
            empty_cluster.start_worker("--queues", "chunks,merge")
            client = empty_cluster.redis.client()
            wait_until(
                lambda: (empty_cluster.waiting_count(*QUEUES), client.hlen("manyhands:unacked")) == (0, 1),
                what="the end of all messages but the plan's",
            )
            assert job.status().state is JobState.PLANNING
        served.bytes_per_second = None
        record = job.wait(60)
    assert (record.state, record.retries_count) == (JobState.COMPLETE, 0)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    wait_until_clean(empty_cluster.volume)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_merges_of_one_sending_at_once(empty_cluster: Cluster, served, layout):
    empty_cluster.start_worker("--concurrency", "2", "--queues", "control,chunks")
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, layout=layout, **OPTIONS)
        wait_until(lambda: job.status().chunks_done == CHUNKS_COUNT, what="all chunks")
        send = Sender(empty_cluster, orchestrator, job)
        send.merges(1, 1, 1, 1)
        for _ in range(2):
            empty_cluster.start_worker("--queues", "merge")
        job.wait(60)
        send.wait_until_idle()
        assert_one_file(empty_cluster, orchestrator, job.status())


def test_after_the_job_was_cancelled(two_workers: Cluster, served):
    served.bytes_per_second = MIB
    with two_workers.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, **OPTIONS)
        wait_until(lambda: job.status().bytes_done > MIB, what="some bytes")
        assert job.cancel()
        wait_until_clean(two_workers.volume)
        send = Sender(two_workers, orchestrator, job)
        send.chunks(1, 0, 0, 3)
        send.merges(1, 1)
        send.plans(2)
        send.plans(2, resends=True)
        send.plans(1, void_generation=1)
        send.wait_until_idle()
        assert job.status().state is JobState.CANCELLED
        assert list(two_workers.volume.iterdir()) == []
        # And once more after it was revived: what an older sending still says is fenced off, or of use.
        assert job.resume()
        wait_until(lambda: job.status().bytes_done > 0, what="first bytes")
        send.chunks(1, 0, 0, 3)
        send.merges(1, 1)
        send.plans(2)
        served.bytes_per_second = None
        job.wait(90)
        send.wait_until_idle()
        assert_one_file(two_workers, orchestrator, job.status())


def test_messages_of_an_older_sending_after_a_resume(two_workers: Cluster, served):
    served.bytes_per_second = MIB
    with two_workers.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, **OPTIONS)
        wait_until(lambda: job.status().bytes_done > MIB, what="some bytes")
        assert job.pause()
        wait_until(lambda: served.open_count == 0, what="all connections closed")
        send = Sender(two_workers, orchestrator, job)
        send.merges(1)
        send.chunks(1, 5)
        send.wait_until_idle()
        assert job.status().state is JobState.PAUSED
        assert job.resume()
        wait_until(lambda: job.status().state is JobState.FETCHING, what="fetching")
        send.chunks(1, 0, 0, 5)
        send.merges(1, 1)
        served.bytes_per_second = None
        record = job.wait(90)
        send.wait_until_idle()
        assert_one_file(two_workers, orchestrator, job.status())
        assert sum(share.bytes for share in record.workers.values()) == len(CONTENT)


def test_a_plan_that_died_right_after_publishing(empty_cluster: Cluster):
    content = CONTENT[:100_000]
    with origin(content) as small, empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(small.url)
        folder = Volume(empty_cluster.volume).job(job.job_id)
        manifest = manifest_of_file(len(content), chunk_size_bytes=len(content), job_id=job.job_id,
                                    destination="big.bin", layout=LayoutName.PARTS)  # fmt: skip
        folder.create()
        folder.make_plan_folder(manifest)
        with folder.open_part(manifest, manifest.chunk(0)) as part:
            part.write(content)
            receipt = part.complete("h")
        volume = Volume(empty_cluster.volume)
        assert volume.reserve("big.bin", job.job_id, is_active=lambda _: False) is None
        volume.publish(folder.join(manifest, [receipt]), "big.bin", overwrite=False, sync=True)
        empty_cluster.start_worker("--queues", "control")
        record = job.wait(60)
    assert int(record.crc32c, 16) == crc32c(content)
    assert (empty_cluster.volume / "big.bin").read_bytes() == content
    wait_until_clean(empty_cluster.volume)


@pytest.mark.parametrize("size_bytes", [100_000, 3 * MIB])
def test_plans_of_a_small_file_at_once_and_late(two_workers: Cluster, size_bytes):
    with origin(CONTENT[:size_bytes]) as small, two_workers.orchestrator() as orchestrator:
        for turn in range(5):
            job = orchestrator.submit(small.url, f"{turn}.bin")
            send = Sender(two_workers, orchestrator, job)
            send.plans(3)
            send.plans(1, resends=True)
            job.wait(60)
            send.plans(2)
            send.plans(1, resends=True)
            send.wait_until_idle()
            assert job.status().state is JobState.COMPLETE
            assert (two_workers.volume / f"{turn}.bin").read_bytes() == CONTENT[:size_bytes]
    wait_until_clean(two_workers.volume)
