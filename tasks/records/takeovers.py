"""What follows a span: the next chunk that nobody has begun, or what another is slow with, or has left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.deaths import DIED
from tasks.records.late import GO_WITH
from tasks.records.leases import LEASE_SECONDS, Leases
from tasks.records.turns import WAITS
from tasks.records.unbegun import UNBEGUN
from tasks.transfer.manifest import Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.records.progress import Progress

#: What would be done this soon is left to who is at it.
_LEAST_LEFT_SECONDS = 1.0
#: A span is cut where the one at it is not before this: it hears of the cut at its next report.
_HEARS_SECONDS = 0.7
#: What one who is several times as quick would bring in less than the first, and who is at it between the second and
#: the third, is fetched a second time: cut, it would be waited for until who is at it hears of that.
_RACE_SECONDS, _RACE_WON_SECONDS, _RACE_LOST_SECONDS, _RACE_TIMES = 0.4, 0.6, 2.0, 4
#: Not more than this at a time: with quick links half a second is much to fetch twice, and little to win.
_RACE_BYTES = 4 * 1024 * 1024
#: Who is so many times as slow takes nothing from a quicker one: that one becomes quicker still when others on its
#: host are done, and would have to wait.
_SLOWER_TIMES = 2
#: Who has reported nothing for so long has died, as a rule, or is cut off: what it is at is fetched a second time,
#: if nothing else is left.
_SILENT_SECONDS = 3
#: Spans begin at multiples of this in their chunk: filesystems clone whole blocks only.
_STEP_BYTES = 64 * 1024
#: After this a host is not taken to be looking for something to take over, and another one of it may.
_HELP_SECONDS = 5
#: Hosts that look for one job at most: each looks twice a second, and among a thousand a look takes Redis 6 ms.
_MOST_HELPERS = 8

# In a script: have a host send somebody to look for what could be taken over; false if it has of late, or many have.
CLAIMS_HELP = f"""
local function claims_help(help, host, now, kept)
  if tonumber(redis.call('ZSCORE', help, host) or 0) > now then return false end
  if redis.call('ZCOUNT', help, '(' .. now, '+inf') >= {_MOST_HELPERS} then return false end
  redis.call('ZADD', help, now + kept, host)
  redis.call('EXPIRE', help, kept)
  return true
end
"""

_CLAIM_HELP = (
    CLAIMS_HELP + "return claims_help(KEYS[1], ARGV[1], redis.call('TIME')[1] + 0, ARGV[2] + 0) and 1 or 0"
)

# Who is done goes on with the next chunk, where nobody else could make use of its connection. When all chunks were
# begun, who is done takes over from the one that would take longest: all of what nobody is at, or
# as much of a slow one's rest that both end at the same time. In one step: of two that are done, each gets its own.
_SPAN_DONE = (
    CLAIMS_HELP
    + GO_WITH
    + WAITS
    + DIED
    + UNBEGUN
    + """
local bytes, shares, done, stops, speeds, help, deaths, job, wait, heard, job_leases, origin_leases = unpack(KEYS)
local waiting, of_turns, lists = KEYS[13], {unpack(KEYS, 13, 18)}, {unpack(KEYS, 19)}
local holder, generation, span, done_bytes, share, whole = unpack(ARGV)
local chunks, chunk_size, size, mine, least, hears, step, kept, job_id, rank, seconds_of_lease, silent = unpack(ARGV, 7)
local race, race_won, race_lost, race_times, race_bytes, slower = unpack(ARGV, 19)
chunks, rank = tonumber(chunks), tonumber(rank)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local state, newest, ends_at, all, took_over = unpack(
  redis.call('HMGET', job, 'state', 'generation', 'ends_at', 'chunks_count', 'took_over'))
local is_fenced = tonumber(newest or 0) > tonumber(generation)
local function length_of(number) return math.min(chunk_size, size - number * chunk_size) end
local function unbegun()
  if is_wanted_by_others(holder, rank, now, job_leases, origin_leases, of_turns, lists) then return nil end
  local number = first_unbegun(bytes, chunks)
  return number and {span = number, number = number, start = 0, stop = length_of(number)}
end
-- Who could not report because Redis was away is not silent.
local hears_since = tonumber(redis.call('GET', heard) or now)
local function is_silent(who, ends)
  return who ~= holder and string.sub(who, 1, 1) ~= '@' and now - (ends - seconds_of_lease) >= tonumber(silent)
    and now - hears_since >= tonumber(silent)
