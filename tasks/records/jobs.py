"""Jobs: made, changed and read."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.jobs import ACTIVE_STATES, JobError, JobRecord, JobState
from tasks.records.client import Client
from tasks.records.leases import as_state
from tasks.records.reading import NoSuchJob, to_record
from tasks.transfer.errors import JobTimedOut
from tasks.transfer.manifest import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: How long an answer is kept that nobody takes.
_ANSWER_SECONDS = 600

# A change of state is one step: two workers that see different ends agree on the first. What belongs to a job that has
# ended is kept for a while; a job that goes on again keeps all.
_TRANSITION = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or not string.find(ARGV[1], '|' .. state .. '|', 1, true) then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2], unpack(ARGV, 4))
redis.call('PUBLISH', KEYS[2], ARGV[2])
for index = 3, #KEYS do
  if tonumber(ARGV[3]) > 0 then redis.call('EXPIRE', KEYS[index], ARGV[3]) else redis.call('PERSIST', KEYS[index]) end
end
return 1
"""


class JobRecords(Client):
    """The records of jobs."""

    age_seconds: int  #: how long the record of an ended job is kept

    def create(self, job_id: str, *, url: str, spec: JobSpec, sealed_request: str, now: float) -> None:
        """Record a new job in the state ``queued``."""
        fields = {
            "state": JobState.QUEUED.value,
            "url": url,
            "spec": spec.model_dump_json(),
            "request": sealed_request,
            "created_at": repr(now),
            f"at:{JobState.QUEUED}": repr(now),
        }
        fields |= self.deadline(spec)
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self.key(job_id), mapping=fields)
            pipe.zadd(f"{self.prefix}jobs", {job_id: now})
            pipe.execute()

    def deadline(self, spec: JobSpec) -> dict[str, str]:
        """The field of the record that says when a job of this spec has to be done, by Redis's clock."""
        if spec.timeout_seconds is None:
            return {}
        with self.translated():
            seconds, microseconds = self._redis.time()
        return {"ends_at": repr(seconds + microseconds / 1e6 + spec.timeout_seconds)}

    def transition(
        self,
        job_id: str,
        to: JobState,
        *,
        allowed: Iterable[JobState] = ACTIVE_STATES,
        fields: Mapping[str, str | int | float] | None = None,
    ) -> bool:
        """Change the state if the present one is among `allowed`; False if it is not.

        Args:
            job_id: whose.
            to: the new state.
            allowed: states that may change to it.
            fields: more fields of the record, set in the same step.
        """
        values = {f"at:{to}": repr(time.time()), **(fields or {})}
        flat = [str(item) for pair in values.items() for item in pair]
        states = "|" + "|".join(allowed) + "|"
        kinds = ("", "changes", "", "bytes", "done", "shares", "stops", "speeds")
        keys = [self.key(job_id, kind) for kind in kinds]
        kept_seconds = self.age_seconds if to.is_final else 0
        return bool(self.run(_TRANSITION, keys=keys, args=[states, to.value, kept_seconds, *flat]))

    def fail(self, job_id: str, error: JobError, *, allowed: Iterable[JobState] = ACTIVE_STATES) -> bool:
        """Mark a job failed; False if it is in none of the `allowed` states."""
        fields = {"error": error.model_dump_json(), "finished_at": repr(time.time())}
        return self.transition(job_id, JobState.FAILED, allowed=allowed, fields=fields)

    def time_out(self, job_id: str) -> bool:
        """Mark a job failed for want of time; False if it has all its bytes or has ended."""
        error = JobTimedOut(job_id)
        return self.fail(
            job_id,
            JobError(code=error.code, message=str(error)),
            allowed=ACTIVE_STATES - {JobState.MERGING},
        )

    def state(self, job_id: str) -> JobState | None:
        """The job's state, or None if there is no record."""
        with self.translated():
            value = self._redis.hget(self.key(job_id), "state")
        return as_state(value)

    def request(self, job_id: str) -> tuple[JobSpec, str, float] | None:
        """What was asked for: the spec, the sealed request, when. None if there is no record."""
        with self.translated():
            spec, sealed, created_at = self._redis.hmget(self.key(job_id), "spec", "request", "created_at")
        if spec is None or sealed is None:
            return None
        return JobSpec.model_validate_json(spec), sealed, float(created_at or 0)

    def destination(self, job_id: str) -> str | None:
        """Where a complete job's file was published, relative to the volume."""
        with self.translated():
            value: str | None = self._redis.hget(self.key(job_id), "destination")
        return value

    def answer(self, token: str, text: str) -> None:
        """Leave an answer for whoever asked under this name."""
        key = f"{self.prefix}answer:{token}"
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, text)
            pipe.expire(key, _ANSWER_SECONDS)
            pipe.execute()

    def take_answer(self, token: str, seconds: float) -> str | None:
        """The answer under this name, if it comes within so many seconds."""
        with self.translated():
            found = self._redis.blpop([f"{self.prefix}answer:{token}"], timeout=seconds)
        return found[1] if found else None

    def read(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            NoSuchJob: there is none.
            RedisError: Redis cannot be used.
        """
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.key(job_id))
            pipe.hvals(self.key(job_id, "bytes"))
            pipe.scard(self.key(job_id, "done"))
            pipe.hgetall(self.key(job_id, "shares"))
            pipe.time()
            pipe.zrange(self.key(job_id, "leases"), 0, -1, withscores=True)
            fields, counts, chunks_done, shares, now, leases = pipe.execute()
        if "state" not in fields:
            raise NoSuchJob(job_id)
        holders = [holder for holder, ends_at in leases if ends_at > now[0]]
        return to_record(job_id, fields, counts, chunks_done, shares, holders)

    def list(self, *, most: int = 1000) -> list[JobRecord]:
        """The latest jobs, newest first; ids whose records have expired are forgotten on the way."""
        with self.translated():
            ids = self._redis.zrevrange(f"{self.prefix}jobs", 0, most - 1)
        records = []
        for job_id in ids:
            try:
                records.append(self.read(job_id))
            except NoSuchJob:
                with self.translated():
                    self._redis.zrem(f"{self.prefix}jobs", job_id)
        return records

    @contextmanager
    def changes(self, job_id: str) -> Iterator[Changes]:
        """Listen for changes of a job's state; begin before reading the record, or one may be missed."""
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            with self.translated():
                pubsub.subscribe(self.key(job_id, "changes"))
            yield Changes(self, pubsub)
        finally:
            pubsub.close()


class Changes:
    """A subscription to one job's changes."""

    def __init__(self, records: Client, pubsub: Any) -> None:
        self._records = records
        self._pubsub = pubsub

    def wait(self, seconds: float) -> None:
        """Return at the next change, or after so many seconds."""
        with self._records.translated():
            self._pubsub.get_message(timeout=seconds)
