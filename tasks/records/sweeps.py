"""What the sweep needs to know of all jobs, and the lease that has one process at a time ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.jobs import ACTIVE_STATES
from tasks.records.client import Client
from tasks.records.queues import MESSAGE_PRIORITIES, list_key
from tasks.records.waiting import jobs_of, later_jobs_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

#: Messages that are read at once.
_PAGE = 1000
#: For so long one that plans or merges is believed to be at it.
_AT_WORK_SECONDS = 10

# Nothing moves, nobody is at it: no lease, no plan, no merge. By Redis's own clock, so that it does not matter which
# host looks. What was sent in vain for the first time is sent again as soon, then after twice as long each time.
# A job whose keys make no sense keeps nobody from the others.
_STALLED = """
local stalls, active = KEYS[1], KEYS[2]
local stall_seconds, grace_seconds, active_states, anew = unpack(ARGV)
local now = redis.call('TIME')[1] + 0
local found, overdue, damaged = {}, {}, {}
local function look(id, job, bytes, done, leases, busy)
  local state, retries, ends_at = unpack(redis.call('HMGET', job, 'state', 'retries_count', 'ends_at'))
  if not state or not string.find(active_states, '|' .. state .. '|', 1, true) then
    -- It has ended since who asks learned of it, or Redis has lost a part of what there was.
    redis.call('SREM', active, id)
    redis.call('HDEL', stalls, id)
    return
  end
  local sum = 0
  for _, count in ipairs(redis.call('HVALS', bytes)) do sum = sum + (tonumber(count) or 0) end
  local seen = string.format('%.0f/%d/%.0f', sum, redis.call('SCARD', done), tonumber(retries) or 0)
  local is_busy = redis.call('EXISTS', busy) == 1 or redis.call('ZCOUNT', leases, now, '+inf') > 0
  local before, since, tries, deaths = string.match(
    redis.call('HGET', stalls, id) or '', '^(%S+) (%d+) (%d+) (%d+)$')
  if before ~= seen then
    redis.call('HSET', stalls, id, seen .. ' ' .. now .. ' 0 0')
  elseif is_busy or anew == '1' then
    redis.call('HSET', stalls, id, seen .. ' ' .. now .. ' ' .. tries .. ' ' .. deaths)
  elseif now - since >= stall_seconds * 2 ^ math.max(0, tries - 1) then
    table.insert(found, id)
    table.insert(found, now - since)
  end
  if now > (tonumber(ends_at) or math.huge) + grace_seconds then table.insert(overdue, id) end
end
for index = 5, #ARGV do
  local first = 3 + (index - 5) * 5
  if not pcall(look, ARGV[index], unpack(KEYS, first, first + 4)) then table.insert(damaged, ARGV[index]) end
end
return {found, overdue, damaged}
"""

_LET_BE = """
local now = redis.call('TIME')[1]
for _, id in ipairs(ARGV) do
  local before, counts = string.match(redis.call('HGET', KEYS[1], id) or '', '^(%S+) %d+ (%d+ %d+)$')
  if before then redis.call('HSET', KEYS[1], id, before .. ' ' .. now .. ' ' .. counts) end
end
"""

# Nothing is known of one that has ended meanwhile.
_SENT_AGAIN = """
local before, since, tries, deaths = string.match(
  redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) (%d+) (%d+) (%d+)$')
if not before then return {0, 0} end
tries = tries + 1
if redis.call('HDEL', KEYS[2], 'doing') == 1 then deaths = deaths + 1 end
redis.call('HSET', KEYS[1], ARGV[1],
  string.format('%s %d %d %d', before, redis.call('TIME')[1], tries, deaths))
return {tries, tonumber(deaths)}
"""

# Of a job whose record is gone, nothing must come into being.
_BEGUN = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'doing', 1) end
redis.call('SET', KEYS[2], 1, 'EX', ARGV[1])
"""

# A plan may end when the merge that it sent has begun.
_ENDED = """
redis.call('DEL', KEYS[2])
local doing = tonumber(redis.call('HGET', KEYS[1], 'doing') or 0)
if doing > 1 then redis.call('HSET', KEYS[1], 'doing', doing - 1) else redis.call('HDEL', KEYS[1], 'doing') end
"""


