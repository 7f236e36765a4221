"""Connections to origins: how many a process may open, and what it knows of those origins."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from tasks import metrics
from tasks.jobs import JobState
from tasks.rates import connections_of
from tasks.records import Lease, RedisError
from tasks.settings import CONNECTIONS, CONNECTIONS_EACH_HOST
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import JobTimedOut, OriginBusy, OriginUnreachable

if TYPE_CHECKING:
    from tasks.records import Progress, Records
    from tasks.settings import Settings
    from tasks.transfer.manifest import JobSpec
    from tasks.watch import Watch

logger = logging.getLogger(__name__)

#: How often a lease is asked for by who waits for one in place.
_LOOK_SECONDS = 0.015
#: An attempt that was refused because others are served comes back after this, and not at the next free lease: that
#: may be the one too many again.
CROWDED_OUT_SECONDS = 1.0
#: An origin from which bytes came is taken to be within reach of this host for so long.
_REACHED_SECONDS = 60.0
#: What a connection has to have brought, or for how long, before it is known how quick it is.
_TELLING_BYTES, _TELLING_SECONDS = 256 * 1024, 1.0
#: What is known of an origin of which no bytes came.
_NEVER = (-math.inf, 0.0)


class NoLease(Exception):
    """Nothing can be fetched now: all connections are taken, somebody is at it, or the origin has asked to wait."""

    def __init__(
        self,
        wait_seconds: float,
        chunks_done: int = 0,
        *,
        is_crowded: bool = False,
        is_for_another_host: bool = False,
    ) -> None:
        super().__init__(wait_seconds, chunks_done)
        self.wait_seconds, self.chunks_done = wait_seconds, chunks_done
        self.is_crowded = is_crowded  #: all connections are taken
        self.is_for_another_host = is_for_another_host  #: that one could make use of it at once


class Connections:
    """The connections of one process."""

    def __init__(self, records: Records, settings: Settings, watch: Watch) -> None:
        self._records = records
        self._settings = settings
        self._watch = watch
        #: When bytes came from an origin last, by the clock, and how many a second by that connection.
        self._reached: dict[str, tuple[float, float]] = {}

    def take_lease(
        self,
        progress: Progress,
        spec: JobSpec,
        *,
        limit_rate: str | None = None,
        is_stream: bool = False,
        length_bytes: int | None = None,
        patience_seconds: float = 0.0,
        held_patience_seconds: float = 0.0,
    ) -> Lease:
        """Take a lease on one of an origin's connections.

        Args:
            progress: of the attempt that wants it.
            spec: of its job.
            limit_rate: of its job; one of a low rate has no use for many.
            is_stream: a file that cannot be split; a second copy of its task would start it over.
            length_bytes: of the span that it is for, if that is known.
            patience_seconds: how long to ask again and again if all are taken.
            held_patience_seconds: how long to do so if somebody is at the span.

        Returns:
            The lease. Without Redis, which is a view, one of a job that is being fetched.

        Raises:
            NoLease: all are taken, somebody is at it already, or the origin has asked to wait.
            JobTimedOut: the time that the job was given has passed.
            AttemptStopped: this worker goes away.
        """
        limit, each_host = self._limit(spec, progress.origin)
        job_limit = 1 if is_stream else connections_of(limit_rate)
        began_seconds = time.monotonic()
        while True:
            try:
                lease = self._records.acquire(
                    progress,
                    origin_limit=limit,
                    job_limit=job_limit,
                    each_host=each_host,
                    length_bytes=length_bytes,
                    has_reached=self._has_reached(progress.origin),
                )
            except RedisError as error:
                logger.warning("lease not asked for job=%s error=%s", progress.job_id, error)
                return Lease(JobState.FETCHING, is_given=True)
            if lease.is_overdue:
                raise JobTimedOut(progress.job_id)
            if lease.is_given:
                return lease
            patience = patience_seconds
            if lease.is_held:
                patience = held_patience_seconds
            elif lease.wait_seconds or lease.others_starve:
                patience = 0.0
            if time.monotonic() >= began_seconds + patience:
                raise NoLease(
                    lease.wait_seconds,
                    lease.chunks_done,
                    is_crowded=not (lease.is_held or lease.wait_seconds or lease.is_for_another_host),
                    is_for_another_host=lease.is_for_another_host,
                )
            if self._watch.is_draining:
                raise AttemptStopped(StopReason.DRAIN)
            time.sleep(_LOOK_SECONDS)
            metrics.throttled(metrics.Throttle.CONNECTIONS, 0 if lease.is_held else _LOOK_SECONDS)

    def was_crowded_out(self, progress: Progress, error: Exception) -> bool:
        """Whether the origin refused this connection among others of ours: it allows fewer than were tried."""
        if not isinstance(error, OriginBusy | OriginUnreachable) or error.retry_after_seconds is not None:
            return False
        is_hosts_own = isinstance(error, OriginUnreachable) and not self._has_reached(progress.origin)
        try:
            return self._records.refused(progress, is_hosts_own=is_hosts_own)
        except RedisError:
            return False

    def brought_nothing(self, progress: Progress) -> None:
        """Take note that nothing came of an attempt for so long that the origin may be out of this host's reach.

        Raises:
            RedisError: others cannot be told.
        """
        self._reached.pop(progress.origin, None)
        self._records.refused(progress, is_hosts_own=True, was_refused=False)

    def reached(self, origin: str, brought_bytes: int, seconds: float) -> None:
        """Take note that bytes of an origin came, and in what time."""
        _, before = self._reached.get(origin, _NEVER)
        # Of a file's last bytes it says how long a request takes: taken for slow, nobody would help another one.
        is_telling = brought_bytes >= _TELLING_BYTES or seconds >= _TELLING_SECONDS
        self._reached[origin] = time.monotonic(), brought_bytes / seconds if is_telling else before

    def bytes_per_second(self, origin: str) -> float:
        """What the last connection to an origin brought; 0 if none did of late."""
        return self._of_late(origin) or 0.0

    def _has_reached(self, origin: str) -> bool:
        return self._of_late(origin) is not None

    def _of_late(self, origin: str) -> float | None:
        """What the last connection to an origin brought a second; None if none brought anything of late."""
        at_seconds, bytes_per_second = self._reached.get(origin, _NEVER)
        return bytes_per_second if time.monotonic() - at_seconds < _REACHED_SECONDS else None

    def _limit(self, spec: JobSpec, origin: str) -> tuple[int, int | None]:
        """How many connections to an origin there are for a job; and how many for each host, if that may be more."""
        limit, each_host = spec.connections or self._settings.connections, None
        if limit is None:
            limit, each_host = CONNECTIONS, CONNECTIONS_EACH_HOST
        own = self._settings.origins.get(origin)
        if own is not None and own.connections is not None:
            limit, each_host = min(limit, own.connections), None
        return limit, each_host

    def count(self, spec: JobSpec, origin: str) -> int:
        """How many connections to an origin a job may have with the hosts that there are now.

        Raises:
            RedisError: it cannot be asked which there are.
        """
        limit, each_host = self._limit(spec, origin)
        return limit if each_host is None else max(limit, each_host * self._records.hosts_count())
