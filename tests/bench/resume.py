"""What a crash of everything costs: bytes that are fetched again after SIGKILL half-way."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from bench import origins
from bench.access_log import sent_bytes
from bench.figures import TARGETS, Figure, figure
from bench.place import RESULT, is_same, place
from bench.programs import LONGEST_RUN_SECONDS, RunFailed
from bench.usage import tree
from orchestrator import JobEndedBadly, StillRunning
from support.cluster import Cluster
from support.redis_server import redis_server
from tasks.transfer.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.place import Place, Site
    from orchestrator import Job, Orchestrator

_KILLED_AT = 0.5
_MIB = 1024 * 1024
#: How long the second job may take by default.
PATIENCE_SECONDS = 300.0
#: What becomes of Redis, and what the tables call it.
CASES = {"empty": "Redis emptied", "aof": "Redis with its append-only file"}


@dataclass(frozen=True)
class Crash:
    """One run: everything was killed and started anew."""

    case: str  #: one of `CASES`
    done_share: float  #: of the file, as the record said before the kill
    sent_share: float  #: of the file, that the origin had sent by then
    fetched_again_share: float  #: of the file: what the origin sent in all, less the file; nan: it never came
    seconds: float  #: from the second submit until the file was there
    problem: str | None = None  #: why it never came


def measure(
    site: Site,
    *,
    size_bytes: int,
    runs_count: int,
    cases: Sequence[str],
    patience_seconds: float,
    say: Callable[[str], object],
) -> list[Crash]:
    """Kill a Redis and its workers half-way, start new ones on the same volume, and submit the same again.

    Args:
        site: where the file and the volume are.
        size_bytes: of the file.
        runs_count: of each case.
        cases: of `CASES`.
        patience_seconds: how long the file may take after the second submit.
        say: is told what happens.

    Raises:
        RunFailed: the first job did not get half-way, or what the second brought is not what the origin has.
    """
    say("making the file")
    # Two or three seconds for each chunk, whatever the size: a record is half a second old, and must be
    # about right. So slow an origin also leaves nothing in the buffers of sockets that are killed.
    rate = max(size_bytes // 64, 8 * _MIB) // 3
    crashes = []
    with place(site, size_bytes, open_origin=origins.limited(rate)) as where:
        for number in range(runs_count):
            for case in cases:
                crash = _crash(where, case, patience_seconds)
                became = crash.problem or f"fetched again {crash.fetched_again_share:.2%}"
                say(
                    f"run {number + 1} of {runs_count}: {CASES[case]}: "
                    f"killed at {crash.done_share:.1%}, {became}"
                )
                crashes.append(crash)
    return crashes


def _crash(where: Place, case: str, patience_seconds: float) -> Crash:
    folder = where.new_folder("crash")
    (folder / "volume").mkdir()
    size_bytes = where.origin_file().stat().st_size
    before_bytes = sent_bytes(where.origin)
    try:
        with (
            _cluster(folder, "first", keeps=case == "aof") as cluster,
            cluster.orchestrator() as orchestrator,
        ):
            first = _submit(orchestrator, where)
            done_share = _wait_until_half(first, size_bytes)
            _kill(cluster)
        first_bytes = sent_bytes(where.origin) - before_bytes
        problem = None
        with (
            _cluster(folder, "second", keeps=case == "aof") as cluster,
            cluster.orchestrator() as orchestrator,
        ):
            began_seconds = time.perf_counter()
            try:
                _go_on(orchestrator, where, first.job_id, patience_seconds)
            except (JobEndedBadly, StillRunning) as error:
                problem = str(error)
            seconds = time.perf_counter() - began_seconds
        all_bytes = sent_bytes(where.origin) - before_bytes
        if problem is None and not is_same(folder / "volume" / RESULT, where.origin_file()):
            raise RunFailed(f"{CASES[case]}: the second job brought something else than the origin has.")
    finally:
        shutil.rmtree(folder)
    again_share = all_bytes / size_bytes - 1 if problem is None else math.nan
    return Crash(case, done_share, first_bytes / size_bytes, again_share, seconds, problem)


def _go_on(orchestrator: Orchestrator, where: Place, first_id: str, patience_seconds: float) -> None:
    """Submit the same again and wait for the file."""
    try:
        _submit(orchestrator, where).wait(patience_seconds)
    except JobEndedBadly as refused:
        # Where Redis still knows the first job, that goes on by itself, and the second one is sent to it.
        try:
            first = orchestrator.job(first_id)
        except PermanentError:
            raise refused from None
        first.wait(patience_seconds)


def _submit(orchestrator: Orchestrator, where: Place) -> Job:
    return orchestrator.submit(where.origin.url_of(RESULT), RESULT, sync=False)


def _wait_until_half(job: Job, size_bytes: int) -> float:
    ends = time.monotonic() + LONGEST_RUN_SECONDS
    while time.monotonic() < ends:
        record = job.status()
        if not record.state.is_active:
            raise RunFailed(f"The first job was {record.state} before it was killed; give a larger --size.")
        if record.bytes_done >= _KILLED_AT * size_bytes:
            return record.bytes_done / size_bytes
        time.sleep(0.02)
    raise RunFailed("The first job did not get half-way.")


def _kill(cluster: Cluster) -> None:
    """SIGKILL for Redis and the workers, the supervisors first: nobody is to start anything again."""
    processes = [process for worker in cluster.workers for process in tree(worker.pid)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.redis.kill()
    for worker in cluster.workers:
        worker.wait()
    psutil.wait_procs(processes, timeout=10)


@contextmanager
def _cluster(folder: Path, name: str, *, keeps: bool) -> Iterator[Cluster]:
    """A new Redis and worker on the volume in a folder; `keeps`: Redis goes on from what it wrote there."""
    logs = folder / name
    logs.mkdir()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder if keeps else logs, appends=keeps))
        cluster = Cluster(redis, folder / "volume", logs)
        stack.callback(cluster.end)
        cluster.start_worker()
        yield cluster


def figures(crashes: Sequence[Crash]) -> list[Figure]:
    """The shares that were fetched again, and when it was killed."""
    found = []
    for case in dict.fromkeys(crash.case for crash in crashes):
        same = [crash for crash in crashes if crash.case == case]
        whole = [crash for crash in same if crash.problem is None]
        shown_as = CASES[case]
        found.append(figure(f"{shown_as}: share done when killed", [crash.done_share for crash in same]))
        # One that never came is no share, and must not look like a good one.
        again = [crash.fetched_again_share for crash in same] if len(whole) == len(same) else [math.nan]
        failed = f" ({len(same) - len(whole)} of {len(same)} never came)" if len(whole) < len(same) else ""
        what = f"{shown_as}: share fetched again{failed}"
        found.append(figure(what, again, aim=TARGETS["fetched again"]))
        if whole:
            seconds = [crash.seconds for crash in whole]
            found.append(figure(f"{shown_as}: seconds from the second submit on", seconds))
    return found