end
local function best()
  if chunks == 0 or is_fenced or state ~= 'fetching' or now >= (tonumber(ends_at) or math.huge) then
    return nil, false
  end
  local may_be_tail = redis.call('HLEN', bytes) >= chunks
  if redis.call('EXISTS', wait) == 1 then return nil, may_be_tail end
  if not may_be_tail then return unbegun(), false end
  local all, begun, count, is_done = redis.call('HGETALL', bytes), {}, 0, {}
  for _, number in ipairs(redis.call('SMEMBERS', done)) do is_done[number] = true end
  local found
  for index = 1, #all, 2 do
    local number, start = string.match(all[index], '^(%d+)%+?(%d*)$')
    if not begun[number] then begun[number] = true; count = count + 1 end
    if not is_done[number] then
      start = tonumber(start) or 0
      local stop = tonumber(redis.call('HGET', stops, all[index]) or length_of(number))
      local at = start + tonumber(all[index + 1])
      local speed, who = string.match(redis.call('HGET', speeds, all[index]) or '', '^(%S+) (.*)$')
      local ends = 0
      if who then ends = tonumber(string.match(who, '^@(%d+)$') or redis.call('ZSCORE', job_leases, who) or 0) end
      speed = tonumber(speed or 0)
      if at < stop and ends <= now then
        -- Nobody is at it, and has not been for a while: its worker died, or its message waits long.
        found = {span = all[index], number = number, start = start, stop = stop, seconds = math.huge}
      elseif at < stop and is_silent(who, ends) and (found and found.seconds or 0) < math.huge then
        found = {
          span = all[index], number = number, start = start, stop = stop, seconds = 2 ^ 53, is_silent = true
        }
      elseif at < stop and speed >= 0 then
        local seconds = (stop - at) / math.max(speed, 1)
        local my_speed = tonumber(mine) > 0 and tonumber(mine) or math.max(speed, 1)
        local cut = stop - (stop - at) * my_speed / (my_speed + speed)
        local report_age = math.max(0, now - (ends - seconds_of_lease))
        cut = math.ceil(math.max(cut, at + speed * (report_age + hears)) / step) * step
        local is_race = my_speed >= speed * race_times and (stop - at) / my_speed < tonumber(race)
          and stop - at <= tonumber(race_bytes) and seconds > tonumber(race_won) and seconds < tonumber(race_lost)
        local is_longest = seconds > (found and found.seconds or 0)
        if is_race and is_longest then
          found = {span = all[index], number = number, start = start, stop = stop, seconds = seconds}
        elseif is_longest and seconds > tonumber(least) and my_speed * slower >= speed then
          if cut > at and cut < stop then
            found = {number = number, start = cut, stop = stop, seconds = seconds, from = all[index]}
          elseif speed == 0 or stop - at < 2 * step then
            -- It stands still, or has too little left to share: fetched twice, the rest is there sooner.
            found = {span = all[index], number = number, start = start, stop = stop, seconds = seconds}
          end
        end
      end
    end
  end
  if count < chunks then return unbegun(), false end
  return found, true
end
if span ~= '' and not is_fenced then
  redis.call('HSET', bytes, span, done_bytes)
  -- Of a complete job it is settled who brought what.
  if share ~= '' and state ~= 'complete' then redis.call('HSET', shares, span, share) end
  redis.call('HDEL', speeds, span)
  if whole ~= '' then redis.call('SADD', done, whole) end
  go_with(job, {bytes, shares, done})
end
local found, is_tail = best()
local count = redis.call('SCARD', done)
local is_late = took_over and all and count >= tonumber(all) and 1 or 0
if not found then
  redis.call('ZREM', job_leases, holder)
  redis.call('ZREM', origin_leases, holder)
  if state == 'fetching' and not is_fenced and redis.call('ZCARD', job_leases) == 0
    and redis.call('HLEN', bytes) < tonumber(all or 0) then
    waits(waiting, job_id, rank, redis.call('TIME')[1])
  end
  local helps = is_tail and count < chunks and claims_help(help, host_of(holder), now, kept)
  return {count, helps and 1 or 0, is_late, 0}
