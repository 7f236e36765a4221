"""An origin that serves slowly, and few connections at a time: what comes of them, against one connection of curl."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import programs
from bench.place import is_same, place, wait_until_tidy, warm_cluster
from bench.programs import RunFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.place import Place
    from support.cluster import Cluster

_MIB = 1024 * 1024
_CHUNK_BYTES = 4 * _MIB
_ALLOWED_COUNT = 4
_CURL_CHUNKS = 4

_HTTP_EXTRA = """
limit_conn_zone $binary_remote_addr zone=clients:1m;
log_format times '$msec $request_time $status';
"""
_EXTRA = """
limit_rate 1m;
limit_conn clients 4;
access_log nginx-polite.log times;
"""


@dataclass(frozen=True)
class Rate:
    """What came in how long."""

    what: str
    size_bytes: int
    seconds: float
    is_curl: bool = False
    is_measure: bool = False  #: what four connections are counted in
    refused_count: int = 0
    idle_seconds: float = 0.0  #: with fewer than four connections served

    @property
    def mib_per_second(self) -> float:
        """The rate."""
        return self.size_bytes / _MIB / self.seconds


def measure(
    parent: Path | None, *, size_bytes: int, workers: int, runs_count: int, say: Callable[[str], object]
) -> list[Rate]:
    """Measure curl on one connection, and this program with its default of 16.

    Args:
        parent: where the file and the volume are.
        size_bytes: of the file.
        workers: how many worker programs there are.
        runs_count: how many runs of this program.
        say: is told what happens.

    Raises:
        RunFailed: a run failed, or what it brought is not what the origin has.
    """
    with place(parent, size_bytes, http_extra=_HTTP_EXTRA, extra=_EXTRA) as where:
        say("curl on one connection")
        rates = _curl(where)
        with warm_cluster(where) as cluster:
            for _ in range(workers - 1):
                cluster.start_worker()
            for number in range(runs_count):
                say(f"run {number + 1} of {runs_count}")
                cluster.redis.client().flushall()  # what the last run learned of the origin
                rates.append(_own(where, cluster, f"submit, {workers} workers, from submit to complete"))
        return rates


def _curl(where: Place) -> list[Rate]:
    program = shutil.which("curl")
    if program is None:
        raise RunFailed("curl is not on this machine, and it is what is compared with.")
    size_bytes = min(_CURL_CHUNKS * _CHUNK_BYTES, where.size_bytes)
    whole = ("-r", f"0-{size_bytes - 1}", "-o", "/dev/null", where.url)
    by_chunks: list[str] = []
    for start in range(0, size_bytes, _CHUNK_BYTES):
        stop = min(start + _CHUNK_BYTES, size_bytes)
        by_chunks += ["--next"] * bool(by_chunks) + ["-s", "-f", "-r", f"{start}-{stop - 1}"]
        by_chunks += ["-o", "/dev/null", where.url]
    rates = []
    for what, arguments in (("curl, one request", ("-s", "-f", *whole)), ("curl, by chunks", by_chunks)):
        began_seconds = time.perf_counter()
        done = subprocess.run([program, "-q", *arguments], check=False)
        if done.returncode:
            raise RunFailed(f"curl ended with exit code {done.returncode}.")
        seconds = time.perf_counter() - began_seconds
        rates.append(Rate(what, size_bytes, seconds, is_curl=True, is_measure=what.endswith("chunks")))
    return rates


def _own(where: Place, cluster: Cluster, what: str) -> Rate:
    log = where.folder / "nginx" / "nginx-polite.log"
    log.write_text("")
    result = cluster.volume / "result.bin"
    with cluster.orchestrator() as orchestrator:
        began_seconds = time.perf_counter()
        job = orchestrator.submit(where.url, result.name, chunk_size_bytes=_CHUNK_BYTES)
        job.wait(programs.LONGEST_RUN_SECONDS)
        seconds = time.perf_counter() - began_seconds
    wait_until_tidy(cluster.volume)
    if not is_same(result, where.origin_file):
        raise RunFailed("A run brought something else than the origin has.")
    result.unlink()
    served, refused_count = _read(log)
    return Rate(
        what, where.size_bytes, seconds, refused_count=refused_count, idle_seconds=_seconds_below(served)
    )


def _read(log: Path) -> tuple[list[tuple[float, float]], int]:
    """When each request was served, and how many were refused."""
    served, refused_count = [], 0
    for line in log.read_text().splitlines():
        ended, took, status = line.split()
        if status in ("200", "206"):
            served.append((float(ended) - float(took), float(ended)))
        else:
            refused_count += 1
    return served, refused_count


def _seconds_below(served: list[tuple[float, float]]) -> float:
    """How long fewer than four were served between the first and the last."""
    edges = sorted([(began, 1) for began, _ in served] + [(ended, -1) for _, ended in served])
    count, below, before = 0, 0.0, edges[0][0]
    for at, change in edges:
        if count < _ALLOWED_COUNT:
            below += at - before
        count, before = count + change, at
    return below
