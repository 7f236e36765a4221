"""Rates: this process's share of its host's limit and of each job's, and the attempts that keep to them.

A share comes from Redis, twice a second with the watch's report. Without Redis the last one stands.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tasks.records import RedisError, Wish
from tasks.transfer.pacing import Bucket, Pace
from tasks.transfer.rates import NO_LIMIT, limiting, parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.records import Records
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.rates import Timetable

logger = logging.getLogger(__name__)

#: What a process asks for that is not held back: somewhat more than it uses, so that it may become quicker.
_MORE = 1.25
#: What it asks for at least, of its last share: a connection that brings nothing for a moment is not done.
_LEAST_OF_LAST = 0.25
#: In less time than this nothing can be told of what a process uses.
_LEAST_LOOK_SECONDS = 0.25
#: A job of a low rate opens a connection for so many bytes a second, and no more.
_CONNECTION_BYTES = 128 * 1024


@dataclass(slots=True)
class _Limit:
    """One limit, and what reads under it in this process."""

    timetable: Timetable
    bucket: Bucket
    attempts: set[Attempt] = field(default_factory=set)
    present: int | None = None  #: bytes a second for all processes, as it was when it was looked at last
    share: float | None = None  #: of that, this process's; None: it has none yet
    wanted: float | None = None  #: what it could use, in bytes a second; None: as much as it gets
    looked_seconds: float = 0.0  #: when that was found out


def present_rate(rate: str | None, now: Callable[[], datetime] = datetime.now) -> int | None:
    """What a rate or a timetable lets come at the moment, in bytes a second; None: any."""
    return None if rate is None else parse_rate(rate).at(now())


def connections_of(rate: str | None, now: Callable[[], datetime] = datetime.now) -> int | None:
    """How many connections a job of this rate has use for at the moment; None: as many as it may have."""
    present = present_rate(rate, now)
    return None if present is None else max(1, present // _CONNECTION_BYTES)


class RateLimits:
    """The limits that hold for this process."""

    def __init__(
        self,
        records: Records,
        *,
        process: str,
        host_name: str,
        host_rate: str | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Take where limits are shared, and this host's own.

        Args:
            records: where.
            process: a name that no other process has or had.
            host_name: processes that call their host so share its limit.
            host_rate: a rate or a timetable; None: none.
            clock: seconds, for reads.
            now: the time on this host's wall.
        """
        self._records, self._process = records, process
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._asking = threading.Lock()  #: held for as long as Redis takes to answer
        self._limits: dict[str, _Limit] = {}  #: by the key of its shares
        self._jobs: dict[Attempt, str] = {}
        self._host_key = records.host_rates(host_name)
        self._host_rate = limiting(host_rate)
        self._unused: set[str] = set()  #: keys of limits of which this process has shares and needs none

    @contextmanager
    def over(self, attempt: Attempt, job_id: str, rate: str | None) -> Iterator[None]:
        """Within, hold an attempt back as its job's rate and this host's say; None: its job has none."""
        key, rate = self._records.job_rates(job_id), limiting(rate)
        with self._lock:
            self._jobs[attempt] = key
            new = [
                each
                for each, its_rate in ((key, rate), (self._host_key, self._host_rate))
                # Its message may be from before the job got a limit that others here have heard of.
                if (its_rate or each in self._limits) and self._add(each, its_rate or NO_LIMIT, attempt)
            ]
            self._pace(attempt)
        # If somebody is asking just now, and perhaps waits for Redis, the watch asks for these in a moment.
        if new and self._asking.acquire(blocking=False):
            try:
                self._ask(new)
            finally:
                self._asking.release()
        try:
            yield
        finally:
            with self._lock:
                del self._jobs[attempt]
                for each in [each for each, limit in self._limits.items() if attempt in limit.attempts]:
                    self._remove(each, attempt)

    def heard(self, job_id: str, rate: str | None) -> None:
        """Take note of what a job's rate is by now."""
        key, rate = self._records.job_rates(job_id), limiting(rate)
        with self._lock:
            limit = self._limits.get(key)
            if rate is None and limit is not None:
                for attempt in list(limit.attempts):
                    self._remove(key, attempt)
                for attempt in [each for each, its_key in self._jobs.items() if its_key == key]:
                    self._pace(attempt)
            elif rate is not None and limit is not None:
                limit.timetable = parse_rate(rate)
            elif rate is not None:
                for attempt in [each for each, its_key in self._jobs.items() if its_key == key]:
                    self._add(key, rate, attempt)
                    self._pace(attempt)

    def renew(self, *, redis_is_away: bool = False) -> None:
        """Have the shares be as they are to be from now on; called twice a second."""
        with self._asking:
            with self._lock:
                keys = list(self._limits)
            if keys or self._unused:
                self._ask(keys, redis_is_away=redis_is_away)

    def _add(self, key: str, rate: str, attempt: Attempt) -> bool:
        """Have a limit hold for an attempt; whether nothing was under it before. The lock is held."""
        limit = self._limits.get(key)
        is_new = limit is None
        if limit is None:
            limit = self._limits[key] = _Limit(parse_rate(rate), Bucket(clock=self._clock))
            # Until it is known what others leave.
            limit.bucket.rate = 0
            self._unused.discard(key)
        limit.attempts.add(attempt)
        return is_new

    def _remove(self, key: str, attempt: Attempt) -> None:
        """Have a limit hold no more for an attempt; its share is given back by the watch. The lock is held."""
        limit = self._limits[key]
        limit.attempts.discard(attempt)
        if not limit.attempts:
            limit.bucket.rate = None
            del self._limits[key]
            self._unused.add(key)

    def _pace(self, attempt: Attempt) -> None:
        """Tell an attempt what holds it back; the lock is held."""
        of_job, of_host = (
            limit.bucket if (limit := self._limits.get(key)) is not None else None
            for key in (self._jobs[attempt], self._host_key)
        )
        attempt.pace = Pace(of_job, of_host) if of_job or of_host else None

    def _ask(self, keys: list[str], *, redis_is_away: bool = False) -> None:
        """Ask for shares, and give those back that are not needed; by one thread at a time."""
        with self._lock:
            asked = [(key, self._limits[key]) for key in keys if key in self._limits]
            wishes = [wish for key, limit in asked if (wish := self._wish(key, limit)) is not None]
            unused, self._unused = self._unused, set()
        if not wishes and not unused:
            return
        shares: dict[str, float] = {}
        try:
            if not redis_is_away:
                shares = self._records.share(self._process, wishes, unused=unused)
                unused = set()
        except RedisError as error:
            logger.debug("shares not asked for error=%s", error)  # the watch says that Redis is away
        with self._lock:
            self._unused |= unused - set(self._limits)
            for key, limit in asked:
                if key in shares:
                    limit.share = shares[key]
                elif limit.share is None:
                    limit.share = limit.present
                # Of one that was removed meanwhile nobody waits.
                limit.bucket.rate = limit.share if self._limits.get(key) is limit else None

    def _wish(self, key: str, limit: _Limit) -> Wish | None:
        """What this process would like of a limit; None if there is none at present. The lock is held."""
        before, limit.present = limit.present, limit.timetable.at(self._now())
        if limit.present is None:
            limit.share = limit.bucket.rate = None
            if before is not None:
                self._unused.add(key)
            return None
        if before is not None and limit.share is not None:
            # Should Redis be away, this much of it is what stands.
            limit.share *= limit.present / before
        now = self._clock()
        seconds = now - limit.looked_seconds
        if limit.share is None:
            limit.wanted, limit.looked_seconds = None, now
        elif seconds >= _LEAST_LOOK_SECONDS:
            used_bytes, was_short = limit.bucket.look()
            limit.looked_seconds = now
            limit.wanted = (
                None if was_short else max(_MORE * used_bytes / seconds, _LEAST_OF_LAST * limit.share)
            )
        return Wish(key, limit.present, limit.wanted, len(limit.attempts))
