"""The watch: one thread in each worker process that looks after all attempts of that process.

Twice a second it reports every attempt's bytes and renews its lease in one round trip, learns whether
the jobs still stand, and ends what has to end: an attempt whose job ended or is out of time, whose time slice
is over, or whose connection is too slow. Reading threads are blocked in reads and cannot do that themselves.

Another thread beats the process's pulse, which must not wait for Redis as the watch does: where the pulse stood
still, the whole process did, its leases ran out, and its attempts end before they write anything more.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records import LEASE_SECONDS, Progress, Records, RedisError
from tasks.transfer.attempt import Attempt, AttemptStopped, Pulse, StopReason, uptime_seconds
from tasks.turns import LEAST_TURN_SECONDS, Held, who_yields, who_yields_to_a_host
from tasks.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tasks.jobs import JobState
    from tasks.rates import RateLimits
    from tasks.watched import LowSpeed

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
#: Where a job comes to its end it looks so many times as often: others take over from those who hear of it soon.
_ENDING_TICKS = 2
#: Leases count from the second in which they were renewed: up to one less.
_MOST_STILL_SECONDS = LEASE_SECONDS - 1


@dataclass(frozen=True, slots=True)
class _Guarded:
    attempt: Attempt
    job_id: str | None
    states: Collection[JobState]


class Watch:
    """Looks after the attempts of one process."""

    def __init__(
        self,
        records: Records,
        low_speed: LowSpeed,
        *,
        limits: RateLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        uptime: Callable[[], float] = uptime_seconds,
        tick_seconds: float | None = _TICK_SECONDS,
    ) -> None:
        """Take what to report to, and how often to look; None: only when `tick` is called, and `beat` of the pulse."""
        self._records = records
        self._limits = limits
        self._low_speed = low_speed
        self._clock = clock
        self._tick_seconds = tick_seconds
        self.pulse = Pulse(_MOST_STILL_SECONDS, clock=uptime)
        self._watched: dict[str, Watched] = {}
        self._at_work: Counter[str] = Counter()  # jobs that are planned or merged
        self._guarded: dict[str, _Guarded] = {}
        self._lock = threading.Lock()
        # Held while the watch looks: no attempt ends meanwhile, see `report`.
        self._looking = threading.Lock()
        self._is_running = False
        self.is_draining = False  #: this worker goes away
        self._redis_is_away = False
        self._a_job_ends = False

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
        limit_rate: str | None = None,
    ) -> Iterator[None]:
        """Within, look after `attempt`.

        Args:
            attempt: what to look after.
            progress: what to report of it.
            slice_seconds: how long it may take; None for a stream that could not be gone on with.
            may_yield: whether it may be ended before, for a job that has no connection at all.
            limit_rate: what its job may bring a second, as far as it is known now; None: any.
        """
        watched = Watched(
            attempt, progress, slice_seconds=slice_seconds, may_yield=may_yield, now=self._clock()
        )
        with self._lock:
            self._watched[attempt.name] = watched
            is_draining = self.is_draining
        if is_draining:
            attempt.stop(AttemptStopped(StopReason.DRAIN))
        try:
            with self._held_back(attempt, progress().job_id, limit_rate):
                yield
        finally:
            with self._looking, self._lock:
                self._watched.pop(attempt.name).count()

    def _held_back(
        self, attempt: Attempt, job_id: str, limit_rate: str | None
    ) -> contextlib.AbstractContextManager[None]:
        if self._limits is None:
            return contextlib.nullcontext()
        return self._limits.over(attempt, job_id, limit_rate)

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
            time.sleep(tick_seconds / _ENDING_TICKS if self._a_job_ends else tick_seconds)
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
        for each in watched:
            each.count()
        # Who lost its lease has nothing to say of a span: another may be at it, or have brought it.
        watched = [each for each in watched if not each.attempt.has_lost_lease]
        now = self._clock()
        for each in watched:
            each.check_slice(now)
            each.check_speed(self._low_speed, now)
            each.measure(now)
        try:
            self._report(watched, guarded)
        except RedisError as error:
            # Redis is a view: without it the bytes go on coming.
            if not self._redis_is_away:
                logger.warning("progress not reported error=%s", error)
            self._redis_is_away = True
        else:
            self._redis_is_away = False
        if self._limits is not None:
            self._limits.renew(redis_is_away=self._redis_is_away)

    def _report(self, watched: Sequence[Watched], guarded: Sequence[_Guarded]) -> None:
        """Report what goes on, and end what is told to end."""
        now = self._clock()
        with self._lock:
            at_work = list(self._at_work)
        if at_work:
            self._records.goes_on(at_work)
        reports = {each.attempt.name: each.progress() for each in watched}
        standings = self._records.report(reports.values()) if reports else {}
        self._a_job_ends = any(standing.is_ending for standing in standings.values())
        for each in watched:
            report = reports[each.attempt.name]
            standing = standings[report.holder]
            each.tell(report, standing)
            # Where Redis was emptied, nobody knows better than before.
            if self._limits is not None and standing.state is not None:
                self._limits.heard(report.job_id, standing.limit_rate)
        job_ids = [each.job_id for each in guarded if each.job_id is not None]
        states = dict(zip(job_ids, self._records.states(job_ids), strict=True)) if job_ids else {}
        for one in guarded:
            if one.job_id is not None and states[one.job_id] not in one.states:
                one.attempt.stop(AttemptStopped(StopReason.JOB_ENDED))
        held = [
            Held(each.attempt, reports[each.attempt.name], standings[reports[each.attempt.name].holder])
            for each in watched
            if each.may_yield and now - each.began_seconds >= LEAST_TURN_SECONDS
        ]
        if not self._yield_to_starving(held):
            self._yield_to_a_host(held)

    def _yield_to_starving(self, held: list[Held]) -> bool:
        """End one attempt if a job starves that nobody has yielded to in the last moment; whether one does."""
        chosen = who_yields(held)
        if chosen is not None:
            each, starving = chosen
            _yield(each, f"job {starving.job_id}", lambda: self._records.claim_turn(starving))
        return chosen is not None

    def _yield_to_a_host(self, held: list[Held]) -> None:
        """End one attempt if a host is in need that nobody has yielded to in the last moment."""
        chosen = who_yields_to_a_host(held)
        if chosen is not None:
            each, host = chosen
            _yield(each, f"host {host}", lambda: self._records.claim_host_turn(each.report.origin, host))


def _yield(each: Held, to: str, claim: Callable[[], bool]) -> None:
    """End an attempt as at the end of its time slice, if nobody else does so for the same."""
    try:
        is_claimed = claim()
    except RedisError:
        return  # the next report says so
    if is_claimed:
        logger.info("yielded job=%s span=%s to=%s", each.report.job_id, each.report.span, to)
        each.attempt.stop(AttemptStopped(StopReason.SLICE))
