"""The records of jobs: made and read."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs import JobRecord, JobState
from tasks.records.client import Client, RedisError
from tasks.records.reading import NoSuchJob, to_asked, to_record
from tasks.records.states import KINDS
from tasks.transfer.manifest import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.records.reading import Asked
    from tasks.transfer.manifest import JobSpec

logger = logging.getLogger(__name__)

# In one step: whoever waits for the job may record it anew too, and what came of that must not be undone.
_RESTORE = """
local job, jobs, active = unpack(KEYS)
local id, created_at, is_active, age = unpack(ARGV)
if redis.call('EXISTS', job) == 1 then return 0 end
redis.call('HSET', job, unpack(ARGV, 5))
-- What was reported while there was no record was to be forgotten soon.
for index = 4, #KEYS do redis.call('PERSIST', KEYS[index]) end
if age ~= '' then redis.call('EXPIRE', job, age) end
redis.call('ZADD', jobs, created_at, id)
if is_active == '1' then redis.call('SADD', active, id) end
return 1
"""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that has no record yet."""

    job_id: str
    url: str  #: as it may be shown
    spec: JobSpec
    sealed_request: str
    #: Which file of a batch it is; two that differ are never one job, though their ids be the same.
    entry: str = ""


def fields_of(job: NewJob, now: float) -> dict[str, str]:
    """What the record of a new job begins with."""
    fields = {
        "state": JobState.QUEUED.value,
        "url": job.url,
        "spec": job.spec.model_dump_json(exclude_defaults=True),
        "request": job.sealed_request,
        "created_at": repr(now),
        f"at:{JobState.QUEUED}": repr(now),
    }
    if job.spec.limit_rate is not None:
        fields["limit_rate"] = job.spec.limit_rate
    return fields | {"entry": job.entry} if job.entry else fields


class JobRecords(Client):
    """The records of jobs."""

    age_seconds: int  #: how long the record of an ended job is kept

    def create(self, jobs: Iterable[NewJob], *, now: float) -> None:
        """Record new jobs in the state ``queued``, all of them or none."""
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            for job in jobs:
                pipe.hset(self.key(job.job_id), mapping=fields_of(job, now) | self.deadline(job.spec))
                pipe.zadd(f"{self.prefix}jobs", {job.job_id: now})
                pipe.sadd(f"{self.prefix}active", job.job_id)
            pipe.execute()

    def create_missing(self, job: NewJob, *, now: float) -> bool:
        """Record a job as `create` does, if it has no record; False if it has one."""
        return self.restore(job, JobState.QUEUED, created_at=now, fields=self.deadline(job.spec))

    def restore(
        self, job: NewJob, state: JobState, *, created_at: float, fields: Mapping[str, str | int]
    ) -> bool:
        """Record a job anew that Redis has lost; False if there is a record.

        Args:
            job: what was asked for.
            state: what to record it in.
            created_at: when it was submitted, in seconds since the epoch.
            fields: more of the record.
        """
        all_fields = {**fields_of(job, created_at), **fields, f"at:{state}": repr(time.time())}
        all_fields["state"] = state.value
        if state is JobState.COMPLETE:
            for name in ("spec", "request"):  # as of any complete job
                del all_fields[name]
        keys = [
            self.key(job.job_id),
            f"{self.prefix}jobs",
            f"{self.prefix}active",
            *(self.key(job.job_id, kind) for kind in KINDS),
        ]
        args = [
            job.job_id,
            created_at,
            int(state.is_active),
            self.age_seconds if state.is_final else "",
            *(item for pair in all_fields.items() for item in pair),
        ]
        return bool(self.run(_RESTORE, keys=keys, args=args))

    def deadline(self, spec: JobSpec) -> dict[str, str]:
        """The field of the record that says when a job of this spec has to be done, by Redis's clock."""
        if spec.timeout_seconds is None:
            return {}
        with self.translated():
            seconds, microseconds = self._redis.time()
        return {"ends_at": repr(seconds + microseconds / 1e6 + spec.timeout_seconds)}

    def request(self, job_id: str) -> Asked | None:
        """What was asked for; None if there is no record."""
        with self.translated():
            spec, sealed, created_at = self._redis.hmget(self.key(job_id), "spec", "request", "created_at")
        return None if spec is None or sealed is None else to_asked(job_id, spec, sealed, created_at)

    def priority(self, job_id: str) -> Priority:
        """The priority of a job; the usual one if that cannot be told."""
        with contextlib.suppress(RedisError):
            asked = self.request(job_id)
            if asked is not None:
                return asked.spec.priority
        return Priority.NORMAL

    def url(self, job_id: str) -> str | None:
        """The URL of a job, as it may be shown."""
        with self.translated():
            value: str | None = self._redis.hget(self.key(job_id), "url")
        return value

    def destination(self, job_id: str) -> str | None:
        """Where a complete job's file was published, relative to the volume."""
        with self.translated():
            value: str | None = self._redis.hget(self.key(job_id), "destination")
        return value

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
        """The records of those of these jobs that have one; `RedisError` if one is damaged."""
        records = []
        for record in self._read(job_ids):
            if isinstance(record, RedisError):
                raise record
            if record is not None:
                records.append(record)
        return records

    def list(self, *, most: int = 1000) -> list[JobRecord]:
        """The latest jobs, newest first; ids whose records have expired are forgotten on the way."""
        index = f"{self.prefix}jobs"
        with self.translated():
            ids = self._redis.zrevrange(index, 0, most - 1)
        records, expired = [], []
        for job_id, record in zip(ids, self._read(ids), strict=True):
            if record is None:
                expired.append(job_id)
            elif isinstance(record, RedisError):
                # The others have nothing to do with it.
                logger.warning("job not listed job=%s error=%s", job_id, record)
            else:
                records.append(record)
        if expired:
            with self.translated():
                self._redis.zrem(index, *expired)
        return records

    def _read(self, job_ids: Sequence[str]) -> Iterator[JobRecord | RedisError | None]:
        """For each of these jobs its record, what is wrong with that, or None if it has none."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in job_ids:
                pipe.hgetall(self.key(job_id))
                pipe.hvals(self.key(job_id, "bytes"))
                pipe.scard(self.key(job_id, "done"))
                pipe.hgetall(self.key(job_id, "shares"))
                pipe.zrange(self.key(job_id, "leases"), 0, -1, withscores=True)
            (seconds, _), *answers = self.replies(pipe)
        for index, job_id in enumerate(job_ids):
            fields, counts, chunks_done, shares, leases = answers[5 * index : 5 * index + 5]
            if fields is not None and "state" not in fields:
                yield None
                continue
            try:
                holders = [holder for holder, ends_at in leases or () if ends_at > seconds]
                yield to_record(job_id, fields or {}, counts, chunks_done, shares, holders)
            except RedisError as error:
                yield error
