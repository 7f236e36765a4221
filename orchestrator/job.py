"""A handle on one job: look, wait, steer."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from orchestrator.asking import ask
from orchestrator.lost import LostRecords
from tasks.app import PLAN_TASK, REMOVE_TASK, VERIFY_TASK
from tasks.jobs import ACTIVE_STATES, RESUMABLE_STATES, JobRecord, JobState
from tasks.messages import urgency
from tasks.records import RedisAway, RedisError
from tasks.transfer.errors import BadOption
from tasks.transfer.rates import parse_rate
from tasks.transfer.verify_file import Verification

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster import Cluster
    from orchestrator.lost import Submitted
    from tasks.records.states import Changes

logger = logging.getLogger(__name__)

#: How often a waiting client looks, changes of state aside, which it is told at once.
LOOK_SECONDS = 0.25
#: How often it looks whether a Redis that is away is back.
AWAY_SECONDS = 1.0


class JobEndedBadly(Exception):
    """The job failed, was cancelled, or is paused; `record` says why."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__(record)
        self.record = record

    def __str__(self) -> str:
        """Say what became of the job."""
        if self.record.error is not None:
            return self.record.error.message
        return f"Job {self.record.job_id} is {self.record.state}."


class StillRunning(Exception):
    """The job had not been seen to end when the time to wait was over."""

    def __init__(
        self, job_id: str, record: JobRecord | None, seconds: float, away: RedisAway | None = None
    ) -> None:
        """Take the job, and how it stood.

        Args:
            job_id: which job.
            record: as it was seen last; None: it never was.
            seconds: how long it was waited for.
            away: why its record could not be read at the end.
        """
        super().__init__(job_id, record, seconds, away)
        self.job_id, self.record, self.seconds, self.away = job_id, record, seconds, away

    def __str__(self) -> str:
        """Say that it goes on, and how to come back."""
        state = f" is {self.record.state}" if self.record else ""
        come_back = f"Come back with: orchestrator wait {self.job_id}"
        if self.away is None:
            return f"Job {self.job_id}{state} after {self.seconds:g} seconds and goes on. {come_back}"
        last = f", {self.record.state} when it was last seen," if self.record else ""
        return (
            f"Job {self.job_id}{last} had not ended after {self.seconds:g} seconds that could be seen: Redis is away, "
            f"and the workers go on with what they have. {come_back}"
        )


