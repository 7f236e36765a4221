"""What Prometheus reads: all metrics, their names and what they mean. The only module on prometheus_client."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from tasks.metrics import CHUNK_BOUNDS, Count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from orchestrator.board import Vitals
    from tasks.metrics import Tally
    from tasks.records import ClusterFigures

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "manyhands_"

#: Of each count that is no more than its sum: name, help, names of its labels.
_COUNTERS = {
    Count.RETRIES: ("retries", "Attempts that failed and are made again, by error.", ["origin", "reason"]),
    Count.THROTTLED: ("throttled_seconds", "Seconds of waiting with something to fetch.", ["reason"]),
    Count.JOBS_COMPLETED: ("jobs_completed", "Jobs that this worker has completed.", []),
    # Without the reason, too: a series that begins at 1 has not risen, says Prometheus.
    Count.JOBS_FAILED: ("jobs_failed", "Jobs of which this worker has said that they failed.", []),
    Count.JOB_FAILURES: ("job_failures", "The same, by error.", ["reason"]),
}


@dataclass(frozen=True)
class Seen:
    """All that there is to tell at one moment."""

    worker: str  #: what records call this host
    version: str
    tally: Tally  #: of all processes of this worker
    vitals: Iterable[Vitals]
    #: Free bytes of the volume and all of it; None: it does not answer, or is not there.
    space: tuple[int, int] | None
    serves_control: bool
    figures: ClusterFigures | None = None  #: None: Redis does not answer, or this is no control
    limits: Mapping[str, int] | None = None  #: connections by origin, of those in the figures


def text_of(seen: Seen) -> bytes:
    """The page of `/metrics`, in Prometheus's text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(seen))
    return generate_latest(registry)


class _Collector:
    """What prometheus_client asks for metrics."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        seen = self._seen
        version = {"version": seen.version, "python": platform.python_version()}
        yield _gauge("build_info", "The program's version.", [(tuple(version.values()), 1)], list(version))
        yield from _counts(seen.tally, seen.worker)
        yield from _processes(seen.vitals)
        yield from _volume(seen.space)
        if seen.serves_control:
            yield _gauge(
                "redis_up", "Whether Redis answers, with what makes sense.", [((), seen.figures is not None)]
            )
        if seen.figures is not None:
            yield from _cluster(seen.figures, seen.limits or {})


def _gauge(
    name: str, text: str, values: Iterable[tuple[tuple[str, ...], float]], labels: list[str] | None = None
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels or [])
    for of_labels, value in values:
        family.add_metric(of_labels, value)
    return family


def _counts(tally: Tally, worker: str) -> Iterator[Metric]:
    numbers = tally.numbers()
    came = CounterMetricFamily(f"{PREFIX}bytes", "Bytes fetched and written.", labels=["origin", "worker"])
    for series, number in numbers.items():
        if series[0] == Count.BYTES:
            came.add_metric([series[1], worker], number)
    yield came
    for count, (name, text, labels) in _COUNTERS.items():
        family = CounterMetricFamily(PREFIX + name, text, labels=labels)
        for series, number in numbers.items():
            if series[0] == count:
                family.add_metric(series[1:], number)
        if not labels and (count,) not in numbers:
            family.add_metric([], 0)  # one that has no labels is there from the beginning
        yield family
    yield _chunks(numbers)
    swept_at = numbers.get((Count.SWEPT_AT,), 0.0)
    text = "When this worker last looked for jobs that stand still; 0: never. The workers take turns."
    yield _gauge("last_sweep_timestamp_seconds", text, [((), swept_at)])


def _chunks(numbers: Mapping[tuple[str, ...], float]) -> Metric:
    bounds = [*map(str, CHUNK_BOUNDS), "+Inf"]
    buckets, count = [], 0.0
    for number, bound in enumerate(bounds):
        count += numbers.get((Count.CHUNKS, str(number)), 0.0)
        buckets.append((bound, count))
    family = HistogramMetricFamily(
        f"{PREFIX}chunk_seconds", "What it took to fetch a chunk, or the part of one that was missing."
    )
    family.add_metric([], buckets, numbers.get((Count.CHUNK_SECONDS,), 0.0))
    return family


def _processes(vitals: Iterable[Vitals]) -> Iterator[Metric]:
    vitals = list(vitals)
    yield _gauge(
        "process_up",
        "Whether a process of this worker runs and beats.",
        [((each.name,), each.is_well and each.pid is not None) for each in vitals],
        ["process"],
    )
    starts = CounterMetricFamily(
        f"{PREFIX}process_starts", "How often a process of this worker was started.", labels=["process"]
    )
    for each in vitals[1:]:
        starts.add_metric([each.name], each.starts_count)
    yield starts


def _volume(space: tuple[int, int] | None) -> Iterator[Metric]:
    yield _gauge("volume_up", "Whether this host has the volume, and it answers.", [((), space is not None)])
    if space is not None:
        yield _gauge("volume_free_bytes", "Free bytes of the volume, as this host sees it.", [((), space[0])])
        yield _gauge("volume_size_bytes", "Bytes of the volume, as this host sees it.", [((), space[1])])


def _cluster(figures: ClusterFigures, limits: Mapping[str, int]) -> Iterator[Metric]:
    by_state = [((state,), count) for state, count in sorted(figures.jobs.items())]
    yield _gauge("jobs", "Jobs that have not ended, by state.", by_state, ["state"])
    queues = figures.queues.items()
    yield _gauge(
        "queue_messages",
        "Messages that no worker has taken.",
        [((queue,), each.messages_count) for queue, each in queues],
        ["queue"],
    )
    now = time.time()
    yield _gauge(
        "queue_oldest_message_age_seconds",
        "Seconds since the oldest of these was sent, by the clocks of who sent it and of this host.",
        [((queue,), _age(each.oldest_sent_at, now)) for queue, each in queues if each.is_age_known],
        ["queue"],
    )
    text = "Messages that workers have: at work, or until their time comes."
    yield _gauge("unacknowledged_messages", text, [((), figures.unacknowledged_count)])
    origins = figures.origins.items()
    leases = [((origin,), each.leases_count) for origin, each in origins]
    yield _gauge("leases", "Connections that workers may have open at the moment.", leases, ["origin"])
    text = "The most of these, by the settings and by what the origin was seen to allow."
    yield _gauge("leases_limit", text, [((o,), limits[o]) for o, _ in origins if o in limits], ["origin"])
    text = "Worker processes that said in the last ten seconds that they live."
    yield _gauge("worker_processes", text, [((), figures.processes_count)])


def _age(sent_at: float | None, now: float) -> float:
    return 0.0 if sent_at is None else max(0.0, now - sent_at)
