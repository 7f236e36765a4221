"""A chunk that a limit holds back, over a real socket."""

from __future__ import annotations

import threading

import pytest

from support.manifests import JOB_ID, manifest_of_file
from support.scripted import file_answer, scripted_server
from support.tools import wait_until
from tasks.transfer.attempt import Attempt, AttemptStopped, StopReason
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.manifest import JobSpec, LayoutName, SourceRequest
from tasks.transfer.pacing import Bucket, Pace
from tasks.transfer.volume import Volume

CONTENT = bytes(range(256)) * 1000


class OnClock(Attempt):
    """An attempt for which time passes where it waits, and nowhere else."""

    now = 0.0
    waits = 0

    def hold(self, seconds, by_job):
        self.now += seconds
        self.waits += 1
        self.check()


@pytest.fixture
def fetch(tmp_path):
    with scripted_server(file_answer(CONTENT)) as server:
        source = Source(SourceRequest(url=server.url), HttpLimits(2, 2))
        manifest = manifest_of_file(
            len(CONTENT),
            chunk_size_bytes=len(CONTENT),
            layout=LayoutName.PARTS,
            source_name=source.name,
            spec=JobSpec(sync=False),
        )
        folder = Volume(tmp_path).job(JOB_ID)
        folder.create()
        assert folder.write_first_manifest(manifest)
        yield lambda attempt: fetch_chunk(source, folder, manifest, manifest.chunk(0), attempt, "host-1")


@pytest.mark.parametrize("rate", [2_000, 100_000, 10_000_000])
def test_a_chunk_takes_as_long_as_its_limit_says_and_comes_evenly(fetch, rate):
    attempt = OnClock("a1")
    bucket = Bucket(clock=lambda: attempt.now)
    bucket.rate = rate
    attempt.pace = Pace(bucket, None)
    brought = fetch(attempt)
    assert brought.proven.is_whole
    # The first block is free, and so is the last one's wait.
    assert attempt.now == pytest.approx(len(CONTENT) / rate, rel=0.02, abs=0.15)
    assert attempt.waits >= attempt.now / 0.25


def test_a_chunk_that_is_held_back_ends_at_once_and_keeps_what_came(fetch):
    attempt, bucket = Attempt("a1"), Bucket()
    bucket.rate = 1
    attempt.pace = Pace(bucket, None)
    ended = []

    def run():
        try:
            fetch(attempt)
        except AttemptStopped as stopped:
            ended.append(stopped.reason)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: attempt.done_bytes > 0, what="the first bytes")
    attempt.stop(AttemptStopped(StopReason.DRAIN))
    thread.join(60)
    assert ended == [StopReason.DRAIN]
    came_bytes = attempt.done_bytes
    following = Attempt("a2")
    assert fetch(following).by_worker == {"host-1": len(CONTENT)}
    assert following.resumed_bytes == came_bytes < 10_000
