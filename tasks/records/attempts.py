"""What running attempts report, what they are told, and who takes over from whom."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.late import GO_WITH, LATE_SECONDS
from tasks.records.leases import LEASE_SECONDS, LEASES_KEPT_SECONDS, Leases, as_count, as_state, as_time
from tasks.transfer.manifest import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tasks.jobs import JobState

#: What would be done this soon is left to who is at it.
_LEAST_LEFT_SECONDS = 1.5
#: A span is cut where the one at it is not before this: it hears of the cut at its next report.
_HEARS_SECONDS = 1.0
#: Spans begin at multiples of this in their chunk: filesystems clone whole blocks only.
_STEP_BYTES = 64 * 1024
#: After this nobody is taken to be looking for something to take over, and another one may.
_HELP_SECONDS = 5

#: What TTL says of a key that does not expire.
_NEVER = -1

# When all chunks were begun, who is done takes over from the one that would take longest: all of what nobody is at, or
# as much of a slow one's rest that both end at the same time. In one step: of two that are done, each gets its own.
_SPAN_DONE = (
    GO_WITH
    + """
local bytes, shares, done, stops, speeds, help, job, wait, job_leases, origin_leases = unpack(KEYS)
local holder, generation, span, done_bytes, share, whole = unpack(ARGV)
local chunks, chunk_size, size, mine, least, hears, step, kept = unpack(ARGV, 7)
chunks = tonumber(chunks)
local now = redis.call('TIME')[1] + 0
local state, newest, ends_at = unpack(redis.call('HMGET', job, 'state', 'generation', 'ends_at'))
local is_fenced = tonumber(newest or 0) > tonumber(generation)
local function best()
  if chunks == 0 or redis.call('HLEN', bytes) < chunks then return nil, false end
  if is_fenced or state ~= 'fetching' or (ends_at and now >= tonumber(ends_at)) then return nil, false end
  if redis.call('EXISTS', wait) == 1 then return nil, true end
  local all, begun, count, is_done = redis.call('HGETALL', bytes), {}, 0, {}
  for _, number in ipairs(redis.call('SMEMBERS', done)) do is_done[number] = true end
  local found
  for index = 1, #all, 2 do
    local number, start = string.match(all[index], '^(%d+)%+?(%d*)$')
    if not begun[number] then begun[number] = true; count = count + 1 end
    if not is_done[number] then
      start = tonumber(start) or 0
      local stop = tonumber(redis.call('HGET', stops, all[index])
        or math.min(chunk_size, size - number * chunk_size))
      local at = start + tonumber(all[index + 1])
      local speed, who = string.match(redis.call('HGET', speeds, all[index]) or '', '^(%S+) (.*)$')
      local ends = 0
      if who then ends = tonumber(string.match(who, '^@(%d+)$') or redis.call('ZSCORE', job_leases, who) or 0) end
      speed = tonumber(speed or 0)
      if at < stop and ends <= now then
        -- Nobody is at it, and has not been for a while: its worker died, or its message waits long.
        found = {span = all[index], number = number, start = start, stop = stop, seconds = math.huge}
      elseif at < stop and speed >= 0 then
        local seconds = (stop - at) / math.max(speed, 1)
        local my_speed = tonumber(mine) > 0 and tonumber(mine) or math.max(speed, 1)
        local cut = stop - (stop - at) * my_speed / (my_speed + speed)
        cut = math.ceil(math.max(cut, at + speed * hears) / step) * step
        if seconds > tonumber(least) and seconds > (found and found.seconds or 0) then
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
  return count >= chunks and found or nil, count >= chunks
end
if span ~= '' and not is_fenced then
  redis.call('HSET', bytes, span, done_bytes)
  if share ~= '' then redis.call('HSET', shares, span, share) end
  redis.call('HDEL', speeds, span)
  if whole ~= '' then redis.call('SADD', done, whole) end
  go_with(job, {bytes, shares, done})
end
local found, is_tail = best()
local count = redis.call('SCARD', done)
if not found then
  redis.call('ZREM', job_leases, holder)
  redis.call('ZREM', origin_leases, holder)
  local helps = is_tail and count < chunks and redis.call('SET', help, 1, 'NX', 'EX', kept)
  return {count, helps and 1 or 0}
end
if found.from then
  found.span = string.format('%d+%d', found.number, found.start)
  redis.call('HSET', stops, found.from, found.start, found.span, found.stop)
  redis.call('HSET', bytes, found.span, 0)
end
redis.call('HSET', speeds, found.span, '-1 ' .. holder)
return {count, 0, tonumber(found.number), found.start, found.stop}
"""
)

# A span that somebody failed with is left to its chunk's message, which waits as long as it has to: others take it for
# one whose worker died just now.
_ENDED = (
    GO_WITH
    + """
local bytes, speeds, job, job_leases, origin_leases = unpack(KEYS)
local holder, span, done_bytes, left_seconds = unpack(ARGV)
local who = string.match(redis.call('HGET', speeds, span) or '', '^%S+ (.*)$')
-- Who lost its lease has nothing to say of a span that another one is at.
if span ~= '' and (not who or who == holder or not redis.call('ZSCORE', job_leases, who)) then
  if done_bytes ~= '' then redis.call('HSET', bytes, span, done_bytes) end
  if left_seconds ~= '' then
    redis.call('HSET', speeds, span, '-1 @' .. redis.call('TIME')[1] + left_seconds)
  else
    redis.call('HDEL', speeds, span)
  end
