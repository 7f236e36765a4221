"""One attempt under watch: what is noted of it from look to look, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks import metrics
from tasks.jobs import FETCHING_STATES
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import JobTimedOut, TooSlow

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.records import Progress, Standing
    from tasks.transfer.attempt import Attempt

#: A connection that has brought nothing for so long is slow; before that it may be far away.
_FIRST_BYTES_SECONDS = 3.0
#: Whom its job's limit holds back for such a part of the time is as quick as that lets it be, and not slow.
_HELD_PART = 0.2


@dataclass(frozen=True, slots=True)
class LowSpeed:
    """Connections that bring less than this many bytes a second over the window are dropped; 0: none is."""

    bytes_per_second: float
    window_seconds: float


class Watched:
    """An attempt, and what was seen of it."""

    def __init__(
        self,
        attempt: Attempt,
        progress: Callable[[], Progress],
        *,
        slice_seconds: float | None,
        may_yield: bool,
        now: float,
    ) -> None:
        """Begin to watch; see `Watch.over`."""
        self.attempt, self.progress = attempt, progress
        self.began_seconds = now
        self.may_yield = may_yield  #: to a job that has no connection at all
        self._ends_seconds = None if slice_seconds is None else now + slice_seconds
        self._window_began_seconds, self._window_bytes = now, attempt.done_bytes
        self._window_held_seconds = attempt.held_seconds  # for how long it had been held back then
        # When it was last looked at, what it had brought then, and for how long its job's limit had held it back.
        self._looked_seconds, self._looked_bytes = now, 0
        self._looked_held_seconds = attempt.held_by_job_seconds
        self._origin = progress().origin
        self._counted_bytes = attempt.brought_bytes if attempt.has_begun else 0
        self._counted_held_seconds = attempt.held_seconds

    def count(self) -> None:
        """Count for Prometheus what it has brought since it was last counted, and for how long it was held back."""
        self.attempt.count_held()
        # Before that it is not told apart from what earlier attempts left.
        brought_bytes = self.attempt.brought_bytes if self.attempt.has_begun else 0
        metrics.brought(self._origin, brought_bytes - self._counted_bytes)
        # Some may be given up again: they came nevertheless, and once.
        self._counted_bytes = max(self._counted_bytes, brought_bytes)
        held_seconds = self.attempt.held_seconds
        metrics.throttled(metrics.Throttle.RATE, held_seconds - self._counted_held_seconds)
        self._counted_held_seconds = held_seconds

    def check_slice(self, now: float) -> None:
        """End it if its time slice is over."""
        if self._ends_seconds is not None and now >= self._ends_seconds:
            self.attempt.stop(AttemptStopped(StopReason.SLICE))

    def check_speed(self, low_speed: LowSpeed, now: float) -> None:
        """End it if its connection is too slow; whom we hold back ourselves is not."""
        held_seconds = self.attempt.held_seconds
        seconds = now - self._window_began_seconds - (held_seconds - self._window_held_seconds)
        if seconds < low_speed.window_seconds:
            return
        came_bytes = self.attempt.done_bytes - self._window_bytes
        self._window_began_seconds, self._window_bytes = now, self.attempt.done_bytes
        self._window_held_seconds = held_seconds
        if came_bytes < low_speed.bytes_per_second * seconds:
            self.attempt.stop(TooSlow(came_bytes, seconds))

    def measure(self, now: float) -> None:
        """Note how quick it is of late; not before its first bytes came, for others take over from slow ones."""
        attempt = self.attempt
        brought_bytes, held_seconds = attempt.brought_bytes, attempt.held_by_job_seconds
        seconds = now - self._looked_seconds
        if seconds <= 0 or (self._looked_bytes == 0 and seconds < _FIRST_BYTES_SECONDS):
            if self._looked_bytes == 0 and brought_bytes > 0:
                self._looked_seconds, self._looked_bytes = now, brought_bytes
                self._looked_held_seconds = held_seconds
            return
        if (
            attempt.bytes_per_second is None
            and brought_bytes == self._looked_bytes
            and seconds < _FIRST_BYTES_SECONDS
        ):
            return  # between two reads, as it seems: taken to stand still, it would be fetched a second time
        if held_seconds - self._looked_held_seconds > _HELD_PART * seconds:
            # To take over from it would bring nothing sooner, and cost what it has in its buffers.
            attempt.bytes_per_second = None
        else:
            of_late = (brought_bytes - self._looked_bytes) / seconds
            before = attempt.bytes_per_second
            attempt.bytes_per_second = of_late if before is None else (before + of_late) / 2
        self._looked_seconds, self._looked_bytes = now, brought_bytes
        self._looked_held_seconds = held_seconds

    def tell(self, report: Progress, standing: Standing) -> None:
        """End it if it has to end, and let it know where its span does."""
        if standing.state is None:
            return  # Redis was emptied: what is fetched goes on, and the job's record comes back from the volume
        if standing.state not in FETCHING_STATES or standing.generation > report.generation:
            self.attempt.stop(AttemptStopped(StopReason.JOB_ENDED))
        elif standing.is_done:
            self.attempt.stop(AttemptStopped(StopReason.DONE))
        elif standing.is_overdue:
            self.attempt.stop(JobTimedOut(report.job_id))
        if standing.stop is not None and report.span is not None:
            self.attempt.cut_bytes = standing.stop - report.span.start
