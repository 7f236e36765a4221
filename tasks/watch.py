"""The watch: one thread in each worker process that looks after all attempts of that process.

Twice a second it reports every attempt's bytes and renews its lease in one round trip, learns whether
the jobs still stand, and ends what has to end: an attempt whose job ended or is out of time, whose time slice
is over, or whose connection is too slow. Reading threads are blocked in reads and cannot do that themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs import FETCHING_STATES
from tasks.records import Progress, Records, RedisError, Standing
from tasks.transfer.attempt import Attempt, AttemptStopped, StopReason
from tasks.transfer.errors import JobTimedOut, TooSlow
from tasks.turns import LEAST_TURN_SECONDS, Held, who_yields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
#: A connection that has brought nothing for so long is slow; before that it may be far away.
_FIRST_BYTES_SECONDS = 3.0


@dataclass(slots=True)
class _Watched:
    attempt: Attempt
    progress: Callable[[], Progress]
    ends_seconds: float | None  #: when the time slice is over, by the clock
    window_began_seconds: float
    window_bytes: int
    looked_seconds: float  #: when it was last looked at
    looked_bytes: int  #: what it had brought then
    began_seconds: float
    may_yield: bool  #: to a job that has no connection at all


@dataclass(frozen=True, slots=True)
class LowSpeed:
    """Connections that bring less than this many bytes a second over the window are dropped; 0: none is."""

    bytes_per_second: float
    window_seconds: float


class Watch:
    """Looks after the attempts of one process."""

    def __init__(
        self,
        records: Records,
        low_speed: LowSpeed,
        *,
        clock: Callable[[], float] = time.monotonic,
        tick_seconds: float | None = _TICK_SECONDS,
    ) -> None:
        """Take what to report to, and how often to look; None: only when `tick` is called."""
        self._records = records
        self._low_speed = low_speed
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.is_draining = False  #: this worker goes away
        self._redis_is_away = False

    @contextmanager
    def over(
        self,
        attempt: Attempt,
        progress: Callable[[], Progress],
        *,
        slice_seconds: float | None,
        may_yield: bool = False,
    ) -> Iterator[None]:
        """Within, look after `attempt`.

        Args:
            attempt: what to look after.
            progress: what to report of it.
            slice_seconds: how long it may take; None for a stream that could not be gone on with.
            may_yield: whether it may be ended before, for a job that has no connection at all.
        """
        now = self._clock()
        watched = _Watched(
            attempt=attempt,
            progress=progress,
            ends_seconds=None if slice_seconds is None else now + slice_seconds,
            window_began_seconds=now,
            window_bytes=attempt.done_bytes,
            looked_seconds=now,
            looked_bytes=0,
            began_seconds=now,
            may_yield=may_yield,
        )
        with self._lock:
            self._watched[attempt.name] = watched
            if self._thread is None and self._tick_seconds is not None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._tick_seconds,), name="watch", daemon=True
                )
                self._thread.start()
            is_draining = self.is_draining
        if is_draining:
            attempt.stop(AttemptStopped(StopReason.DRAIN))
        try:
            yield
        finally:
            with self._lock:
                del self._watched[attempt.name]

    def drain(self) -> None:
        """End all attempts, those that begin from now on included: this worker goes away."""
        with self._lock:
            self.is_draining = True
            watched = list(self._watched.values())
        for each in watched:
            each.attempt.stop(AttemptStopped(StopReason.DRAIN))

    def _run(self, tick_seconds: float) -> None:
        while True:
            time.sleep(tick_seconds)
            try:
                self.tick()
            except Exception:
                # Without the watch no lease is renewed, no slice ends and no cancel is heard.
                logger.exception("watch stumbled")

    def tick(self) -> None:
        """Look once at all attempts."""
        with self._lock:
            watched = list(self._watched.values())
        if not watched:
            return
        now = self._clock()
        for each in watched:
            if each.ends_seconds is not None and now >= each.ends_seconds:
                each.attempt.stop(AttemptStopped(StopReason.SLICE))
            self._check_speed(each, now)
            _measure(each, now)
        reports = {each.attempt.name: each.progress() for each in watched}
        try:
            standings = self._records.report(reports.values())
        except RedisError as error:
            # Redis is a view: without it the bytes go on coming.
            if not self._redis_is_away:
                logger.warning("progress not reported error=%s", error)
            self._redis_is_away = True
            return
        self._redis_is_away = False
        for each in watched:
            report = reports[each.attempt.name]
            _tell(each.attempt, report, standings[report.holder])
        self._yield_to_starving(
            [
                Held(each.attempt, reports[each.attempt.name], standings[reports[each.attempt.name].holder])
                for each in watched
                if each.may_yield and now - each.began_seconds >= LEAST_TURN_SECONDS
            ]
        )

    def _yield_to_starving(self, held: list[Held]) -> None:
        """End one attempt if a job starves that nobody has yielded to in the last moment."""
        chosen = who_yields(held)
        try:
            if chosen is None or not self._records.claim_turn(chosen[1]):
                return
        except RedisError:
            return  # the next report says so
        each, starving = chosen
        logger.info("yielded job=%s span=%s to=%s", each.report.job_id, each.report.span, starving.job_id)
        each.attempt.stop(AttemptStopped(StopReason.SLICE))

    def _check_speed(self, each: _Watched, now: float) -> None:
        seconds = now - each.window_began_seconds
        if seconds < self._low_speed.window_seconds:
            return
        came_bytes = each.attempt.done_bytes - each.window_bytes
        each.window_began_seconds, each.window_bytes = now, each.attempt.done_bytes
        if came_bytes < self._low_speed.bytes_per_second * seconds:
            each.attempt.stop(TooSlow(came_bytes, seconds))


def _tell(attempt: Attempt, report: Progress, standing: Standing) -> None:
    """End an attempt that has to end, and let it know where its span does."""
    if standing.state not in FETCHING_STATES or standing.generation > report.generation:
        attempt.stop(AttemptStopped(StopReason.JOB_ENDED))
    elif standing.is_done:
        attempt.stop(AttemptStopped(StopReason.DONE))
    elif standing.is_overdue:
        attempt.stop(JobTimedOut(report.job_id))
    if standing.stop is not None and report.span is not None:
        attempt.cut_bytes = standing.stop - report.span.start


def _measure(each: _Watched, now: float) -> None:
    """Note how quick an attempt is of late; not before its first bytes came, for others take over from slow ones."""
    brought_bytes = each.attempt.brought_bytes
    seconds = now - each.looked_seconds
    if seconds <= 0 or (each.looked_bytes == 0 and seconds < _FIRST_BYTES_SECONDS):
        if each.looked_bytes == 0 and brought_bytes > 0:
            each.looked_seconds, each.looked_bytes = now, brought_bytes
        return
    of_late = (brought_bytes - each.looked_bytes) / seconds
    before = each.attempt.bytes_per_second
    each.attempt.bytes_per_second = of_late if before is None else (before + of_late) / 2
    each.looked_seconds, each.looked_bytes = now, brought_bytes
