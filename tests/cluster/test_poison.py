"""A part that ends each worker that fetches it: its job fails after a few, unless bytes came in between."""

from __future__ import annotations

import psutil
import pytest

from orchestrator import JobEndedBadly
from support.cluster import Cluster
from support.files import MIB, sha256_of
from support.moving_origin import moving_origin, version
from support.tools import wait_until

CHUNK_BYTES = 4 * MIB
#: Chunk 1 of three.
BEGIN, END = CHUNK_BYTES, 2 * CHUNK_BYTES


class Poisoned:
    """A cluster, and an origin at which a test decides when the worker that fetches the second chunk is killed."""

    def __init__(self, one: Cluster, *, deaths: int, slots: int) -> None:
        self.killed_count = 0
        quick = {"ORCHESTRATOR_SWEEP_SECONDS": "0.5", "ORCHESTRATOR_STALL_SECONDS": "2"}
        one.start_worker("--queues", "control,merge", **quick)
        self.worker = one.start_worker(
            "--queues", "chunks", "--concurrency", str(slots), "--processes", "1",
            ORCHESTRATOR_WORKER_DEATHS=str(deaths), **quick,
        )  # fmt: skip

    def kill(self) -> None:
        """Kill the process that fetches chunks; its supervisor starts another."""
        self.killed_count += 1
        for child in psutil.Process(self.worker.pid).children(recursive=True):
            child.kill()


@pytest.fixture
def served():
    with moving_origin(version(3 * CHUNK_BYTES, 4, etag='"v1"')) as one:
        yield one


def test_a_part_that_ends_every_worker_fails_its_job_and_the_rest_is_kept(empty_cluster: Cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        # With more slots, what else is fetched dies as well.
        poisoned = Poisoned(empty_cluster, deaths=3, slots=1)

        def kill_who_asks(seen):
            if BEGIN <= seen.first < END:
                poisoned.kill()

        served.on_request = kill_who_asks
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        with pytest.raises(JobEndedBadly) as ended:
            job.wait(150)
        error = ended.value.record.error
        assert error.code == "WorkersDied"
        assert f"bytes {BEGIN} to {END - 1} of {served.url}" in error.message
        assert error.message.startswith("3 workers in a row")
        assert f"orchestrator resume {job.job_id}" in error.message
        assert poisoned.killed_count == 3

        served.on_request = lambda seen: None
        before_bytes = served.served_bytes
        assert job.resume()
        assert job.wait(60).chunks_done == 3
    assert sha256_of(empty_cluster.volume / "file") == served.version.sha256
    # What had come of the others was kept.
    assert served.served_bytes - before_bytes < 3 * CHUNK_BYTES


def test_a_part_that_gets_further_each_time_is_not_given_up(empty_cluster: Cluster, served):
    served.bytes_per_second = MIB // 2
    with empty_cluster.orchestrator() as orchestrator:
        poisoned = Poisoned(empty_cluster, deaths=2, slots=2)
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        client = empty_cluster.redis.client()

        def done_bytes():
            return int(client.hget(f"manyhands:job:{job.job_id}:bytes", "1") or 0)

        for _ in range(3):
            least_bytes = done_bytes() + MIB // 2
            wait_until(
                lambda least_bytes=least_bytes: done_bytes() > least_bytes, seconds=90, what="some bytes"
            )
            poisoned.kill()
            assert done_bytes() < CHUNK_BYTES
        served.bytes_per_second = None
        job.wait(120)
    assert sha256_of(empty_cluster.volume / "file") == served.version.sha256
