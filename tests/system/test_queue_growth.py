"""What long lists and large files take of Redis, and that workers and clients do not grow with them.

GROWTH_FILES says how long the list is; `make growth` runs it with 10,000.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.cluster import cluster
from support.files import MIB, wait_until_clean
from support.redis_server import redis_server
from support.tools import wait_until
from support.web_servers import nginx
from tasks.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.cluster import Cluster

FILES = int(os.environ.get("GROWTH_FILES", "2000"))
#: 10,000 submitted URLs stay under 50 MB of Redis.
MOST_BYTES_A_FILE = 5_000
MOST_BYTES_OF_A_THOUSAND_CHUNKS = 3_000_000
CHUNKS = 1000


@pytest.fixture
def documents() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mh-growth-") as created:
        folder = Path(created)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with a Redis of its own: how much memory that had once before stays in its figures."""
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as made:
        yield made


def used_bytes(cluster: Cluster) -> int:
    return int(cluster.redis.client().info("memory")["used_memory"])


def resident_bytes(pid: int) -> list[int]:
    """Of a process and all below it."""
    process = psutil.Process(pid)
    return [each.memory_info().rss for each in (process, *process.children(recursive=True))]


def in_megabytes(counts: list[int]) -> str:
    return ", ".join(f"{count / 1e6:.1f}" for count in counts) + " MB"


@pytest.mark.timeout(3600)
def test_a_long_list_leaves_redis_small_and_workers_and_client_as_they_were(one, documents, tmp_path):
    for number in range(FILES):
        (documents / f"{number}.bin").write_bytes(number.to_bytes(4, "big") * 256)
    worker, own = one.start_worker("--concurrency", "8"), os.getpid()
    # All threads and caches are there by then.
    warm, looks = FILES // 4, {}
    with nginx(tmp_path, documents) as url, one.orchestrator() as orchestrator:
        before_bytes, began = used_bytes(one), time.monotonic()
        most_active = 0

        def on_look(totals):
            nonlocal most_active
            most_active = max(most_active, totals.active_count)

        urls = (f"{url}/{number}.bin" for number in range(FILES))
        for count, end in enumerate(orchestrator.submit_all(urls, sync=False, on_look=on_look), start=1):
            assert end.error is None, end
            if count in (warm, FILES // 2, FILES):
                looks[count] = (used_bytes(one), resident_bytes(worker.pid), resident_bytes(own)[:1])
    seconds = time.monotonic() - began
    wait_until_clean(one.volume)
    memory = one.redis.client().info("memory")
    peak_bytes, after_bytes = memory["used_memory_peak"] - before_bytes, memory["used_memory"] - before_bytes
    print(f"\n{FILES} files in {seconds:.1f} s, at most {most_active} active")
    print(
        f"Redis: {before_bytes / 1e6:.1f} MB before, peak +{peak_bytes / 1e6:.1f}, after +{after_bytes / 1e6:.1f}"
    )
    for count, (redis_bytes, workers, clients) in looks.items():
        print(
            f"{count} files: Redis +{(redis_bytes - before_bytes) / 1e6:.1f} MB, worker {in_megabytes(workers)}, "
            f"client {in_megabytes(clients)}"
        )
    assert most_active <= 128
    assert peak_bytes < FILES * MOST_BYTES_A_FILE
    (_, workers_before, client_before), (_, workers_after, client_after) = looks[warm], looks[FILES]
    assert len(workers_after) == len(workers_before), "none was restarted"
    grown = [
        after - before
        for before, after in zip(workers_before + client_before, workers_after + client_after, strict=True)
    ]
    print(
        f"grown by {in_megabytes(grown)}, at most {max(grown) / (FILES - warm):.0f} bytes a job in a process"
    )
    # A kilobyte that stays of each job would be ten megabytes after the list of 10,000.
    assert max(grown) < 3_000_000 + 300 * (FILES - warm)


def test_a_job_of_a_thousand_chunks_takes_little_of_redis(one, documents, tmp_path):
    with (documents / "large.bin").open("wb") as file:
        file.truncate(CHUNKS * MIB)
    one.start_worker("--queues", "control")
    with nginx(tmp_path, documents) as url, one.orchestrator() as orchestrator:
        # What a first job alone makes: connections, queues, scripts.
        orchestrator.submit(f"{url}/nothing.bin")
        wait_until(lambda: orchestrator.list()[0].state is JobState.FAILED, what="a first job's end")
        before_bytes, began = used_bytes(one), time.monotonic()
        job = orchestrator.submit(f"{url}/large.bin", chunk_size_bytes=MIB)
        wait_until(lambda: job.status().state is JobState.FETCHING, what="the plan")
        wait_until(lambda: one.waiting_count("chunks") >= CHUNKS, what="all messages")
        seconds, taken_bytes = time.monotonic() - began, used_bytes(one) - before_bytes
        print(f"\n{CHUNKS} chunks: planned and sent in {seconds:.2f} s, {taken_bytes / 1e6:.2f} MB of Redis")
        assert job.status().chunks_count == CHUNKS
        assert taken_bytes <= MOST_BYTES_OF_A_THOUSAND_CHUNKS
