"""Pacing: reads that wait until their bytes may come.

Who reads takes a ticket for so many bytes before it asks the kernel for them, and waits until it is due: tickets are
due in their order, as bytes are earned with time. What is not read stays with the kernel, whose buffer fills, and TCP
has the origin wait: so the wire keeps the rate too, but for a buffer of each connection at its beginning.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: What might have come and was not read may be caught up on, so many seconds' worth: threads wake late now and then.
_BURST_SECONDS = 0.25
#: A read is at most so many seconds' worth of the whole rate, however few read.
_BLOCK_SECONDS = 0.1
_LEAST_BLOCK_BYTES = 256
#: A rate that changes is heard of by those who wait after this.
_LOOK_SECONDS = 0.25


class Bucket:
    """Earns so many bytes a second, for all that read under one limit in this process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate: float | None = None
        self._at_seconds = clock()
        self._earned = 0.0  # bytes that might have come by then
        self._issued = 0.0  # bytes of all tickets; what was not read is put back
        self._used = 0.0  # of these, since it was looked at last
        self._was_short = False  # somebody has waited since then

    @property
    def rate(self) -> float | None:
        """Bytes a second; None: as many as come."""
        return self._rate

    @rate.setter
    def rate(self, value: float | None) -> None:
        with self._lock:
            self._earn()
            self._rate = value

    @property
    def block_bytes(self) -> int | None:
        """The most to read at once; None: any."""
        rate = self._rate
        return None if rate is None else max(int(rate * _BLOCK_SECONDS), _LEAST_BLOCK_BYTES)

    def take(self, count_bytes: int) -> float:
        """A ticket for so many bytes."""
        with self._lock:
            self._earn()
            ticket = self._issued
            self._issued += count_bytes
            self._used += count_bytes
            return ticket

    def put_back(self, count_bytes: int) -> None:
        """Say that so many bytes of a ticket were not read; those behind it are due sooner."""
        with self._lock:
            self._earned += count_bytes
            self._used -= count_bytes

    def wait_seconds(self, ticket: float) -> float:
        """How long to wait before the ticket is looked at again; 0: it is due."""
        with self._lock:
            self._earn()
            missing_bytes = ticket - self._earned
            # Sums of times are not exact: a wait for a thousandth of a byte would come back for another.
            if missing_bytes < 1:
                return 0.0
            return min(missing_bytes / self._rate, _LOOK_SECONDS) if self._rate else _LOOK_SECONDS

    def is_short(self) -> None:
        """Say that somebody waits for this limit, and not for another one."""
        self._was_short = True

    def look(self) -> tuple[float, bool]:
        """Bytes that were read since the last look, and whether somebody waited for more."""
        with self._lock:
            found = self._used, self._was_short
            self._used, self._was_short = 0.0, False
            return found

    def _earn(self) -> None:
        """Count what was earned by now; the lock is held."""
        now = self._clock()
        if self._rate is None:
            self._earned = self._issued
        else:
            self._earned += self._rate * (now - self._at_seconds)
            self._earned = min(self._earned, self._issued + self._rate * _BURST_SECONDS)
        self._at_seconds = now


class Pace:
    """What holds an attempt's reads back: its job's limit, its host's, or both."""

    def __init__(self, of_job: Bucket | None, of_host: Bucket | None) -> None:
        self._of_job = of_job
        self._buckets = [bucket for bucket in (of_job, of_host) if bucket is not None]

    def wait(self, wanted_bytes: int, hold: Callable[[float, bool], object]) -> int:
        """Wait until bytes may be read; how many, `wanted_bytes` at most.

        Args:
            wanted_bytes: what there is room for.
            hold: waits so many seconds, or less, and is told whether they are for the job's limit; what it raises ends
                the wait.
        """
        most_bytes = [bucket.block_bytes for bucket in self._buckets]
        wanted_bytes = min([wanted_bytes, *(most for most in most_bytes if most is not None)])
        tickets = [bucket.take(wanted_bytes) for bucket in self._buckets]
        try:
            while True:
                waits = [
                    bucket.wait_seconds(ticket) for bucket, ticket in zip(self._buckets, tickets, strict=True)
                ]
                if not any(waits):
                    return wanted_bytes
                longest = max(waits)
                bucket = self._buckets[waits.index(longest)]
                bucket.is_short()
                hold(longest, bucket is self._of_job)
        except BaseException:
            self.put_back(wanted_bytes)
            raise

    def put_back(self, count_bytes: int) -> None:
        """Say that so many of the bytes that might have been read were not."""
        for bucket in self._buckets:
            bucket.put_back(count_bytes)
