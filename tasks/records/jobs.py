"""Jobs: made, changed and read."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tasks.jobs import ACTIVE_STATES, JobError, JobRecord, JobState
from tasks.records.client import Client, RedisError
from tasks.records.reading import NoSuchJob, as_state, to_record
from tasks.transfer.errors import JobTimedOut
from tasks.transfer.manifest import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.records.progress import Progress

#: How long an answer is kept that nobody takes.
_ANSWER_SECONDS = 600

#: What a job has besides its record, and what a new plan of it begins without.
_KINDS = ("bytes", "done", "shares", "stops", "speeds", "help")

# A change of state is one step: two workers that see different ends agree on the first. With the keys of several jobs,
# each that may changes.
_TRANSITION = """
local allowed, to, age, asks, forgets, stays_at, stays = unpack(ARGV)
local changed = {}
for first = 1, #KEYS, 8 do
  local job, changes, bytes, done, shares, stops, speeds, help = unpack(KEYS, first, first + 7)
  local state = redis.call('HGET', job, 'state')
  if not state or not string.find(allowed, '|' .. state .. '|', 1, true) then
    table.insert(changed, 0)
  else
    redis.call('HSET', job, 'state', to, unpack(ARGV, 8))
    redis.call('PUBLISH', changes, to)
    if forgets == '1' then
      redis.call('DEL', bytes, done, shares, stops, speeds, help)
      if stays ~= '' then
        redis.call('HSET', bytes, stays_at, 0)
        redis.call('HSET', speeds, stays_at, '-1 ' .. stays)
      end
    end
    for _, key in ipairs({job, bytes, done, shares, stops, speeds}) do
      if age == '' then redis.call('PERSIST', key) else redis.call('EXPIRE', key, age) end
    end
    table.insert(changed, asks == '1' and redis.call('HMGET', job, 'spec', 'request', 'created_at') or 1)
  end
