"""How jobs ended, and forgetting those that ended long ago."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs import FINAL_STATES, JobState
from tasks.records.client import Client
from tasks.records.late import LATE_SECONDS
from tasks.records.reading import as_state
from tasks.records.states import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Jobs that one call of Redis is about: others wait meanwhile.
_BATCH_COUNT = 500
_KINDS = (*KINDS, "leases", "busy")

# In one step: a job that somebody resumes at this moment keeps its record.
_FORGET = """
local index, finals, before, forgets = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local forgotten, kinds = {}, (#KEYS - 1) / (#ARGV - 3)
for number = 4, #ARGV do
  local first = 2 + (number - 4) * kinds
  -- pcall: a record that makes no sense must not keep all others for ever.
  local state, finished_at = unpack(redis.pcall('HMGET', KEYS[first], 'state', 'finished_at'))
  local is_old = state and string.find(finals, '|' .. state .. '|', 1, true)
    and (tonumber(finished_at) or math.huge) <= before
  if is_old then
    table.insert(forgotten, ARGV[number])
    if forgets then redis.call('UNLINK', unpack(KEYS, first, first + kinds - 1)) end
  end
  if forgets and (is_old or not state) then redis.call('ZREM', index, ARGV[number]) end
end
return forgotten
"""

# Of jobs whose record is gone. What has a time to go keeps that.
_EXPIRE_ORPHANS = f"""
for first = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[first]) == 0 and redis.call('TTL', KEYS[first + 1]) == -1 then
    redis.call('EXPIRE', KEYS[first + 1], {LATE_SECONDS})
  end
end
"""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job stands, for who looks after what it has on the volume."""

    state: JobState | None  #: None: there is no record
    keeps_parts: bool = False  #: of a cancelled job: its parts are to stay

    @property
    def leaves_nothing(self) -> bool:
        """Whether nobody needs what the job has on the volume any more."""
        return self.state is JobState.COMPLETE or (self.state is JobState.CANCELLED and not self.keeps_parts)


class Endings(Client):
    """The ends of jobs."""

    def endings(self, job_ids: Sequence[str]) -> list[Ending]:
        """How each of these jobs stands."""
        found = []
        for batch in _batches(job_ids):
            with self.translated(), self._redis.pipeline(transaction=False) as pipe:
                for job_id in batch:
                    pipe.hmget(self.key(job_id), "state", "keeps_parts")
                answers = [answer or (None, None) for answer in self.replies(pipe)]
                found += [Ending(as_state(state), keeps == "1") for state, keeps in answers]
        return found

    def forget_ended(self, before: float, *, is_dry_run: bool = False) -> list[str]:
        """Remove the records of jobs that ended before a time, in seconds since the epoch.

        Jobs whose records have expired leave the list of all jobs.

        Returns:
            The jobs whose records are gone; on a dry run, those whose would be.
        """
        index = f"{self.prefix}jobs"
        with self.translated():
            job_ids = self._redis.zrange(index, 0, -1)
        forgotten: list[str] = []
        for batch in _batches(job_ids):
            keys = [self.key(job_id, kind) for job_id in batch for kind in ("", *_KINDS)]
            args: list[str | float] = [f"|{'|'.join(FINAL_STATES)}|", before, int(not is_dry_run), *batch]
            forgotten += self.run(_FORGET, keys=[index, *keys], args=args)
        return forgotten

    def expire_orphans(self) -> None:
        """Have expire what jobs have whose records are gone; a worker may die between two reports."""
        prefix = re.sub(r"([\[\]*?\\])", r"\\\1", f"{self.prefix}job:")
        with self.translated():
            found = list(self._redis.scan_iter(match=f"{prefix}*:*", count=1000))
        start = len(f"{self.prefix}job:")
        for keys in _batches(found):
            records = [key[:start] + key[start:].partition(":")[0] for key in keys]
            pairs = [name for pair in zip(records, keys, strict=True) for name in pair]
            self.run(_EXPIRE_ORPHANS, keys=pairs, args=[])


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(items), _BATCH_COUNT):
        yield items[first : first + _BATCH_COUNT]
