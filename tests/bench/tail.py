"""The tail: one connection in eight ten times slower than the rest, against none slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import origins, own
from bench.figures import TARGETS, Figure, ratio
from bench.peers import LeftOut, peer
from bench.place import place, warm_cluster
from bench.rounds import run_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.origins import Origin
    from bench.place import Place, Site
    from bench.programs import Program
    from bench.rounds import Series
    from orchestrator import Orchestrator
    from support.cluster import Cluster

_BYTES_PER_SECOND = 8_000_000
_CONNECTIONS = 8


def measure(site: Site, *, size_bytes: int, runs_count: int, say: Callable[[str], object]) -> list[Series]:
    """Measure both cases in turn, with this program and aria2; for the arguments see `throughput.measure`."""
    say("making the file")
    even, uneven = (origins.paced(_BYTES_PER_SECOND, slow_one_in=one_in) for one_in in (0, _CONNECTIONS))
    with place(site, size_bytes, open_origin=even) as where:
        state = where.new_folder("uneven")
        with (
            uneven(state, where.documents) as uneven_origin,
            warm_cluster(where) as cluster,
            cluster.orchestrator() as orchestrator,
        ):
            chosen: list[Program] = []
            for case, origin in (("none slow", where.origin), ("one in eight slow", uneven_origin)):
                chosen += _programs(case, origin, where, cluster, orchestrator, say)
            return run_rounds(chosen, where, runs_count, say)


def _programs(
    case: str,
    origin: Origin,
    where: Place,
    cluster: Cluster,
    orchestrator: Orchestrator,
    say: Callable[[str], object],
) -> list[Program]:
    warm = own.warm(
        cluster,
        orchestrator,
        origin,
        name=f"warm, {case}",
        shown_as=f"manyhands, 8 connections, {case}",
        connections=_CONNECTIONS,
    )
    try:
        aria2 = peer("aria2c-x8", where, origin)
    except LeftOut as why:
        say(f"left out: {why}")
        return [warm]
    return [warm, aria2.named(f"aria2c-x8, {case}", f"{aria2.shown_as}, {case}")]


def figures(all_series: Sequence[Series]) -> list[Figure]:
    """How much longer each program takes because of the slow connection; this program's has a target."""
    count = len(all_series) // 2
    return [
        ratio(f"time: {slow.shown_as} / none slow", slow, none, aim=TARGETS["tail"] if slow.is_own else None)
        for none, slow in zip(all_series[:count], all_series[count:], strict=True)
    ]