end
return changed
"""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that has no record yet."""

    job_id: str
    url: str  #: as it may be shown
    spec: JobSpec
    sealed_request: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for of a job."""

    spec: JobSpec
    sealed_request: str
    created_at: float


class JobRecords(Client):
    """The records of jobs."""

    age_seconds: int  #: how long the record of an ended job is kept

    def create(self, jobs: Iterable[NewJob], *, now: float) -> None:
        """Record new jobs in the state ``queued``, all of them or none."""
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            for job in jobs:
                fields = {
                    "state": JobState.QUEUED.value,
                    "url": job.url,
                    "spec": job.spec.model_dump_json(),
                    "request": job.sealed_request,
                    "created_at": repr(now),
                    f"at:{JobState.QUEUED}": repr(now),
                }
                pipe.hset(self.key(job.job_id), mapping=fields | self.deadline(job.spec))
                pipe.zadd(f"{self.prefix}jobs", {job.job_id: now})
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
        forgets_progress: bool = False,
        stays: Progress | None = None,
    ) -> bool:
        """Change the state if the present one is among `allowed`; False if it is not.

        Args:
            job_id: whose.
            to: the new state.
            allowed: states that may change to it.
            fields: more fields of the record, set in the same step.
            forgets_progress: of an earlier plan, of which nothing is left.
            stays: of an attempt that remains at its span, which is nobody else's as long as its lease stands.
        """
        changed = self._change(
            [job_id], to, allowed, forgets_progress=forgets_progress, stays=stays, fields=fields or {}
        )
        return changed != [0]

    def begin_plans(self, job_ids: Sequence[str], *, allowed: Iterable[JobState]) -> dict[str, Asked]:
        """Have those of these jobs that are in an allowed state be in ``planning``; what was asked for of each."""
        answers = self._change(job_ids, JobState.PLANNING, allowed, asks=True)
        begun = {}
        for job_id, answer in zip(job_ids, answers, strict=True):
            try:
                if answer:
                    begun[job_id] = _to_asked(job_id, *answer)
            except RedisError as error:
                # The others have nothing to do with it.
                self.fail(job_id, JobError(code=error.code, message=str(error)))
        return begun

    def _change(
        self,
        job_ids: Sequence[str],
        to: JobState,
        allowed: Iterable[JobState],
        *,
        asks: bool = False,
        forgets_progress: bool = False,
        stays: Progress | None = None,
        fields: Mapping[str, str | int | float] = MappingProxyType({}),
    ) -> list[Any]:
        """Change those of these jobs that may; for each 0 if it did not, else 1, or what was asked for if it `asks`."""
        stays_at, holder = (str(stays.span), stays.holder) if stays is not None else ("", "")
        answers: list[Any] = self.run(
            _TRANSITION,
            keys=[self.key(job_id, kind) for job_id in job_ids for kind in ("", "changes", *_KINDS)],
            args=[
                f"|{'|'.join(allowed)}|",
                to.value,
                self.age_seconds if to.is_final else "",
                int(asks),
                int(forgets_progress),
                stays_at,
                holder,
                f"at:{to}",
                repr(time.time()),
                *(str(item) for pair in fields.items() for item in pair),
            ],
        )
        return answers

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

    def request(self, job_id: str) -> Asked | None:
        """What was asked for; None if there is no record."""
        with self.translated():
            spec, sealed, created_at = self._redis.hmget(self.key(job_id), "spec", "request", "created_at")
        return None if spec is None or sealed is None else _to_asked(job_id, spec, sealed, created_at)

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

    def states(self, job_ids: Sequence[str]) -> list[JobState | None]:
        """The state of each of these jobs, None where there is no record."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(self.key(job_id), "state")
            return [as_state(value) for value in pipe.execute()]

    def read(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            NoSuchJob: there is none.
            RedisError: Redis cannot be used.
        """
        for record in self.read_all([job_id]):
            return record
        raise NoSuchJob(job_id)

    def read_all(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """The records of those of these jobs that have one."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in job_ids:
                pipe.hgetall(self.key(job_id))
                pipe.hvals(self.key(job_id, "bytes"))
                pipe.scard(self.key(job_id, "done"))
                pipe.hgetall(self.key(job_id, "shares"))
                pipe.zrange(self.key(job_id, "leases"), 0, -1, withscores=True)
            (seconds, _), *answers = pipe.execute()
        records = []
        for job_id, fields, counts, chunks_done, shares, leases in zip(
            job_ids, *(answers[kind::5] for kind in range(5)), strict=True
        ):
            if "state" in fields:
                holders = [holder for holder, ends_at in leases if ends_at > seconds]
                records.append(to_record(job_id, fields, counts, chunks_done, shares, holders))
        return records

    def list(self, *, most: int = 1000) -> list[JobRecord]:
        """The latest jobs, newest first; ids whose records have expired are forgotten on the way."""
        with self.translated():
            ids = self._redis.zrevrange(f"{self.prefix}jobs", 0, most - 1)
        records = self.read_all(ids)
        expired = set(ids) - {record.job_id for record in records}
        if expired:
            with self.translated():
                self._redis.zrem(f"{self.prefix}jobs", *expired)
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


def _to_asked(job_id: str, spec: str | None, sealed: str | None, created_at: str | None) -> Asked:
    try:
        return Asked(JobSpec.model_validate_json(spec or ""), sealed or "", float(created_at or 0))
    except ValueError:
        raise RedisError(
            f"The record of job {job_id} in Redis is damaged: what was asked for is missing."
        ) from None


class Changes:
    """A subscription to one job's changes."""

    def __init__(self, records: Client, pubsub: Any) -> None:
        self._records = records
        self._pubsub = pubsub

    def wait(self, seconds: float) -> None:
        """Return at the next change, or after so many seconds."""
        with self._records.translated():
            self._pubsub.get_message(timeout=seconds)
