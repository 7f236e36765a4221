"""An origin that gives each connection little: many connections against the 16 that aria2 allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import origins, own
from bench.figures import Figure, of_peers_time, ratios_to_peers
from bench.peers import available
from bench.place import place, warm_cluster
from bench.rounds import run_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.place import Site
    from bench.rounds import Series

_BYTES_PER_SECOND = 4_000_000
_CONNECTIONS = 64
#: The second one is what a user may ask of it: by default it makes no piece smaller than 20 MiB.
_PEERS = ["aria2c", "aria2c-k1M"]
ORIGINS = {"paced": origins.paced, "nginx": origins.limited}


def measure(
    site: Site,
    *,
    size_bytes: int,
    runs_count: int,
    origin: str,
    chunk_size_bytes: int | None,
    say: Callable[[str], object],
) -> list[Series]:
    """Measure in turn; for the other arguments see `throughput.measure`.

    Args:
        origin: which of `ORIGINS`.
        chunk_size_bytes: of this program; None: it chooses.
    """
    say("making the file")
    with (
        place(site, size_bytes, open_origin=ORIGINS[origin](_BYTES_PER_SECOND)) as where,
        warm_cluster(where, "--concurrency", str(_CONNECTIONS)) as cluster,
        cluster.orchestrator() as orchestrator,
    ):
        warm = own.warm(
            cluster,
            orchestrator,
            where.origin,
            shown_as=f"manyhands, {_CONNECTIONS} connections",
            connections=_CONNECTIONS,
            chunk_size_bytes=chunk_size_bytes,
        )
        return run_rounds([warm, *available(_PEERS, where, say)], where, runs_count, say)


def figures(all_series: Sequence[Series], *, origin: str) -> list[Figure]:
    """The ratios to the peers; an origin that does not limit connections has no targets."""
    aims = of_peers_time("throttled") if origin == "paced" else {}
    return ratios_to_peers(all_series[0], all_series, aims)
