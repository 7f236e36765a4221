"""The watch: one thread in each worker process that looks after all attempts of that process.

Twice a second it reports every attempt's bytes and renews its lease in one round trip, learns whether
the jobs still stand, and ends what has to end: an attempt whose job ended or is out of time, whose time slice
is over, or whose connection is too slow. Reading threads are blocked in reads and cannot do that themselves.

Another thread beats the process's pulse, which must not wait for Redis as the watch does: where the pulse stood
still, the whole process did, its leases ran out, and its attempts end before they write anything more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs import FETCHING_STATES
from tasks.records import LEASE_SECONDS, Progress, Records, RedisError, Standing
from tasks.transfer.attempt import Attempt, AttemptStopped, Pulse, StopReason, uptime_seconds
from tasks.transfer.errors import JobTimedOut, TooSlow
from tasks.turns import LEAST_TURN_SECONDS, Held, who_yields

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tasks.jobs import JobState

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
#: Leases count from the second in which they were renewed: up to one less.
_MOST_STILL_SECONDS = LEASE_SECONDS - 1
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
class _Guarded:
    attempt: Attempt
    job_id: str | None
    states: Collection[JobState]


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
        uptime: Callable[[], float] = uptime_seconds,
        tick_seconds: float | None = _TICK_SECONDS,
    ) -> None:
        """Take what to report to, and how often to look; None: only when `tick` is called, and `beat` of the pulse."""
        self._records = records
        self._low_speed = low_speed
        self._clock = clock
        self._tick_seconds = tick_seconds
        self.pulse = Pulse(_MOST_STILL_SECONDS, clock=uptime)
        self._watched: dict[str, _Watched] = {}
        self._at_work: Counter[str] = Counter()  # jobs that are planned or merged
        self._guarded: dict[str, _Guarded] = {}
        self._lock = threading.Lock()
        # Held while the watch looks: no attempt ends meanwhile, see `report`.
        self._looking = threading.Lock()
        self._is_running = False
        self.is_draining = False  #: this worker goes away
        self._redis_is_away = False

    def new_attempt(self, name: str) -> Attempt:
        """An attempt that ends if this process stands still for longer than a lease lasts."""
        with self._lock:
            self._begin()
        return Attempt(name, self.pulse)

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
            is_draining = self.is_draining
        if is_draining:
            attempt.stop(AttemptStopped(StopReason.DRAIN))
        try:
            yield
        finally:
            with self._looking, self._lock:
                del self._watched[attempt.name]

    @contextmanager
    def over_job(self, job_id: str) -> Iterator[None]:
        """Within, go on saying that somebody plans or merges a job."""
        with self._lock:
            self._at_work[job_id] += 1
            self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._at_work[job_id] -= 1
                self._at_work += Counter()  # without those at zero

    @contextmanager
    def guarding(
        self, attempt: Attempt, job_id: str | None = None, *, states: Collection[JobState] = ()
    ) -> Iterator[None]:
        """Within, end `attempt`, which fetches nothing, when this worker goes away or a job leaves these states."""
        with self._lock:
            self._guarded[attempt.name] = _Guarded(attempt, job_id, states)
            is_draining = self.is_draining
        if is_draining:
            attempt.stop(AttemptStopped(StopReason.DRAIN))
        try:
            yield
        finally:
            with self._lock:
                del self._guarded[attempt.name]

    def drain(self) -> None:
        """End all attempts, those that begin from now on included: this worker goes away."""
        with self._lock:
            self.is_draining = True
            attempts = [each.attempt for each in self._watched.values()]
            attempts += [each.attempt for each in self._guarded.values()]
        for attempt in attempts:
            attempt.stop(AttemptStopped(StopReason.DRAIN))

    def _beat(self, tick_seconds: float) -> None:
        while True:
            self.pulse.beat()
            time.sleep(tick_seconds)

    def _begin(self) -> None:
        """Have the threads run, which are started when they are needed first; the lock is held."""
        if not self._is_running and self._tick_seconds is not None:
            self._is_running = True
            for run in (self._beat, self._run):
                threading.Thread(target=run, args=(self._tick_seconds,), name="watch", daemon=True).start()

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
        with self._looking:
            self._look()

    def _look(self) -> None:
        with self._lock:
            watched, guarded = list(self._watched.values()), list(self._guarded.values())
        for attempt in (*(each.attempt for each in watched), *(each.attempt for each in guarded)):
            if attempt.has_lost_lease:
                attempt.stop(AttemptStopped(StopReason.LEASE_LOST))
        # Who lost its lease has nothing to say of a span: another may be at it, or have brought it.
        watched = [each for each in watched if not each.attempt.has_lost_lease]
        now = self._clock()
        for each in watched:
            if each.ends_seconds is not None and now >= each.ends_seconds:
                each.attempt.stop(AttemptStopped(StopReason.SLICE))
            self._check_speed(each, now)
            _measure(each, now)
        try:
            self._report(watched, guarded)
        except RedisError as error:
            # Redis is a view: without it the bytes go on coming.
            if not self._redis_is_away:
                logger.warning("progress not reported error=%s", error)
            self._redis_is_away = True
        else:
            self._redis_is_away = False

    def _report(self, watched: Sequence[_Watched], guarded: Sequence[_Guarded]) -> None:
        """Report what goes on, and end what is told to end."""
        now = self._clock()
        with self._lock:
            at_work = list(self._at_work)
        if at_work:
            self._records.goes_on(at_work)
        reports = {each.attempt.name: each.progress() for each in watched}
        standings = self._records.report(reports.values()) if reports else {}
        for each in watched:
            report = reports[each.attempt.name]
            _tell(each.attempt, report, standings[report.holder])
        job_ids = [each.job_id for each in guarded if each.job_id is not None]
        states = dict(zip(job_ids, self._records.states(job_ids), strict=True)) if job_ids else {}
        for one in guarded:
            if one.job_id is not None and states[one.job_id] not in one.states:
                one.attempt.stop(AttemptStopped(StopReason.JOB_ENDED))
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
    if standing.state is None:
        return  # Redis was emptied: what is fetched goes on, and the job's record comes back from the volume
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
    before = each.attempt.bytes_per_second
    if before is None and brought_bytes == each.looked_bytes and seconds < _FIRST_BYTES_SECONDS:
        return  # between two reads, as it seems: taken to stand still, it would be fetched a second time
    of_late = (brought_bytes - each.looked_bytes) / seconds
    each.attempt.bytes_per_second = of_late if before is None else (before + of_late) / 2
    each.looked_seconds, each.looked_bytes = now, brought_bytes
