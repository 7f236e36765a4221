"""What a chunk, a job, a file of a list, a connection and a host cost: of Redis, and of the processes that work.

Redis counts itself (``INFO``): commands, also those within scripts, reads of its sockets, which are round trips, bytes,
and its processor's time. Nobody else uses it.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bench.place import wait_until_tidy
from bench.usage import cpu_seconds, trees
from scale import crowd
from support.cluster import COMMAND
from support.files import MIB, make_file
from support.links import hold
from support.tools import end, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale.scene import Scene

#: Of links that are no limit.
_WIDE_BITS_PER_SECOND = 10**10
_REST_SECONDS = 15.0
_FETCH_BYTES = 256 * MIB
_FEW_CHUNKS, _MANY_CHUNKS = 8, 256
#: So slow that no chunk is done within the time.
_SLOW_BITS_PER_SECOND = 20 * 10**6
_SLOW_SECONDS = 8.0
_LIST_FILES = 500
_LIST_FILE_BYTES = 100_000
_REPEATS = 3


@dataclass(frozen=True)
class Tally:
    """What was used so far, or of one thing."""

    commands: float  #: of Redis, those within scripts included
    reads: float  #: of its sockets
    in_bytes: float  #: to Redis
    out_bytes: float  #: from it
    redis_seconds: float
    worker_seconds: float  #: of the processes that fetch
    control_seconds: float  #: of those that plan and merge

    def minus(self, other: Tally, times: float = 1.0) -> Tally:
        """It without so many times another."""
        return Tally(*(getattr(self, each.name) - times * getattr(other, each.name) for each in fields(self)))

    def over(self, count: float) -> Tally:
        """An even share of it."""
        return Tally(*(getattr(self, each.name) / count for each in fields(self)))

    def row(self, what: str) -> str:
        """It as a row of a table in Markdown."""
        return (
            f"| {what} | {self.commands:.1f} | {self.reads:.1f} | {self.in_bytes / 1000:.2f} | "
            f"{self.out_bytes / 1000:.2f} | {self.redis_seconds * 1000:.2f} | {self.worker_seconds * 1000:.1f} | "
            f"{self.control_seconds * 1000:.1f} |"
        )


def tally(scene: Scene) -> Tally:
    """What was used so far."""
    with scene.cluster.redis.client() as client:
        counts, processor = client.info("stats"), client.info("cpu")
    workers = [host.process.pid for host in scene.hosts if not host.is_down]
    return Tally(
        counts["total_commands_processed"],
        counts["total_reads_processed"],
        counts["total_net_input_bytes"],
        counts["total_net_output_bytes"],
        processor["used_cpu_sys"] + processor["used_cpu_user"],
        cpu_seconds(trees(workers)),
        cpu_seconds(trees(worker.pid for worker in scene.cluster.workers)),
    )


def used(scene: Scene, work: Callable[[], object]) -> tuple[Tally, float]:
    """What some work takes, with what all take at rest meanwhile; and for how many seconds."""
    before, began = tally(scene), time.monotonic()
    work()
    seconds = time.monotonic() - began
    return tally(scene).minus(before), seconds


def measure(scene: Scene, say: Callable[[str], object]) -> list[str]:
    """All costs, as rows of a table."""
    say("hosts at rest")
    five, one = _at_rest(scene, 5), _at_rest(scene, 1)
    host = five.minus(one).over(4)
    rows = [host.row("a host at rest, each second"), one.minus(host).row("control at rest, each second")]
    say("a connection at work")
    connection, waiting = _at_work(scene, one)
    rows += [
        connection.row("a connection at work, each second"),
        waiting.row("somebody who waits for a job, each second"),
    ]
    say("chunks")
    few, many = (_job(scene, count, one) for count in (_FEW_CHUNKS, _MANY_CHUNKS))
    chunk = many.minus(few).over(_MANY_CHUNKS - _FEW_CHUNKS)
    rows += [
        chunk.row("a chunk of 1 MiB"),
        few.minus(chunk, _FEW_CHUNKS).row(f"a job of {_FETCH_BYTES // MIB} MiB, without its chunks"),
    ]
    say("small files")
    submitter_seconds, kept_bytes, files = _list(scene, one)
    rows.append(files.row(f"a file of {_LIST_FILE_BYTES // 1000} kB of a list"))
    return [
        *rows,
        "",
        (
            f"The submitter of a list takes {submitter_seconds * 1000:.1f} ms of its processor for a file. "
            f"Of a complete one Redis keeps {kept_bytes / 1000:.1f} kB."
        ),
        _memory(scene),
        "",
        *crowd.table(scene.cluster.redis),
    ]


def _at_rest(scene: Scene, count: int) -> Tally:
    """A second of so many hosts, and of control, with nothing to do."""
    scene.use(count, bits_per_second=_WIDE_BITS_PER_SECOND)
    found, seconds = used(scene, lambda: time.sleep(_REST_SECONDS))
    return found.over(seconds)


def _at_work(scene: Scene, rest: Tally) -> tuple[Tally, Tally]:
    """A second of one connection of 16 that fetch, no chunk beginning or ending; and of who waits for them."""
    host = scene.use(1, bits_per_second=_WIDE_BITS_PER_SECOND)[0]
    hold(host.host, bits_per_second=_SLOW_BITS_PER_SECOND)
    url = f"{scene.origin.url}/{scene.file(_FETCH_BYTES)}"
    with scene.cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(url)
        wait_until(lambda: job.status().connections_count == 16, what="16 connections at work")
        time.sleep(1)
        fetching, seconds = used(scene, lambda: time.sleep(_SLOW_SECONDS))
        fetching = fetching.over(seconds)
        args = [*COMMAND, "wait", job.job_id, "-q"]
        waiter = subprocess.Popen(
            args,
            env=scene.cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(2)
        both, seconds = used(scene, lambda: time.sleep(_SLOW_SECONDS))
        end(waiter)
        job.cancel()
    wait_until_tidy(scene.cluster.volume)
    hold(host.host, bits_per_second=_WIDE_BITS_PER_SECOND)
    return fetching.minus(rest).over(16), both.over(seconds).minus(fetching)


def _job(scene: Scene, chunks_count: int, rest: Tally) -> Tally:
    """A job of so many chunks that nobody waits for."""
    name = scene.file(_FETCH_BYTES)
    url, path = f"{scene.origin.url}/{name}", scene.cluster.volume / name
    found = []

    def work() -> None:
        orchestrator.submit(url, name, chunk_size_bytes=_FETCH_BYTES // chunks_count)
        wait_until(path.exists, what="the file")
        wait_until_tidy(scene.cluster.volume)

    with scene.cluster.orchestrator() as orchestrator:
        orchestrator.list()  # connected
        for _ in range(_REPEATS):
            one, seconds = used(scene, work)
            found.append(one.minus(rest, seconds))
            scene.tidy(name)
    return _median(found)


def _median(found: list[Tally]) -> Tally:
    return Tally(*(statistics.median(getattr(one, each.name) for one in found) for each in fields(Tally)))


def _list(scene: Scene, rest: Tally) -> tuple[float, float, Tally]:
    """What a submitter takes for a file of a list, what Redis keeps of it, and what it costs."""
    folder = scene.documents / "list"
    folder.mkdir()
    names = [f"{number:04}.bin" for number in range(_LIST_FILES)]
    for seed, name in enumerate(names):
        make_file(folder / name, _LIST_FILE_BYTES, seed=seed)
    listed = scene.cluster.logs / "list.txt"
    listed.write_text("".join(f"{scene.origin.url}/list/{name}\n out=list/{name}\n" for name in names))
    times: list[float] = []

    def work() -> None:
        process = psutil.Popen(
            [*COMMAND, "submit", "-i", str(listed), "-q"],
            env=scene.cluster.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        while process.status() != psutil.STATUS_ZOMBIE:
            ended = process.cpu_times()
            times.append(ended.user + ended.system)
            time.sleep(0.05)
        assert process.wait() == 0

    before_bytes = _kept_bytes(scene)
    found, seconds = used(scene, work)
    wait_until_tidy(scene.cluster.volume)
    kept_bytes = (_kept_bytes(scene) - before_bytes) / _LIST_FILES
    return times[-1] / _LIST_FILES, kept_bytes, found.minus(rest, seconds).over(_LIST_FILES)


def _kept_bytes(scene: Scene) -> int:
    with scene.cluster.redis.client() as client:
        return int(client.info("memory")["used_memory"])


def _memory(scene: Scene) -> str:
    """What a worker's processes have of memory, each page shared out among those that share it."""
    host = scene.use(1, bits_per_second=_WIDE_BITS_PER_SECOND)[0]
    processes = host.tree()
    sizes = [_proportional_bytes(process.pid) / 1e6 for process in processes]
    return (
        f"A worker of {len(sizes)} processes, its supervisor included, that has fetched with 16 connections "
        f"has {sum(sizes):.0f} MB of memory (PSS: {', '.join(f'{size:.0f}' for size in sizes)})."
    )


def _proportional_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
