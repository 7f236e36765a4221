"""What a small job costs: one of 1 MiB, on a warm cluster and from a cold start; and the help page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import own, programs
from bench.figures import TARGETS, Figure, Target, figure
from bench.peers import LeftOut, peer
from bench.place import RESULT, is_same, place, wait_until_tidy, warm_cluster
from bench.programs import RunFailed, clean
from support.cluster import COMMAND, clean_environment
from tasks.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.place import Place, Site
    from bench.programs import CommandLine

_SIZE_BYTES = 1024 * 1024
_WARM_RUNS = 30
_COLD_RUNS = 5


@dataclass(frozen=True)
class Timing:
    """One thing that was timed several times."""

    what: str
    seconds: list[float]
    aim: Target | None = None  #: of the median in milliseconds

    @property
    def figure(self) -> Figure:
        """The timing in milliseconds."""
        return figure(self.what, [seconds * 1000 for seconds in self.seconds], aim=self.aim)


def measure(site: Site, *, say: Callable[[str], object]) -> list[Timing]:
    """Time small jobs.

    Args:
        site: where the file and the volume are.
        say: is told what happens.

    Raises:
        RunFailed: a run failed, or what it brought is not what the origin has.
    """
    with place(site, _SIZE_BYTES) as where:
        say("jobs on the warm cluster")
        timings = _warm(where)
        say("cold starts")
        timings += _cold(where, say)
        say("help")
        return [*timings, _help(where)]


def _warm(where: Place) -> list[Timing]:
    inside, outside = [], []
    with warm_cluster(where) as cluster, cluster.orchestrator() as orchestrator:
        for number in range(_WARM_RUNS + 1):
            began_seconds = time.perf_counter()
            record = orchestrator.submit(where.origin.url_of(RESULT), RESULT).wait(
                programs.LONGEST_RUN_SECONDS
            )
            wall_seconds = time.perf_counter() - began_seconds
            result = cluster.volume / RESULT
            _check(result, where, "The warm cluster")
            wait_until_tidy(cluster.volume)
            result.unlink()
            if number:
                times = record.state_times
                inside.append(times[JobState.COMPLETE] - times[JobState.QUEUED])
                outside.append(wall_seconds)
    return [
        Timing("1 MiB on the warm cluster: queued to complete", inside, TARGETS["latency"]),
        Timing("1 MiB on the warm cluster: submit and wait, Python API", outside, TARGETS["latency"]),
    ]


def _cold(where: Place, say: Callable[[str], object]) -> list[Timing]:
    embedded = own.embedded(where, sync=True)
    curl = None
    try:
        curl = peer("curl", where)
    except LeftOut as why:
        say(f"left out: {why}")
    cold, peers = [], []
    for number in range(_COLD_RUNS + 1):
        cold_seconds = _one(embedded, where)
        curl_seconds = None if curl is None else _one(curl, where)
        if number:
            cold.append(cold_seconds)
            if curl_seconds is not None:
                peers.append(curl_seconds)
    timings = [Timing("1 MiB, embedded `orchestrator submit` from cold", cold)]
    if curl is None:
        return timings
    return [
        *timings,
        Timing("1 MiB, curl", peers),
        Timing(
            "the difference of the two", [ours - theirs for ours, theirs in zip(cold, peers, strict=True)]
        ),
    ]


def _one(program: CommandLine, where: Place) -> float:
    usage = program.run()
    _check(program.folder / RESULT, where, program.shown_as)
    clean(program)
    return usage.wall_seconds


def _help(where: Place) -> Timing:
    folder, environment = where.new_folder("help"), clean_environment()
    walls = [
        programs.run_command((*COMMAND, "--help"), folder, environment).wall_seconds
        for _ in range(_COLD_RUNS + 1)
    ]
    return Timing("orchestrator --help", walls[1:])


def _check(result: Path, where: Place, who: str) -> None:
    if not result.is_file() or not is_same(result, where.origin_file()):
        raise RunFailed(f"{who} brought something else than the origin has.")
