"""Leases on an origin's connections, over all workers and jobs. They end by themselves: a dead worker keeps none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.deaths import DIED
from tasks.records.hosts import BY_HOST, WANTS_ONE
from tasks.records.limits import ALLOWED, Limits
from tasks.records.reading import as_count, as_state
from tasks.records.turns import EXPECTED, STARVING, Turns

if TYPE_CHECKING:
    from tasks.jobs import JobState
    from tasks.records.progress import Progress

LEASE_SECONDS = 10.0

#: A job's leases are forgotten this long after the last of them was renewed.
LEASES_KEPT_SECONDS = 60

#: Where a job was refused a connection, those of lower priority get none for so long.
_REFUSED_MILLISECONDS = 1500

#: What the script answers where a connection is kept for another host.
_FOR_ANOTHER_HOST = 2

# Redis's own clock: hosts' clocks differ, and a lease must end at one time for all.
_ACQUIRE = (
    STARVING
    + DIED
    + EXPECTED
    + BY_HOST
    + WANTS_ONE
    + ALLOWED
    + """
local job, job_leases, done, origin_leases, wait, allowed, bytes, speeds, stops, deaths = unpack(KEYS)
local waiting, since, asked, refused, turns, hosts, wanting, wanted, aside = unpack(KEYS, 11)
local holder, origin_limit, job_limit, seconds, kept, span, length = unpack(ARGV)
local job_id, rank, refused_milliseconds, each_host, has_reached = unpack(ARGV, 8)
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
if each_host ~= '' then
  origin_limit = math.max(origin_limit, each_host * redis.call('ZCOUNT', hosts, now, '+inf'))
end
job_limit = tonumber(job_limit) or tonumber(origin_limit)
local taken, mine = redis.call('ZCARD', origin_leases), redis.call('ZCARD', job_leases)
local me, counts = host_of(holder), nil
local function count_of(host)
  counts = counts or by_host(origin_leases, now)
  return counts[host] or 0
end
local first = starving(since, asked, now)
local function later(others) return {state, 0, 0, redis.call('SCARD', done), 0, false, 0, 0, others} end
local function refuse(all_are_taken)
  -- Who only looks for something has none of its own to fetch.
  if span ~= '' then
    redis.call('SET', refused .. rank, job_id, 'PX', refused_milliseconds)
    if mine == 0 then starves(since, asked, job_id, rank, now) end
  end
  if all_are_taken and (span ~= '' or count_of(me) == 0) then is_refused_one(hosts, wanting, wanted, me, now) end
  return later((first and first ~= job_id or redis.call('ZCARD', waiting) > 0) and 1 or 0)
end
-- A job of a low rate has as many as it has use for: it starves of nothing, and nobody has to make room for it.
if mine >= job_limit and taken < tonumber(origin_limit) then return later(1) end
if taken >= tonumber(origin_limit) then return refuse(true) end
for higher = 0, rank - 1 do
  if redis.call('EXISTS', refused .. higher) == 1 then return refuse(false) end
end
local was_aside = redis.call('HGET', aside, me)
if was_aside and has_reached == '1' then redis.call('HDEL', aside, me) end
local aside_until = was_aside and has_reached ~= '1' and tonumber(string.match(was_aside, '^%S+')) or 0
if aside_until > 0 and taken > count_of(me) and (count_of(me) > 0 or now < aside_until) then return later(1) end
local here, over_all, seen = allowed_more(allowed, me, taken, count_of, now)
-- The last ones that are free are kept for those that have none.
local free = math.min(origin_limit - taken, here, over_all)
if mine > 0 and first and first ~= job_id and free <= starving_count(since, rank, now) then return refuse(false) end
-- A slot that was yielded is not for those that had found no connection before: they are in the worker already, and
-- would be begun before what waits in the lists.
if mine > 0 and is_expected(waiting, turns, tonumber(rank), now) then return later(1) end
local others = mine > 0 and others_that_want(wanted, me, now) or {}
if #others > 0 and count_of(me) > 0 and another_has_fewer(others, counts, counts[me]) then return later(2) end
if here <= 0 or over_all <= 0 then
  -- Who only looks for something does not try one more: it may find nothing, and that would pass for a success.
  -- A host that has none, and was never refused its only one, may be one of those that each have a limit of their own.
  local is_first = here > 0 and not was_aside and count_of(me) == 0
  local wanted_count = here <= 0 and count_of(me) + 1 or taken + 1
  if span == '' or not (is_first or may_try(seen, wanted_count, now)) then return refuse(here > 0) end
  try_one_more(allowed, me, taken, count_of, here, over_all, seen, now)
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
    is_for_another_host: bool = False  #: one is free, and kept for a host that has fewer and wants one


class Leases(Limits, Turns):
    """Who may open a connection to an origin."""

    @property
    def heard_key(self) -> str:
        """The key that says since when workers have reported without a break."""
        return f"{self.prefix}heard"

    def acquire(
        self,
        progress: Progress,
        *,
        origin_limit: int,
        job_limit: int | None = None,
        each_host: int | None = None,
        length_bytes: int | None,
        has_reached: bool = False,
    ) -> Lease:
        """Ask for a lease on one of an origin's connections; there is none for a span that is being fetched already.

        It ends by itself `LEASE_SECONDS` after the last report, so a dead worker cannot keep it.

        Args:
            progress: of the attempt that asks.
            origin_limit: how many leases there are for the origin, over all jobs and workers.
            job_limit: how many of them the job may have; None: all.
            each_host: there are at least so many for each host that fetches; None: the limit is what it is.
            length_bytes: of the span; tells how soon another one will be done with it.
            has_reached: bytes of the origin have come to this process of late.
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
            self.hosts_key,
            *self.wanting_keys(progress.origin),
            self.origin_key(progress.origin, "aside"),
        ]
        args: list[str | float] = [
            progress.holder,
            origin_limit,
            "" if job_limit is None else job_limit,
            int(LEASE_SECONDS),
            LEASES_KEPT_SECONDS,
            "" if progress.span is None else str(progress.span),
            length_bytes or 0,
            progress.job_id,
            progress.rank,
            _REFUSED_MILLISECONDS,
            "" if each_host is None else each_host,
            int(has_reached),
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
            is_for_another_host=others == _FOR_ANOTHER_HOST,
        )
