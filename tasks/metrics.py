"""What a worker process counts for Prometheus: by plain numbers in its memory, a few times a second.

Nothing is counted, at the price of a call, until `begin`: without ``ORCHESTRATOR_METRICS_PORT`` nobody asks. The
process that serves the numbers is another one; it gets them as text, see `take`.
"""

from __future__ import annotations

import bisect
import enum
import json
import re
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: One of these is ever in a label: nothing of a path, a query or a user.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s\\\"\x00-\x1f\x7f]+")
_LONGEST_ORIGIN_BYTES = 255
#: Each origin is some lines of every scrape, and rests in Prometheus for weeks. Those that a process meets after so
#: many others are counted together.
MOST_ORIGINS = 100
#: All series of a process: origins, by the reasons for which each is asked again.
MOST_SERIES = 1000
OTHER = "other"

#: Seconds: the upper ends of the buckets of what chunks took. A time slice is 60 s, a stream may take hours.
CHUNK_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 600.0, 3600.0)


class Count(enum.StrEnum):
    """What is counted; what each is, `orchestrator.exposition` says."""

    BYTES = "bytes"  #: by origin
    RETRIES = "retries"  #: by origin and reason
    THROTTLED = "throttled_seconds"  #: by reason
    CHUNKS = "chunks"  #: by the number of the bucket of the seconds that they took
    CHUNK_SECONDS = "chunk_seconds"
    JOBS_COMPLETED = "jobs_completed"
    JOBS_FAILED = "jobs_failed"
    JOB_FAILURES = "job_failures"  #: by reason
    SWEPT_AT = "swept_at"  #: the time of the last sweep, in seconds since the epoch; it is not summed


class Throttle(enum.StrEnum):
    """Why nothing was fetched though there was something to fetch."""

    CONNECTIONS = "connections"  #: all connections that the origin may have were taken
    RETRY_AFTER = "retry_after"  #: the origin asked to wait
    RATE = "rate"  #: a limit of bytes per second held reads back


Series = tuple[str, ...]  #: what is counted, and the values of its labels


class Tally:
    """What one process, or several together, have counted."""

    def __init__(self) -> None:
        self._numbers: dict[Series, float] = {}
        self._origins: set[str] = set()
        self._lock = threading.Lock()
        self._is_new = False

    def add(self, count: Count, amount: float, *labels: str) -> None:
        """Count so much more."""
        with self._lock:
            series = self._bounded((count, *labels))
            self._numbers[series] = self._numbers.get(series, 0.0) + amount
            self._is_new = True

    def put(self, count: Count, value: float) -> None:
        """Note a value that is not summed."""
        with self._lock:
            self._numbers[(count,)] = value
            self._is_new = True

    def origin(self, origin: str) -> str:
        """The label of an origin: itself, or `OTHER` for what is none and for those that are too many."""
        if not _ORIGIN.fullmatch(origin) or len(origin.encode()) > _LONGEST_ORIGIN_BYTES:
            return OTHER
        with self._lock:
            if origin in self._origins or len(self._origins) < MOST_ORIGINS:
                self._origins.add(origin)
                return origin
        return OTHER

    def numbers(self) -> dict[Series, float]:
        """All that was counted."""
        with self._lock:
            return dict(self._numbers)

    def text(self) -> bytes | None:
        """All that was counted, for `merge`; None if that is what it was when it was asked for last."""
        with self._lock:
            if not self._is_new:
                return None
            self._is_new = False
            rows = [[*series, number] for series, number in self._numbers.items()]
            # Escapes would make a letter of an origin three times as long, and the text longer than there is room for.
            return json.dumps(rows, ensure_ascii=False).encode()

    def merge(self, text: bytes) -> None:
        """Add what another process has counted, or this one's predecessor."""
        for *series, number in json.loads(text) if text else []:
            key, before = tuple(series), self._numbers.get(tuple(series), 0.0)
            is_summed = key[0] != Count.SWEPT_AT
            self._numbers[key] = before + number if is_summed else max(before, number)
            if key[0] in _BY_ORIGIN:
                self._origins.add(key[1])

    def _bounded(self, series: Series) -> Series:
        """The series itself, or, when there are too many, one that there are few of."""
        if series[0] not in _BY_ORIGIN or series in self._numbers or len(self._numbers) < MOST_SERIES:
            return series
        return (series[0], *(OTHER for _ in series[1:]))


_BY_ORIGIN = (Count.BYTES, Count.RETRIES)

_tally: Tally | None = None


def begin(before: bytes = b"") -> None:
    """Count from now on, in this process.

    Args:
        before: what `take` gave to the process that this one takes the place of: counters must not begin anew.
    """
    global _tally  # noqa: PLW0603  (one process has one; None is what makes counting free)
    tally = Tally()
    tally.merge(before)
    _tally = tally


def take() -> bytes | None:
    """What this process has counted, as text; None: nothing since the last time."""
    return _tally.text() if _tally is not None else None


def merged(texts: Iterable[bytes]) -> Tally:
    """What several processes have counted."""
    tally = Tally()
    for text in texts:
        tally.merge(text)
    return tally


def brought(origin: str, count_bytes: int) -> None:
    """Count bytes that came from an origin and were written; by the watch, never for each block."""
    if _tally is not None and count_bytes > 0:
        _tally.add(Count.BYTES, count_bytes, _tally.origin(origin))


def chunk_took(seconds: float) -> None:
    """Count a chunk, or a span of one, that was brought."""
    if _tally is not None:
        _tally.add(Count.CHUNKS, 1, str(bisect.bisect_left(CHUNK_BOUNDS, seconds)))
        _tally.add(Count.CHUNK_SECONDS, seconds)


def retried(origin: str, reason: str) -> None:
    """Count an attempt that failed and is made again; the reason is the error's code."""
    if _tally is not None:
        _tally.add(Count.RETRIES, 1, _tally.origin(origin), reason)


def throttled(reason: Throttle, seconds: float) -> None:
    """Count seconds in which somebody waited though there was something to fetch."""
    if _tally is not None and seconds > 0:
        _tally.add(Count.THROTTLED, seconds, reason)


def job_completed() -> None:
    """Count a job that is complete."""
    if _tally is not None:
        _tally.add(Count.JOBS_COMPLETED, 1)


def job_failed(reason: str) -> None:
    """Count a job that failed; the reason is the error's code."""
    if _tally is not None:
        _tally.add(Count.JOBS_FAILED, 1)
        _tally.add(Count.JOB_FAILURES, 1, reason)


def swept() -> None:
    """Note that somebody has just looked at all jobs."""
    if _tally is not None:
        _tally.put(Count.SWEPT_AT, time.time())