end
if found.from then
  found.span = string.format('%d+%d', found.number, found.start)
  redis.call('HSET', stops, found.from, found.start, found.span, found.stop)
  redis.call('HSET', bytes, found.span, 0)
end
redis.call('HSETNX', bytes, found.span, 0)
if not took_over then redis.call('HSET', job, 'took_over', 1) end
local deaths_count =
  found.from and 0 or died(deaths, bytes, speeds, job_leases, found.span, now, found.is_silent)
redis.call('HSET', speeds, found.span, '-1 ' .. holder)
return {count, 0, is_late, deaths_count, tonumber(found.number), found.start, found.stop}
"""
)


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a span."""

    span: Span | None  #: to go on with, under the same lease
    chunks_done: int = 0  #: of the job
    deaths_count: int = 0  #: workers that died at that span one after the other, without a new byte
    #: Others are not done, and of this host nobody else will look for what to take over.
    is_to_help: bool = False
    #: All chunks are done, but not all by who had their message: these come later, or were with a worker that died.
    merge_is_late: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What has to be known of a plan to find a span to take over."""

    chunks_count: int
    chunk_size_bytes: int
    size_bytes: int
    bytes_per_second: float  #: of who asks; 0: not known
    races: bool = True  #: it may fetch what another is at too, only to be there sooner


class TakeOvers(Leases):
    """What follows a span that is done."""

    def span_done(
        self,
        progress: Progress,
        brought_bytes: Mapping[str, int],
        *,
        is_whole: bool,
        search: Search | None = None,
    ) -> Next:
        """Store that a span has its receipt and who brought it; what to go on with, under the same lease.

        Args:
            progress: of the attempt that brought it.
            brought_bytes: by worker host; empty: not known.
            is_whole: nothing of the chunk is missing.
            search: look for a span to take over; None: do not.

        Returns:
            What is its to fetch now, if there is something; else the lease was given back.
        """
        kinds = ("bytes", "shares", "done", "stops", "speeds", "help", "deaths", "")
        keys = [
            *(self.key(progress.job_id, kind) for kind in kinds),
            self.origin_key(progress.origin, "wait"),
            self.heard_key,
            *self.leases_of(progress),
            self.waiting_key,
            *self.starving_keys(progress.origin),
            self.origin_key(progress.origin, "refused"),
            self.wanting_keys(progress.origin)[1],
            self.origin_key(progress.origin, "allowed"),
            *self.chunk_lists(progress.rank),
        ]
        args: list[str | float] = [
            progress.holder,
            progress.generation,
            "" if progress.span is None else str(progress.span),
            progress.done_bytes or 0,
            json.dumps(dict(brought_bytes)) if brought_bytes else "",
            progress.span.number if progress.span is not None and is_whole else "",
            search.chunks_count if search else 0,
            search.chunk_size_bytes if search else 0,
            search.size_bytes if search else 0,
            search.bytes_per_second if search else 0,
            _LEAST_LEFT_SECONDS,
            _HEARS_SECONDS,
            _STEP_BYTES,
            _HELP_SECONDS,
            progress.job_id,
            progress.rank,
            int(LEASE_SECONDS),
            _SILENT_SECONDS,
            _RACE_SECONDS if search is None or search.races else 0,
            _RACE_WON_SECONDS,
            _RACE_LOST_SECONDS,
            _RACE_TIMES,
            _RACE_BYTES,
            _SLOWER_TIMES,
        ]
        answer = map(int, self.run(_SPAN_DONE, keys=keys, args=args))
        chunks_done, is_to_help, is_late, deaths_count, *found = answer
        return Next(
            Span(*found) if found else None, chunks_done, deaths_count, bool(is_to_help), bool(is_late)
        )

    def claim_help(self, job_id: str, host: str) -> bool:
        """Have a host look for something to take over of a job; False if it does."""
        return bool(self.run(_CLAIM_HELP, keys=[self.key(job_id, "help")], args=[host, _HELP_SECONDS]))

    def helps_on(self, job_id: str, host: str) -> None:
        """Say that a host goes on looking for something to take over of a job."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            (seconds, _), *_ = pipe.execute()
            pipe.zadd(self.key(job_id, "help"), {host: seconds + _HELP_SECONDS})
            pipe.expire(self.key(job_id, "help"), _HELP_SECONDS)
            pipe.execute()
