"""A job that was given a time, and does not make it."""

from __future__ import annotations

import json
import random

import pytest

from orchestrator import JobEndedBadly
from support.cluster import Cluster
from support.files import MIB
from support.origin import origin
from support.tools import wait_until

CONTENT = random.Random(8).randbytes(16 * MIB)


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def test_a_job_out_of_time_fails_keeps_what_came_and_resumes(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--concurrency", "4")
    served.bytes_per_second = MIB // 2
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, timeout_seconds=2)
        with pytest.raises(JobEndedBadly) as ended:
            job.wait(60)
        record = ended.value.record
        assert record.error.code == "JobTimedOut"
        assert f"orchestrator resume {job.job_id}" in record.error.message
        assert not (empty_cluster.volume / "big.bin").exists()
        wait_until(lambda: served.open_count == 0, what="the connections' end")
        kept_bytes = job.status().bytes_done
        assert 0 < kept_bytes < len(CONTENT)

        served.bytes_per_second = None
        served.served_bytes = 0
        assert job.resume()
        job.wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    # What was on its way when a connection was closed had left the origin, and was lost.
    assert served.served_bytes < len(CONTENT)


def test_a_job_that_no_worker_takes_up_fails_in_time_and_stays_so(empty_cluster: Cluster, served):
    done = empty_cluster.run("submit", served.url, "--timeout", "1", "--json")
    assert done.returncode == 7, done.stderr
    record = json.loads(done.stdout)
    assert record["state"] == "failed"
    assert record["error"]["code"] == "JobTimedOut"
    empty_cluster.start_worker()
    with empty_cluster.orchestrator() as orchestrator:
        # Behind the first in the queue.
        orchestrator.submit(served.url, "later").wait(60)
        assert orchestrator.job(record["job_id"]).status().state == "failed"
    assert not (empty_cluster.volume / "big.bin").exists()


def test_a_job_whose_origin_has_gone_quiet_fails_in_time(empty_cluster: Cluster, served):
    empty_cluster.start_worker()
    served.gate.clear()
    with empty_cluster.orchestrator() as orchestrator, pytest.raises(JobEndedBadly) as ended:
        orchestrator.submit(served.url, chunk_size_bytes=4 * MIB, timeout_seconds=2).wait(60)
    assert ended.value.record.error.code == "JobTimedOut"
    assert not (empty_cluster.volume / "big.bin").exists()