class Job:
    """A handle on one job."""

    def __init__(self, cluster: Cluster, job_id: str, submitted: Submitted | None = None) -> None:
        """Take the job.

        Args:
            cluster: where it is.
            job_id: which it is.
            submitted: what it is made of, if it was this process that submitted it.
        """
        self._cluster = cluster
        self.job_id = job_id
        self.submitted = submitted

    def status(self) -> JobRecord:
        """The record as it is now; `NoSuchJob` if there is none."""
        return self._cluster.records.read(self.job_id)

    def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[JobRecord], object] = lambda _: None,
        on_away: Callable[[RedisAway], object] = lambda _: None,
    ) -> JobRecord:
        """Wait until the file is there, also while Redis is away.

        Args:
            timeout_seconds: how long at most; None: as long as it takes.
            on_look: called with the record at short intervals.
            on_away: called instead for as long as Redis does not answer.

        Raises:
            JobEndedBadly: the job failed, was cancelled or was paused.
            StillRunning: the time is over.
            NoSuchJob: it has no record; `RecordLost` if it had one, and nobody puts it back.
            RedisError: Redis refuses us, or the private one ended.
        """
        ends_seconds = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        lost = LostRecords(self._cluster)
        last: JobRecord | None = None

        def look() -> JobRecord | None:
            nonlocal last
            record = next(iter(self._cluster.records.read_all([self.job_id])), None)
            lost.look(self.job_id, record.state if record else None, self.submitted)
            last = record or last
            if record is not None:
                on_look(record)
            return record

        while True:
            away = None
            try:
                # Anew each time: a subscription ends with its connection.
                with self._cluster.records.changes(self.job_id) as changes:
                    complete = self._until_end(changes, look, ends_seconds)
                if complete is not None:
                    return complete
            except RedisAway as error:
                self._cluster.check_stack()
                on_away(error)
                away = error
            left_seconds = ends_seconds - time.monotonic()
            if timeout_seconds is not None and left_seconds <= 0:
                raise StillRunning(self.job_id, last, timeout_seconds, away) from None
            time.sleep(min(AWAY_SECONDS, left_seconds))

    def _until_end(
        self, changes: Changes, look: Callable[[], JobRecord | None], ends_seconds: float
    ) -> JobRecord | None:
        """The record of the complete job; None if the time is over before."""
        while True:
            record = look()
            if record is not None and record.state is JobState.COMPLETE:
                return record
            if record is not None and not record.state.is_active:
                raise JobEndedBadly(record)
            left_seconds = min(LOOK_SECONDS, ends_seconds - time.monotonic())
            if left_seconds <= 0:
                return None
            self._cluster.check_stack()
            changes.wait(left_seconds)

    def time_out(self) -> bool:
        """Fail the job because the time that it was given has passed; False if it is past fetching."""
        return self._cluster.records.time_out(self.job_id)

    def verify(
        self, timeout_seconds: float | None = None, *, on_look: Callable[[], object] = lambda: None
    ) -> Verification:
        """Have a worker read the complete job's file again, and compare it with the record.

        Args:
            timeout_seconds: how long to wait for it at most; None: as long as it takes.
            on_look: called about once a second.

        Raises:
            NotAnswered: it could not be compared; one that differs is no error.
            RedisError: Redis cannot be reached.
        """
        return ask(
            self._cluster,
            VERIFY_TASK,
            self.job_id,
            kind=Verification,
            late=f"Job {self.job_id} was not verified",
            timeout_seconds=timeout_seconds,
            on_look=on_look,
        )

    def cancel(self, *, keeps_parts: bool = False) -> bool:
        """End the job; False if it had ended already.

        Args:
            keeps_parts: what came stays on the volume: `resume` goes on from there, and so does another submit of the
                same URL. Else it is removed, also of a job that was cancelled and kept it.
        """
        allowed = ACTIVE_STATES | {JobState.PAUSED, JobState.FAILED}
        (ending,) = self._cluster.records.endings([self.job_id])
        if ending.keeps_parts and not keeps_parts:
            allowed |= {JobState.CANCELLED}
        fields: dict[str, str | int | float] = {
            "finished_at": repr(time.time()),
            "keeps_parts": int(keeps_parts),
        }
        done = self._cluster.records.transition(
            self.job_id, JobState.CANCELLED, allowed=allowed, fields=fields
        )
        if done:
            self._send(REMOVE_TASK, self.job_id)
        return done

    def limit(self, rate: str) -> bool:
        """Give the job another rate, also while it runs; False if it is complete, or was cancelled and removed.

        Args:
            rate: bytes a second over all hosts, such as ``50M``, a timetable such as ``08:00 50M, 18:00 off``, or
                ``off`` for none.

        Raises:
            BadOption: that makes no sense.
        """
        try:
            parse_rate(rate)
        except ValueError as error:
            raise BadOption(f"That is no rate: {error}.") from None
        return self._cluster.records.limit(self.job_id, rate.strip())

    def pause(self) -> bool:
        """Stop fetching and keep what is there; False if it was not running."""
        return self._cluster.records.transition(self.job_id, JobState.PAUSED)

    def resume(self) -> bool:
        """Go on from what is there: after a pause, a failure or a cancel; False if none of them.

        A job that was cancelled and keeps no parts starts over.
        """
        records = self._cluster.records
        asked = records.request(self.job_id)
        fields = records.deadline(asked.spec) if asked else {}
        urgent = urgency(asked.spec.priority) if asked else {}
        done = records.transition(self.job_id, JobState.QUEUED, allowed=RESUMABLE_STATES, fields=fields)
        if done:
            self._send(PLAN_TASK, f"{self.job_id}, resumed", **urgent)
        return done

    def _send(self, task: str, shown: str, **options: Any) -> None:
        """Send what follows from the state, which is changed already: without a message the sweep sees to it."""
        try:
            self._cluster.send(task, self.job_id, shown, **options)
        except RedisError as error:
            logger.warning("left to the sweep job=%s task=%s error=%s", self.job_id, task, error)
