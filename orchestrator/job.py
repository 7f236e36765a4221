"""A handle on one job: look, wait, steer."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from tasks.app import PLAN_TASK, REMOVE_TASK, VERIFY_TASK
from tasks.jobs import ACTIVE_STATES, RESUMABLE_STATES, JobRecord, JobState, VerifyAnswer
from tasks.messages import urgency
from tasks.transfer.errors import JobTimedOut, PermanentError, side_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster import Cluster
    from tasks.transfer.verify_file import Verification

#: How often a waiting client looks, changes of state aside, which it is told at once.
LOOK_SECONDS = 0.25
#: How long one call of Redis waits for an answer.
_ANSWER_LOOK_SECONDS = 1.0


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
    """The job was still running when the time to wait was over."""

    def __init__(self, record: JobRecord, seconds: float) -> None:
        super().__init__(record, seconds)
        self.record, self.seconds = record, seconds

    def __str__(self) -> str:
        """Say that it goes on, and how to come back."""
        return (
            f"Job {self.record.job_id} is {self.record.state} after {self.seconds:g} seconds and goes on. "
            f"Come back with: orchestrator wait {self.record.job_id}"
        )


class NotVerified(PermanentError):
    """A file could not be compared with what is known of it: the code of an error, and its sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.sentence = sentence
        self.side = side_of(code)

    def __str__(self) -> str:
        """Say why."""
        return self.sentence


class Job:
    """A handle on one job."""

    def __init__(self, cluster: Cluster, job_id: str) -> None:
        self._cluster = cluster
        self.job_id = job_id

    def status(self) -> JobRecord:
        """The record as it is now; `NoSuchJob` if there is none."""
        return self._cluster.records.read(self.job_id)

    def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[JobRecord], object] = lambda _: None,
    ) -> JobRecord:
        """Wait until the file is there.

        Args:
            timeout_seconds: how long at most; None: as long as it takes.
            on_look: called with the record at short intervals.

        Raises:
            JobEndedBadly: the job failed, was cancelled or was paused.
            StillRunning: the time is over.
            RedisError: Redis cannot be reached, or the private one ended.
        """
        began_seconds = time.monotonic()
        with self._cluster.records.changes(self.job_id) as changes:
            while True:
                record = self.status()
                on_look(record)
                if record.state is JobState.COMPLETE:
                    return record
                if not record.state.is_active:
                    raise JobEndedBadly(record)
                left_seconds = LOOK_SECONDS
                if timeout_seconds is not None:
                    left_seconds = min(left_seconds, began_seconds + timeout_seconds - time.monotonic())
                    if left_seconds <= 0:
                        raise StillRunning(record, timeout_seconds)
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
            NotVerified: it could not be compared; one that differs is no error.
            RedisError: Redis cannot be reached.
        """
        token = secrets.token_hex(16)
        self._cluster.send(VERIFY_TASK, self.job_id, self.job_id, token)
        began_seconds = time.monotonic()
        while (text := self._cluster.records.take_answer(token, _ANSWER_LOOK_SECONDS)) is None:
            if timeout_seconds is not None and time.monotonic() - began_seconds > timeout_seconds:
                raise NotVerified(
                    JobTimedOut.__name__,
                    f"Job {self.job_id} was not verified within {timeout_seconds:g} seconds. Is there a worker?",
                )
            self._cluster.check_stack()
            on_look()
        answer = VerifyAnswer.model_validate_json(text)
        if answer.error is not None:
            raise NotVerified(answer.error.code, answer.error.message)
        if answer.verification is None:
            raise AssertionError("an answer is a verification or an error")
        return answer.verification

    def cancel(self) -> bool:
        """End the job and remove what it has on the volume; False if it had ended already."""
        allowed = ACTIVE_STATES | {JobState.PAUSED, JobState.FAILED}
        fields = {"finished_at": repr(time.time())}
        done = self._cluster.records.transition(
            self.job_id, JobState.CANCELLED, allowed=allowed, fields=fields
        )
        if done:
            self._cluster.send(REMOVE_TASK, self.job_id, self.job_id)
        return done

    def pause(self) -> bool:
        """Stop fetching and keep what is there; False if it was not running."""
        return self._cluster.records.transition(self.job_id, JobState.PAUSED)

    def resume(self) -> bool:
        """Go on from what is there: after a pause, a failure or a cancel; False if none of them."""
        records = self._cluster.records
        asked = records.request(self.job_id)
        fields = records.deadline(asked.spec) if asked else {}
        urgent = urgency(asked.spec.priority) if asked else {}
        done = records.transition(self.job_id, JobState.QUEUED, allowed=RESUMABLE_STATES, fields=fields)
        if done:
            self._cluster.send(PLAN_TASK, self.job_id, f"{self.job_id}, resumed", **urgent)
        return done
