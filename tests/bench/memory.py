"""How much memory a worker needs: the high-water mark of each of its processes after one large job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.place import RESULT, is_same, place, warm_cluster
from bench.programs import LONGEST_RUN_SECONDS, RunFailed
from bench.usage import tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.place import Site
    from support.cluster import Cluster

_READY = re.compile(r"(\w+)-(\d+)@\S+ ready\.")
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class HighWater:
    """The most memory that one process has had."""

    process: str
    ready_bytes: int  #: RSS at its peak until the worker was ready
    peak_bytes: int  #: RSS at its peak until the job was complete


def measure(
    site: Site, *, size_bytes: int, connections: int, say: Callable[[str], object]
) -> list[HighWater]:
    """Run one job on a new worker, and read what its processes needed.

    Args:
        site: where the file and the volume are.
        size_bytes: of the file.
        connections: of the job; the worker gets as many slots.
        say: is told what happens.

    Raises:
        RunFailed: the job brought something else than the origin has.
    """
    say("making the file")
    with (
        place(site, size_bytes) as where,
        warm_cluster(where, "--concurrency", str(connections)) as cluster,
    ):
        names = _names(cluster)
        ready = {pid: _high_water_bytes(pid) for pid in names}
        say("one job")
        with cluster.orchestrator() as orchestrator:
            job = orchestrator.submit(
                where.origin.url_of(RESULT), RESULT, connections=connections, sync=False
            )
            job.wait(LONGEST_RUN_SECONDS)
        peaks = {pid: _high_water_bytes(pid) for pid in names}
        if not is_same(cluster.volume / RESULT, where.origin_file()):
            raise RunFailed("The job brought something else than the origin has.")
    return [HighWater(names[pid], ready[pid], peaks[pid]) for pid in names]


def _names(cluster: Cluster) -> dict[int, str]:
    """The worker's processes by id, named as the worker's log names them."""
    named = {int(pid): name for name, pid in _READY.findall(cluster.log())}
    processes = tree(cluster.workers[0].pid)
    return {process.pid: named.get(process.pid, "supervisor") for process in processes}


def _high_water_bytes(pid: int) -> int:
    match = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    if match is None:
        raise RunFailed(f"The kernel does not tell the memory of process {pid}.")
    return int(match[1]) * 1024
