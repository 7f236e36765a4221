"""Leases on an origin's connections, over all workers and jobs. They end by themselves: a dead worker keeps none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.deaths import DIED
from tasks.records.reading import as_count, as_state
from tasks.records.turns import EXPECTED, STARVING, Turns

if TYPE_CHECKING:
    from tasks.jobs import JobState
    from tasks.records.progress import Progress

LEASE_SECONDS = 10.0

#: A job's leases are forgotten this long after the last of them was renewed.
LEASES_KEPT_SECONDS = 60

#: How long it is remembered how many connections an origin allows; asked for or refused ones renew it.
_SEEN_LIMIT_SECONDS = 300

#: One more than was seen to be allowed is tried after the first, and after twice as long each time that it is refused.
_LEAST_PAUSE_SECONDS = 0.5

_MOST_PAUSE_SECONDS = 60

#: Where a job was refused a connection, those of lower priority get none for so long.
_REFUSED_MILLISECONDS = 1500

# Redis's own clock: hosts' clocks differ, and a lease must end at one time for all.
_ACQUIRE = (
    STARVING
    + DIED
    + EXPECTED
    + """
local job, job_leases, done, origin_leases, wait, allowed, bytes, speeds, stops, deaths = unpack(KEYS)
local waiting, since, asked, refused, turns = unpack(KEYS, 11)
local holder, origin_limit, job_limit, seconds, kept, pause_least, remembered, span, length = unpack(ARGV)
local job_id, rank, refused_milliseconds = unpack(ARGV, 10)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local fields = redis.call('HMGET', job, 'state', 'ends_at')
local state = fields[1] or ''
if now >= (tonumber(fields[2]) or math.huge) then return {state, 0, 0, 0, 1, false, 0, 0, 0} end
redis.call('ZREM', waiting, job_id)
local milliseconds = redis.call('PTTL', wait)
if milliseconds > 0 then return {state, 0, milliseconds, 0, 0, false, 0, 0, 0} end
redis.call('ZREMRANGEBYSCORE', job_leases, '-inf', now)
redis.call('ZREMRANGEBYSCORE', origin_leases, '-inf', now)
local speed, other = string.match(redis.call('HGET', speeds, span) or '', '^(%S+) (.*)$')
if other and other ~= holder and redis.call('ZSCORE', job_leases, other) then
  local left = tonumber(length) - tonumber(redis.call('HGET', bytes, span) or 0)
  local wait = tonumber(speed) > 0 and left / speed * 1000 or 1000
  wait = math.floor(math.max(50, math.min(wait, 1000)))
  return {state, 0, wait, redis.call('SCARD', done), 0, false, 1, 0, 0}
end
local taken, mine = redis.call('ZCARD', origin_leases), redis.call('ZCARD', job_leases)
local first = starving(since, asked, now)
local seen = redis.call('HMGET', allowed, 'count', 'at', 'pause', 'tried', 'over', 'over_until')
local function refuse()
  -- Who only looks for something has none of its own to fetch.
  if span ~= '' then
    redis.call('SET', refused .. rank, job_id, 'PX', refused_milliseconds)
    if mine == 0 then starves(since, asked, job_id, rank, now) end
  end
  local others = (first and first ~= job_id or redis.call('ZCARD', waiting) > 0) and 1 or 0
  return {state, 0, 0, redis.call('SCARD', done), 0, false, 0, 0, others}
end
if taken >= tonumber(origin_limit) or mine >= tonumber(job_limit) then return refuse() end
for higher = 0, rank - 1 do
  if redis.call('EXISTS', refused .. higher) == 1 then return refuse() end
end
-- The last ones that are free are kept for those that have none.
local free = math.min(origin_limit, tonumber(seen[1] or origin_limit)) - taken
if mine > 0 and first and first ~= job_id and free <= starving_count(since, rank, now) then return refuse() end
-- A slot that was yielded is not for those that had found no connection before: they are in the worker already, and
-- would be begun before what waits in the lists.
if mine > 0 and is_expected(waiting, turns, tonumber(rank), now) then
  return {state, 0, 0, redis.call('SCARD', done), 0, false, 0, 0, 1}
end
if seen[1] and taken >= tonumber(seen[1]) then
  -- Who only looks for something does not try one more: it may find nothing, and that would pass for a success.
  if span == '' or now < seen[2] + seen[3] then return refuse() end
  if taken + 1 >= tonumber(seen[5] or math.huge) and now < tonumber(seen[6]) then return refuse() end
  local pause = tonumber(seen[3])
  if seen[4] == '1' then pause = math.max(tonumber(pause_least), pause / 2) end
  redis.call('HSET', allowed, 'count', taken + 1, 'at', now, 'pause', pause, 'tried', 1)
  redis.call('EXPIRE', allowed, remembered)
end
for _, leases in ipairs({job_leases, origin_leases}) do
  redis.call('ZADD', leases, now + seconds, holder)
  redis.call('EXPIRE', leases, kept)
end
redis.call('ZREM', since, job_id)
redis.call('ZREM', asked, job_id)
local deaths_count = 0
if span ~= '' then
  if other ~= holder then deaths_count = died(deaths, bytes, speeds, job_leases, span, now) end
  redis.call('HSET', speeds, span, '-1 ' .. holder)
  redis.call('HSETNX', bytes, span, 0)
