"""The states of jobs: changed in one step, and heard of."""

from __future__ import annotations

import time
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tasks.jobs import ACTIVE_STATES, JobError, JobState
from tasks.records.client import Client, RedisError
from tasks.records.reading import as_rate, as_state, to_asked
from tasks.transfer.errors import JobTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tasks.records.progress import Progress
    from tasks.records.reading import Asked

#: What a job has besides its record, and what a new plan of it begins without.
KINDS = ("bytes", "done", "shares", "stops", "speeds", "help", "deaths")

# A change of state is one step: two workers that see different ends agree on the first. With the keys of several jobs,
# each that may changes. Of a complete job nothing is kept that only serves to bring it: that is two thirds of it.
_TRANSITION = """
local allowed, to, age, asks, forgets, stays_at, stays, is_active = unpack(ARGV)
local active, stalls = KEYS[#KEYS - 1], KEYS[#KEYS]
local changed = {}
for first = 1, #KEYS - 2, 9 do
  local job, changes, bytes, done, shares, stops, speeds, help, deaths = unpack(KEYS, first, first + 8)
  local state = redis.call('HGET', job, 'state')
  if not state or not string.find(allowed, '|' .. state .. '|', 1, true) then
    table.insert(changed, 0)
  else
    redis.call('HSET', job, 'state', to, unpack(ARGV, 9))
    local id = string.match(job, '%x+$')
    redis.call(is_active == '1' and 'SADD' or 'SREM', active, id)
    if is_active == '0' then
      redis.call('HDEL', stalls, id)
      redis.call('HDEL', job, 'doing')
    end
    redis.call('PUBLISH', changes, to)
    -- Somebody has looked into what ended the workers, or will in a moment: resumed, it gets as many more.
    if forgets == '1' or to == 'queued' then redis.call('DEL', deaths) end
    if forgets == '1' then
      redis.call('DEL', bytes, done, shares, stops, speeds, help)
      if stays ~= '' then
        redis.call('HSET', bytes, stays_at, 0)
        redis.call('HSET', speeds, stays_at, '-1 ' .. stays)
      end
    end
    if to == 'complete' then
      redis.call('HDEL', job, 'spec', 'request')
      redis.call('DEL', bytes, stops, speeds, help, deaths)
    end
    for _, key in ipairs({job, bytes, done, shares, stops, speeds, deaths}) do
      if age == '' then redis.call('PERSIST', key) else redis.call('EXPIRE', key, age) end
    end
    table.insert(changed, asks == '1' and redis.call('HMGET', job, 'spec', 'request', 'created_at') or 1)
  end
end
return changed
"""


class States(Client):
    """What state each job is in."""

    age_seconds: int  #: how long the record of an ended job is kept

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
                    begun[job_id] = to_asked(job_id, *answer)
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
            keys=[
                *(self.key(job_id, kind) for job_id in job_ids for kind in ("", "changes", *KINDS)),
                f"{self.prefix}active",
                f"{self.prefix}stalls",
            ],
            args=[
                f"|{'|'.join(allowed)}|",
                to.value,
                self.age_seconds if to.is_final else "",
                int(asks),
                int(forgets_progress),
                stays_at,
                holder,
                int(to.is_active),
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

    def state_and_rate(self, job_id: str) -> tuple[JobState | None, str | None]:
        """The job's state, and its rate or timetable as it is by now; None for what is not set."""
        with self.translated():
            state, rate = self._redis.hmget(self.key(job_id), "state", "limit_rate")
        return as_state(state), as_rate(rate)

    def states(self, job_ids: Sequence[str]) -> list[JobState | None]:
        """The state of each of these jobs, None where there is no record."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(self.key(job_id), "state")
            return [as_state(value) for value in self.replies(pipe)]

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
