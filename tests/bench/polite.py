"""An origin that serves slowly, and few connections at a time: what comes of them, against one connection of curl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import origins, own
from bench.access_log import answers, file_bytes
from bench.figures import TARGETS, Figure, figure
from bench.peers import LeftOut, program_path
from bench.place import RESULT, is_same, place, warm_cluster
from bench.programs import RunFailed, clean, run_command
from support.cluster import clean_environment
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.access_log import Answer
    from bench.place import Place, Site
    from support.cluster import Cluster

_MIB = 1024 * 1024
_BYTES_PER_SECOND = _MIB
_CHUNK_BYTES = 4 * _MIB
_ALLOWED_COUNT = 4
_CURL_CHUNKS = 4


@dataclass(frozen=True)
class Rate:
    """What came in how long."""

    what: str
    size_bytes: int
    seconds: float
    #: Of four connections, as curl uses one for the same ranges; None: curl itself.
    share: float | None = None
    refused_count: int = 0
    idle_seconds: float = 0.0  #: with fewer than four connections served

    @property
    def mib_per_second(self) -> float:
        """The rate."""
        return self.size_bytes / _MIB / self.seconds


def measure(
    site: Site, *, size_bytes: int, workers: int, runs_count: int, say: Callable[[str], object]
) -> list[Rate]:
    """Measure curl on one connection, and this program with its default of 16.

    Args:
        site: where the file and the volume are.
        size_bytes: of the file.
        workers: how many worker programs there are.
        runs_count: how many runs of this program.
        say: is told what happens.

    Raises:
        RunFailed: a run failed, or what it brought is not what the origin has.
    """
    say("making the file")
    open_origin = origins.limited(_BYTES_PER_SECOND, connections=_ALLOWED_COUNT)
    with place(site, size_bytes, open_origin=open_origin) as where:
        say("curl on one connection")
        whole, by_chunks = _curl(where, size_bytes)
        rates = [whole, by_chunks]
        with warm_cluster(where) as cluster:
            for _ in range(workers - 1):
                cluster.start_worker()
            what = f"submit, {workers} worker{'s' if workers > 1 else ''}, from submit to complete"
            for number in range(runs_count):
                cluster.redis.client().flushall()  # what the last run learned of the origin
                rate = _own(where, cluster, what, by_chunks)
                say(f"run {number + 1} of {runs_count}: {rate.seconds:.2f} s, {rate.refused_count} refused")
                rates.append(rate)
        return rates


def _curl(where: Place, size_bytes: int) -> tuple[Rate, Rate]:
    """The beginning of the file in one request, and chunk by chunk, each over one connection."""
    try:
        program = program_path("curl")
    except LeftOut as why:
        raise RunFailed(f"{why}, and it is what is compared with.") from why
    size_bytes = min(_CURL_CHUNKS * _CHUNK_BYTES, size_bytes)
    starts = range(0, size_bytes, _CHUNK_BYTES)
    chunks = [(start, min(start + _CHUNK_BYTES, size_bytes)) for start in starts]
    rates = []
    for what, ranges in (("curl, one request", [(0, size_bytes)]), ("curl, by chunks", chunks)):
        arguments = [program, "-q"]
        for number, (start, stop) in enumerate(ranges):
            arguments += ["--next"] if number else []
            arguments += [
                "-s",
                "-f",
                "-r",
                f"{start}-{stop - 1}",
                "-o",
                "/dev/null",
                where.origin.url_of(RESULT),
            ]
        usage = run_command(tuple(arguments), where.folder, clean_environment())
        rates.append(Rate(what, size_bytes, usage.wall_seconds))
    return rates[0], rates[1]


def _own(where: Place, cluster: Cluster, what: str, by_chunks: Rate) -> Rate:
    size_bytes = where.origin_file().stat().st_size
    before_count = len(answers(where.origin))
    with cluster.orchestrator() as orchestrator:
        program = own.warm_sync(cluster, orchestrator, where.origin, chunk_size_bytes=_CHUNK_BYTES)
        seconds = program.run().wall_seconds
    if not is_same(cluster.volume / RESULT, where.origin_file()):
        raise RunFailed("A run brought something else than the origin has.")
    clean(program)
    # The client may have its answer before the log has its line.
    wait_until(
        lambda: file_bytes(answers(where.origin)[before_count:]) >= size_bytes,
        what="all of the file in nginx's access log",
    )
    logged = answers(where.origin)[before_count:]
    share = size_bytes / seconds / (_ALLOWED_COUNT * by_chunks.size_bytes / by_chunks.seconds)
    refused_count = sum(answer.status == 503 for answer in logged)
    return Rate(what, size_bytes, seconds, share, refused_count, _seconds_below(logged))


def _seconds_below(logged: Sequence[Answer]) -> float:
    """How long fewer than four were served between the first and the last."""
    served = [answer for answer in logged if answer.is_of_file]
    edges = sorted(
        [(answer.ended_seconds - answer.took_seconds, 1) for answer in served]
        + [(answer.ended_seconds, -1) for answer in served]
    )
    count, below, before = 0, 0.0, edges[0][0]
    for at, change in edges:
        if count < _ALLOWED_COUNT:
            below += at - before
        count, before = count + change, at
    return below


def figures(rates: Sequence[Rate]) -> list[Figure]:
    """The share of four connections that this program made use of."""
    shares = [rate.share for rate in rates if rate.share is not None]
    return [figure("rate: submit / four connections of curl, by chunks", shares, aim=TARGETS["polite"])]