end
return {state, 1, 0, 0, 0, redis.call('HGET', stops, span), 0, deaths_count, 0}
"""
)


# A refusal among other connections that stand: as many as those are is what the origin allows, for now. Of a fleet that
# was refused together each takes its own lease back first, so that the last one counts those that are being served.
_REFUSED = """
local job_leases, origin_leases, allowed = unpack(KEYS)
local holder, pause_least, pause_most, remembered = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREM', job_leases, holder)
redis.call('ZREM', origin_leases, holder)
redis.call('ZREMRANGEBYSCORE', origin_leases, '-inf', now)
local others = redis.call('ZCARD', origin_leases)
if others == 0 then return 0 end
local seen = redis.call('HMGET', allowed, 'count', 'pause', 'tried', 'over', 'over_pause')
-- Not for long, if it was not one too many that was tried: an origin may take a connection that has just ended for one
-- that stands.
local count, pause = math.min(others, tonumber(seen[1] or others)), tonumber(pause_least)
if seen[3] == '1' then
  -- Back to what went well: of those, some may have ended since.
  count, pause = math.max(1, seen[1] - 1), tonumber(seen[2])
  -- Another refusal in between shortens the pause, but not before what was refused when it was tried is tried again.
  if seen[4] == seen[1] then pause = math.max(pause, seen[5]) end
  pause = math.min(pause * 2, tonumber(pause_most))
  redis.call('HSET', allowed, 'over', seen[1], 'over_pause', pause, 'over_until', now + pause)
end
redis.call('HSET', allowed, 'count', count, 'at', now, 'pause', pause, 'tried', 0)
redis.call('EXPIRE', allowed, remembered)
return 1
"""

# In one step: who was asked to wait for less must not shorten what another was asked just now.
_COOL_DOWN = """
local milliseconds = tonumber(ARGV[1])
if milliseconds > 0 and redis.call('PTTL', KEYS[1]) < milliseconds then
  redis.call('SET', KEYS[1], 1, 'PX', milliseconds)
end
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer to an attempt that asks for a connection."""

    state: JobState | None  #: the job's
    is_given: bool
    wait_seconds: float = 0  #: how long the origin has asked everybody to wait; 0: not
    is_held: bool = False  #: somebody is at the span; that is what there is to wait for then
    is_overdue: bool = False  #: the time that the job was given has passed
    chunks_done: int = 0  #: of the job; told where no lease is given
    stop: int | None = None  #: where the span ends in its chunk, if another worker took over what follows
    deaths_count: int = 0  #: workers that died at the span one after the other, without a new byte
    others_starve: bool = False  #: nobody should hold a slot only to wait for a connection


class Leases(Turns):
    """Who may open a connection to an origin."""

    def acquire(
        self, progress: Progress, *, origin_limit: int, job_limit: int, length_bytes: int | None
    ) -> Lease:
        """Ask for a lease on one of an origin's connections; there is none for a span that is being fetched already.

        It ends by itself `LEASE_SECONDS` after the last report, so a dead worker cannot keep it.

        Args:
            progress: of the attempt that asks.
            origin_limit: how many leases there are for the origin, over all jobs and workers.
            job_limit: how many of them the job may have.
            length_bytes: of the span; tells how soon another one will be done with it.
        """
        keys = [
            self.key(progress.job_id),
            self.key(progress.job_id, "leases"),
            self.key(progress.job_id, "done"),
            self.origin_key(progress.origin, "leases"),
            self.origin_key(progress.origin, "wait"),
            self.origin_key(progress.origin, "allowed"),
            self.key(progress.job_id, "bytes"),
            self.key(progress.job_id, "speeds"),
            self.key(progress.job_id, "stops"),
            self.key(progress.job_id, "deaths"),
            self.waiting_key,
            *self.starving_keys(progress.origin),
            self.origin_key(progress.origin, "refused"),
            self.turns_key,
        ]
        args: list[str | float] = [
            progress.holder,
            origin_limit,
            job_limit,
            int(LEASE_SECONDS),
            LEASES_KEPT_SECONDS,
            _LEAST_PAUSE_SECONDS,
            _SEEN_LIMIT_SECONDS,
            "" if progress.span is None else str(progress.span),
            length_bytes or 0,
            progress.job_id,
            progress.rank,
            _REFUSED_MILLISECONDS,
        ]
        answer = self.run(_ACQUIRE, keys=keys, args=args)
        state, given, milliseconds, done_count, overdue, stop, held, deaths_count, others = answer
        return Lease(
            state=as_state(state),
            is_given=bool(given),
            wait_seconds=milliseconds / 1000,
            is_held=bool(held),
            is_overdue=bool(overdue),
            chunks_done=done_count,
            stop=as_count(stop),
            deaths_count=deaths_count,
            others_starve=bool(others),
        )

    def refused(self, progress: Progress) -> bool:
        """Take note that an origin refused a connection, and give its lease back.

        Returns:
            Whether others stood at that moment: then the origin allows only so many, and no more are tried for
            a while. False: the refusal is the origin's own trouble.
        """
        keys = [*self.leases_of(progress), self.origin_key(progress.origin, "allowed")]
        args: list[str | float] = [
            progress.holder, _LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS, _SEEN_LIMIT_SECONDS
        ]  # fmt: skip
        return bool(self.run(_REFUSED, keys=keys, args=args))

    def cool_down(self, origin: str, seconds: float) -> None:
        """Have everybody wait before the next connection to an origin, as it has asked for."""
        self.run(_COOL_DOWN, keys=[self.origin_key(origin, "wait")], args=[int(seconds * 1000)])

    def leases_of(self, progress: Progress) -> tuple[str, str]:
        """The keys of the leases that an attempt's is among: of its job, and of its origin."""
        return self.key(progress.job_id, "leases"), self.origin_key(progress.origin, "leases")
