"""Jobs whose records Redis has lost while somebody waits for them.

The workers put back what they have on the volume. What they had not planned yet is known to nobody but the process
that submitted it, which puts it back itself.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.app import PLAN_TASK
from tasks.jobs import JobState
from tasks.records import NoSuchJob, RecordLost, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster import Cluster
    from tasks.records import NewJob

#: How long workers may take to put a job back.
RETURN_SECONDS = 60.0
#: In these there may be nothing of a job on the volume.
_BEFORE_MANIFEST = frozenset({JobState.QUEUED, JobState.PLANNING})


@dataclass(frozen=True, slots=True)
class Submitted:
    """What the process knows of a job that submitted it."""

    new: NewJob
    at_seconds: float  #: since the epoch


class LostRecords:
    """Takes note of the states that are seen of jobs, and does what can be done where a record is gone."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take where the records are."""
        self._cluster = cluster
        self._clock = clock
        self._states: dict[str, JobState] = {}
        self._gone_since: dict[str, float] = {}

    def look(self, job_id: str, state: JobState | None, submitted: Submitted | None = None) -> None:
        """Take note of a job's state; put it back if it has no record, or give the workers time for that.

        Args:
            job_id: which job.
            state: what its record says; None: it has none.
            submitted: the job, if it was this process that submitted it.

        Raises:
            NoSuchJob: it has never had a record.
            RecordLost: nobody has put it back for a minute.
            RedisError: Redis cannot be reached.
        """
        if state is not None:
            self._states[job_id] = state
            self._gone_since.pop(job_id, None)
            return
        before = self._states.get(job_id, JobState.QUEUED if submitted else None)
        if before is None:
            raise NoSuchJob(job_id)
        if submitted is not None and before in _BEFORE_MANIFEST:
            self._put_back(submitted)
        elif self._clock() - self._gone_since.setdefault(job_id, self._clock()) > RETURN_SECONDS:
            raise RecordLost(job_id)

    def _put_back(self, submitted: Submitted) -> None:
        job_id = submitted.new.job_id
        if self._cluster.records.create_missing(submitted.new, now=submitted.at_seconds):
            # Redis went away again, perhaps. The record is there, and workers send what has one.
            with contextlib.suppress(RedisError):
                self._cluster.send(PLAN_TASK, job_id, f"{job_id}, put back")
