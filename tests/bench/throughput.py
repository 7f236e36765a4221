"""The main measure: one large file, several programs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import origins, own
from bench.figures import TARGETS, Figure, figure, of_peers_time, ratio, ratios_to_peers
from bench.loop import CLONING_KINDS
from bench.peers import LeftOut, peer
from bench.place import place, warm_cluster
from bench.rounds import run_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.place import Place, Site
    from bench.programs import Program
    from bench.rounds import Series


def measure(
    site: Site,
    *,
    size_bytes: int,
    runs_count: int,
    names: Sequence[str],
    layout: str,
    uses_tls: bool,
    say: Callable[[str], object],
) -> list[Series]:
    """Measure programs in turn.

    Args:
        site: where the file and the volume are.
        size_bytes: of the file.
        runs_count: how many runs are counted; one more of each, the first, is not.
        names: which programs; one that cannot be measured is left out.
        layout: of this program's parts.
        uses_tls: the origin has a certificate, whose authority every program trusts.
        say: is told what happens.

    Raises:
        RunFailed: a program failed, or what it brought is not what the origin has.
    """
    with ExitStack() as stack:
        say("making the file")
        open_origin = origins.tls if uses_tls else origins.plain
        where = stack.enter_context(place(site, size_bytes, open_origin=open_origin))
        chosen = _prepare(stack, where, names, layout, say)
        return run_rounds(chosen, where, runs_count, say)


def _prepare(
    stack: ExitStack, where: Place, names: Sequence[str], layout: str, say: Callable[[str], object]
) -> list[Program]:
    chosen: list[Program] = []
    warm_programs = {"warm": own.warm, "warm-sync": own.warm_sync}
    if warm_programs.keys() & set(names):
        cluster = stack.enter_context(warm_cluster(where))
        orchestrator = stack.enter_context(cluster.orchestrator())
    for name in dict.fromkeys(names):
        if name in warm_programs:
            chosen.append(warm_programs[name](cluster, orchestrator, where.origin, layout=layout))
        elif name == "embedded":
            chosen.append(own.embedded(where, layout=layout))
        else:
            try:
                chosen.append(peer(name, where))
            except LeftOut as why:
                say(f"left out: {why}")
    return chosen


def figures(
    all_series: Sequence[Series], size_bytes: int, *, layout: str, site: Site, uses_tls: bool
) -> list[Figure]:
    """What a run is about: ratios of time and CPU, and bytes written for each byte of the file.

    The targets of time are those of TLS, or else of the filesystem.
    """
    by_name = {series.name: series for series in all_series}
    found: list[Figure] = []
    if "warm" in by_name:
        warm = by_name["warm"]
        found += ratios_to_peers(warm, all_series, of_peers_time("TLS" if uses_tls else site.shown_as))
        if "aria2c" in by_name:
            what = f"CPU: {warm.shown_as} / {by_name['aria2c'].shown_as}"
            found.append(ratio(what, warm, by_name["aria2c"], "cpu_seconds", aim=TARGETS["CPU"]))
        # Parts on a filesystem that does not clone are copied, and nobody promised otherwise.
        aim = None if layout == "parts" and site.loop not in CLONING_KINDS else TARGETS["written"]
        written = [count / size_bytes for count in warm.values("written_bytes")]
        what = f"bytes written per byte of the file, layout {layout} on {site.shown_as}"
        found.append(figure(what, written, aim=aim))
    return found
