"""What a digest costs: the same job with a SHA-256 asked for and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import own
from bench.figures import TARGETS, Figure, ratio
from bench.place import place, warm_cluster
from bench.rounds import run_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.place import Site
    from bench.rounds import Series


def measure(site: Site, *, size_bytes: int, runs_count: int, say: Callable[[str], object]) -> list[Series]:
    """Measure both in turn on one cluster; for the arguments see `throughput.measure`."""
    say("making the file")
    with (
        place(site, size_bytes) as where,
        warm_cluster(where) as cluster,
        cluster.orchestrator() as orchestrator,
    ):
        without = own.warm(cluster, orchestrator, where.origin)
        asked = own.warm(
            cluster,
            orchestrator,
            where.origin,
            name="warm-sha256",
            shown_as="the same, SHA-256 asked for",
            sha256=where.sha256,
        )
        return run_rounds([without, asked], where, runs_count, say)


def figures(all_series: Sequence[Series]) -> list[Figure]:
    """The one ratio that this is about."""
    without, asked = all_series
    return [ratio("time: with SHA-256 / without", asked, without, aim=TARGETS["digest"])]