end
redis.call('ZREM', job_leases, holder)
redis.call('ZREM', origin_leases, holder)
go_with(job, {bytes, speeds})
"""
)

# Of a job whose record is gone, nothing must come into being.
_RETRIED = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'retries_count', 1) end"


@dataclass(frozen=True, slots=True)
class Progress:
    """What one attempt reports at intervals."""

    job_id: str
    span: Span | None  #: what it fetches; None: it looks for something
    generation: int  #: of the sending that the attempt belongs to
    done_bytes: int | None  #: of the span; None: it is not known yet what earlier attempts left
    bytes_per_second: float | None  #: of late; None: it is not known yet
    holder: str  #: ``<host>/<attempt>``, whose lease is renewed
    origin: str  #: scheme, host and port, whose connection it is


@dataclass(frozen=True, slots=True)
class Standing:
    """What a running attempt is told."""

    state: JobState | None  #: the job's
    generation: int  #: the last that was sent
    is_overdue: bool  #: the time that the job was given has passed
    stop: int | None  #: where the span ends in its chunk, if another worker took over what follows
    is_done: bool = False  #: the chunk is whole: another worker was quicker


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a span."""

    span: Span | None  #: to go on with, under the same lease
    chunks_done: int = 0  #: of the job
    is_to_help: bool = (
        False  #: others are not done, and nobody but this one will look for something to take over
    )


@dataclass(frozen=True, slots=True)
class Search:
    """What has to be known of a plan to find a span to take over."""

    chunks_count: int
    chunk_size_bytes: int
    size_bytes: int
    bytes_per_second: float  #: of who asks; 0: not known


class Attempts(Leases):
    """Reports of attempts."""

    def report(self, reports: Iterable[Progress]) -> dict[str, Standing]:
        """Store the progress of attempts and renew their leases; how each stands, by its holder."""
        reports = [report for report in reports if report.span is not None]
        job_ids = list(dict.fromkeys(report.job_id for report in reports))
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in job_ids:
                pipe.hmget(self.key(job_id), "state", "generation", "ends_at")
                pipe.ttl(self.key(job_id))
            for report in reports:
                pipe.hget(self.key(report.job_id, "stops"), str(report.span))
                pipe.sismember(self.key(report.job_id, "done"), report.span.number if report.span else -1)
            seconds, *answers = pipe.execute()
            jobs = dict(zip(job_ids, zip(answers[::2], answers[1::2], strict=False), strict=False))
            spans = answers[2 * len(job_ids) :]
            for report in reports:
                if report.done_bytes is not None:
                    speed = -1 if report.bytes_per_second is None else int(report.bytes_per_second)
                    pipe.hset(self.key(report.job_id, "bytes"), str(report.span), report.done_bytes)
                    pipe.hset(self.key(report.job_id, "speeds"), str(report.span), f"{speed} {report.holder}")
                    _, left_seconds = jobs[report.job_id]
                    if left_seconds != _NEVER:
                        for kind in ("bytes", "speeds"):
                            pipe.expire(self.key(report.job_id, kind), max(left_seconds, 0) or LATE_SECONDS)
                for leases in self.leases_of(report):
                    # XX: a lease that was given back meanwhile must not come to life again.
                    pipe.zadd(leases, {report.holder: seconds[0] + LEASE_SECONDS}, xx=True)
                    pipe.expire(leases, LEASES_KEPT_SECONDS)
            pipe.execute()
        standings = {}
        for report, stop, is_done in zip(reports, spans[::2], spans[1::2], strict=True):
            (state, generation, ends_at), _ = jobs[report.job_id]
            standings[report.holder] = Standing(
                state=as_state(state),
                generation=as_count(generation) or 0,
                is_overdue=seconds[0] >= as_time(ends_at),
                stop=as_count(stop),
                is_done=bool(is_done),
            )
        return standings

    def attempt_ended(self, progress: Progress, *, has_failed: bool = False) -> None:
        """Store how far an unfinished attempt came, and give its lease back.

        Args:
            progress: of the attempt.
            has_failed: nobody takes its span over for as long as a dead worker's; its message may come back before.
        """
        kinds = ("bytes", "speeds", "")
        keys = [*(self.key(progress.job_id, kind) for kind in kinds), *self.leases_of(progress)]
        is_held = has_failed and progress.span is not None
        args: list[str | float] = [
            progress.holder,
            "" if progress.span is None else str(progress.span),
            "" if progress.span is None or progress.done_bytes is None else progress.done_bytes,
            int(LEASE_SECONDS) if is_held else "",
        ]
        self.run(_ENDED, keys=keys, args=args)

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
            brought_bytes: by worker host; empty: nothing had to be brought.
            is_whole: nothing of the chunk is missing.
            search: look for a span to take over; None: do not.

        Returns:
            What is its to fetch now, if there is something; else the lease was given back.
        """
        kinds = ("bytes", "shares", "done", "stops", "speeds", "help", "")
        keys = [
            *(self.key(progress.job_id, kind) for kind in kinds),
            self.origin_key(progress.origin, "wait"),
            *self.leases_of(progress),
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
        ]
        chunks_done, is_to_help, *found = map(int, self.run(_SPAN_DONE, keys=keys, args=args))
        return Next(Span(*found) if found else None, chunks_done, bool(is_to_help))

    def is_to_help(self, job_id: str) -> bool:
        """Whether nobody looks for something to take over of a job: who asks, does from now on."""
        with self.translated():
            return bool(self._redis.set(self.key(job_id, "help"), 1, nx=True, ex=_HELP_SECONDS))

    def helps_on(self, job_id: str) -> None:
        """Say that somebody goes on looking for something to take over of a job."""
        with self.translated():
            self._redis.set(self.key(job_id, "help"), 1, ex=_HELP_SECONDS)

    def retried(self, job_id: str) -> None:
        """Count one retry."""
        self.run(_RETRIED, keys=[self.key(job_id)], args=[])