class Sweeps(Client):
    """The view of all jobs."""

    def may_sweep(self, what: str, seconds: float) -> bool:
        """Whether nobody has begun a sweep of jobs, or of the volume, for so many seconds: who asks, does now."""
        key = f"{self.prefix}sweep:{what}"
        with self.translated():
            return bool(self._redis.set(key, 1, nx=True, px=max(1, int(seconds * 1000))))

    def begun(self, job_id: str) -> None:
        """Say that somebody begins to plan or to merge a job."""
        self.run(_BEGUN, keys=[self.key(job_id), self.key(job_id, "busy")], args=[_AT_WORK_SECONDS])

    def goes_on(self, job_ids: Iterable[str]) -> None:
        """Say that they are still at it; to be said again within `_AT_WORK_SECONDS`."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.set(self.key(job_id, "busy"), 1, ex=_AT_WORK_SECONDS)
            pipe.execute()

    def ended(self, job_id: str) -> None:
        """Say that this has ended, well or badly."""
        self.run(_ENDED, keys=[self.key(job_id), self.key(job_id, "busy")], args=[])

    def active(self) -> list[str]:
        """The jobs that have not ended and are not paused."""
        with self.translated():
            return sorted(self._redis.smembers(f"{self.prefix}active"))

    def look_after(self, job_ids: Collection[str]) -> None:
        """Have these jobs be among `active`, should Redis have lost that; one that has ended leaves by itself."""
        if job_ids:
            with self.translated():
                self._redis.sadd(f"{self.prefix}active", *job_ids)

    def was_looking(self, seconds: float) -> bool:
        """Whether somebody looked for jobs that stand still in so many seconds before this; from now on, who asks."""
        with self.translated():
            return bool(self._redis.set(f"{self.prefix}sweep:looked", 1, get=True, px=int(seconds * 1000)))

    def stalled(
        self, job_ids: Sequence[str], *, seconds: float, grace_seconds: float, anew: bool = False
    ) -> tuple[dict[str, int], list[str], list[str]]:
        """Those of these jobs at which nobody has been and nothing has moved for so long.

        Args:
            job_ids: active ones.
            seconds: how long.
            grace_seconds: how much later than its deadline a job is taken for overdue.
            anew: nobody looked for a while: none is known to have stood still meanwhile.

        Returns:
            For how many seconds each of those has stood still; those whose own time has passed; and those of which
            nothing can be told, because what Redis has of them makes no sense.
        """
        kinds = ("", "bytes", "done", "leases", "busy")
        found, overdue, damaged = self.run(
            _STALLED,
            keys=[
                f"{self.prefix}stalls",
                f"{self.prefix}active",
                *(self.key(job_id, kind) for job_id in job_ids for kind in kinds),
            ],
            args=[seconds, grace_seconds, f"|{'|'.join(ACTIVE_STATES)}|", int(anew), *job_ids],
        )
        return dict(zip(found[::2], found[1::2], strict=True)), overdue, damaged

    def let_be(self, job_ids: Collection[str]) -> None:
        """Have stalled jobs left alone for a while, because messages wait for them."""
        if job_ids:
            self.run(_LET_BE, keys=[f"{self.prefix}stalls"], args=list(job_ids))

    def sent_again(self, job_id: str) -> tuple[int, int]:
        """Take note that a stalled job is sent again, and have it left alone for a while.

        Returns:
            How often it was without anything coming of it, 0 if it has ended meanwhile; and how often a worker had
            died that planned or merged it.
        """
        tries, deaths = self.run(_SENT_AGAIN, keys=[f"{self.prefix}stalls", self.key(job_id)], args=[job_id])
        return tries, deaths

    def awaited(self, queues: Iterable[str], tasks: Collection[str]) -> tuple[set[str], set[str]]:
        """The jobs that a message waits for: in a queue; and in a worker that has it until its time comes.

        A message that a worker has, and whose time has come a while ago, says nothing: the worker may be gone.

        Args:
            queues: Celery's.
            tasks: names of those whose first argument is a job's id, or a list of such.
        """
        queued: set[str] = set()
        for queue in queues:
            for priority in MESSAGE_PRIORITIES:
                self._add_waiting(queued, list_key(self.prefix, queue, priority), tasks)
        counting_down: set[str] = set()
        with self.translated():
            seconds, _ = self._redis.time()
            for _, text in self._redis.hscan_iter(f"{self.prefix}unacked", count=_PAGE):
                counting_down.update(later_jobs_of(text, tasks, seconds))
        return queued, counting_down

    def _add_waiting(self, waiting: set[str], key: str, tasks: Collection[str]) -> None:
        first = 0
        while True:
            with self.translated():
                texts = self._redis.lrange(key, first, first + _PAGE - 1)
            for text in texts:
                waiting.update(jobs_of(text, tasks))
            if len(texts) < _PAGE:
                return
            first += _PAGE
