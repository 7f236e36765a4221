"""What a batch needs: jobs recorded unless they are there, and many of them looked at for the price of one."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from tasks.records.jobs import JobRecords, fields_of
from tasks.records.reading import as_count, as_state
from tasks.records.states import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.jobs import JobState
    from tasks.records.jobs import NewJob

#: What a job may have besides its record.
_KINDS = (*KINDS, "leases")

# In one step: of two that submit the same list, one records a job, and the other finds it.
_ADMIT = """
local jobs, active, job = KEYS[1], KEYS[2], KEYS[3]
local id, entry, anew, now = unpack(ARGV)
local state, other = unpack(redis.call('HMGET', job, 'state', 'entry'))
if state and other and other ~= entry then return 'taken' end
if state and not (state == 'complete' and anew == '1') then return state end
redis.call('DEL', job, unpack(KEYS, 4))
redis.call('HSET', job, unpack(ARGV, 5))
redis.call('ZADD', jobs, now, id)
redis.call('SADD', active, id)
return 'created'
"""


class Found(enum.Enum):
    """What came of recording a job, other than that there was its record already."""

    NOTHING = "created"  #: it is recorded now
    ANOTHER = "taken"  #: another file's job has its id


class Look(NamedTuple):
    """As much of a job as those who wait for many of them need."""

    state: JobState | None  #: None: there is no record
    chunks_count: int | None  #: None: not planned yet


class Batches(JobRecords):
    """Many jobs at once."""

    def admit(self, jobs: Sequence[NewJob], *, anew: bool, now: float) -> list[JobState | Found]:
        """Record those of these jobs that have no record; for each the state that it was found in, or else what came.

        Args:
            jobs: which, with their entries.
            anew: those that are complete are recorded as new jobs too.
            now: seconds since the epoch.
        """
        specs = {job.spec.timeout_seconds: job.spec for job in jobs}
        deadlines = {seconds: self.deadline(spec) for seconds, spec in specs.items()}
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                fields = fields_of(job, now) | deadlines[job.spec.timeout_seconds]
                self.script(_ADMIT)(
                    keys=[
                        f"{self.prefix}jobs",
                        f"{self.prefix}active",
                        self.key(job.job_id),
                        *(self.key(job.job_id, kind) for kind in _KINDS),
                    ],
                    args=[
                        job.job_id,
                        job.entry,
                        int(anew),
                        repr(now),
                        *(item for pair in fields.items() for item in pair),
                    ],
                    client=pipe,
                )
            return [as_state(answer) or Found(answer) for answer in pipe.execute()]

    def looks(self, job_ids: Sequence[str]) -> list[Look]:
        """A look at each of these jobs."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(self.key(job_id), "state", "chunks_count")
            return [Look(as_state(state), as_count(count)) for state, count in pipe.execute()]

    def bytes_done(self, job_ids: Sequence[str]) -> int:
        """How many bytes these jobs have together."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hvals(self.key(job_id, "bytes"))
            return sum(as_count(count) or 0 for counts in pipe.execute() for count in counts)
