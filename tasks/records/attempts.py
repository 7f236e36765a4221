"""What running attempts report, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.records.late import GO_WITH
from tasks.records.leases import LEASE_SECONDS, LEASES_KEPT_SECONDS, Leases
from tasks.records.reading import as_count, as_rate, as_state, as_time
from tasks.records.turns import WAITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.jobs import JobState
    from tasks.records.progress import Progress
    from tasks.records.turns import Starving

#: Nobody has reported for so long: Redis was away, or nothing was fetched.
_BREAK_MILLISECONDS = 2000

# An attempt has its lease again if that has vanished, or if Redis was away when it asked; unless another is at its span
# by now. Where two are at a span, the later one tells of it: would both, a third would find that nobody quick is at it.
_REPORTED = (
    GO_WITH
    + """
local job, bytes, speeds, deaths, job_leases, origin_leases = unpack(KEYS)
local holder, span, done_bytes, speed, seconds, kept = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local who = string.match(redis.call('HGET', speeds, span) or '', '^%S+ (.*)$')
local is_anothers = who and who ~= holder and tonumber(redis.call('ZSCORE', job_leases, who) or 0) > now
if is_anothers and not redis.call('ZSCORE', job_leases, holder) then return end
-- Who was taken for dead, as it was silent, is not.
if is_anothers then redis.call('HDEL', deaths, span) end
if done_bytes ~= '' and not is_anothers then
  redis.call('HSET', bytes, span, done_bytes)
  redis.call('HSET', speeds, span, speed .. ' ' .. holder)
  go_with(job, {bytes, speeds})
end
for _, leases in ipairs({job_leases, origin_leases}) do
  redis.call('ZADD', leases, now + seconds, holder)
  redis.call('EXPIRE', leases, kept)
end
"""
)

# A span that somebody failed with is left to its chunk's message, which waits as long as it has to: others take it for
# one whose worker died just now.
_ENDED = (
    GO_WITH
    + WAITS
    + """
local bytes, speeds, done, job, job_leases, origin_leases, waiting = unpack(KEYS)
local holder, span, done_bytes, left_seconds, job_id, rank = unpack(ARGV)
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
-- Its message goes back to the others of the job, and they wait for a slot.
local state, chunks = unpack(redis.call('HMGET', job, 'state', 'chunks_count'))
if span ~= '' and left_seconds == '' and state == 'fetching' and redis.call('ZCARD', job_leases) == 0
  and redis.call('SCARD', done) < tonumber(chunks or 0) then
  waits(waiting, job_id, rank, redis.call('TIME')[1])
end
"""
)

# Of a job whose record is gone, nothing must come into being.
_RETRIED = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'retries_count', 1) end"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a running attempt is told."""

    state: JobState | None  #: the job's
    generation: int  #: the last that was sent
    is_overdue: bool  #: the time that the job was given has passed
    stop: int | None  #: where the span ends in its chunk, if another worker took over what follows
    is_done: bool = False  #: the chunk is whole: another worker was quicker
    connections_count: int = 0  #: of the job, over all workers
    starving: tuple[Starving, ...] = ()  #: who has none to this attempt's origin, or no slot
    limit_rate: str | None = None  #: bytes a second over all workers, or a timetable of them; None: any
    is_ending: bool = False  #: others have begun to look for what they could take over of the job
    #: It wants one to this origin, and has two less than this host, or yet less.
    host_in_need: str | None = None


class Attempts(Leases):
    """Reports of attempts."""

    def report(self, reports: Iterable[Progress]) -> dict[str, Standing]:
        """Store the progress of one host's attempts and renew their leases; how each stands, by its holder.

        None of them may end before this returns: a lease that was given back would come to life again.
        """
        reports = [report for report in reports if report.span is not None]
        job_ids = list(dict.fromkeys(report.job_id for report in reports))
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in job_ids:
                pipe.hmget(self.key(job_id), "state", "generation", "ends_at", "limit_rate")
                pipe.zcard(self.key(job_id, "leases"))
                pipe.exists(self.key(job_id, "help"))
            for report in reports:
                pipe.hget(self.key(report.job_id, "stops"), str(report.span))
                pipe.sismember(self.key(report.job_id, "done"), report.span.number if report.span else -1)
            seconds, *answers = pipe.execute()
            of_jobs, spans = answers[: 3 * len(job_ids)], answers[3 * len(job_ids) :]
            jobs = dict(
                zip(job_ids, zip(of_jobs[::3], of_jobs[1::3], of_jobs[2::3], strict=True), strict=True)
            )
            now = seconds[0] + seconds[1] / 1e6
            pipe.set(self.heard_key, seconds[0], nx=True, px=_BREAK_MILLISECONDS)
            pipe.pexpire(self.heard_key, _BREAK_MILLISECONDS)
            for report in reports:
                self._store(report, pipe)
            origins = list(dict.fromkeys(report.origin for report in reports))
            if reports:
                self.ask_hosts_in_need(pipe, reports[0].holder.partition("/")[0], origins)
            self.ask_starving(pipe, origins, now)
            answers = pipe.execute()[2 + len(reports) :]
            in_need = dict(zip(origins, answers, strict=False))
            starving = self.read_starving(answers, origins, now)
        standings = {}
        for report, stop, is_done in zip(reports, spans[::2], spans[1::2], strict=True):
            (state, generation, ends_at, limit_rate), connections_count, is_ending = jobs[report.job_id]
            standings[report.holder] = Standing(
                state=as_state(state),
                generation=as_count(generation) or 0,
                is_overdue=seconds[0] >= as_time(ends_at),
                stop=as_count(stop),
                is_ending=bool(is_ending),
                is_done=bool(is_done),
                connections_count=connections_count,
                starving=starving[report.origin],
                limit_rate=as_rate(limit_rate),
                host_in_need=in_need[report.origin],
            )
        return standings

    def _store(self, report: Progress, pipe: Any) -> None:
        """Have a pipeline store the progress of an attempt, and renew its lease."""
        keys = [
            *(self.key(report.job_id, kind) for kind in ("", "bytes", "speeds", "deaths")),
            *self.leases_of(report),
        ]
        args = [
            report.holder,
            str(report.span),
            "" if report.done_bytes is None else report.done_bytes,
            -1 if report.bytes_per_second is None else int(report.bytes_per_second),
            int(LEASE_SECONDS),
            LEASES_KEPT_SECONDS,
        ]
        self.script(_REPORTED)(keys=keys, args=args, client=pipe)

    def attempt_ended(self, progress: Progress, *, has_failed: bool = False) -> None:
        """Store how far an unfinished attempt came, and give its lease back.

        Args:
            progress: of the attempt.
            has_failed: nobody takes its span over for as long as a dead worker's; its message may come back before.
        """
        kinds = ("bytes", "speeds", "done", "")
        keys = [
            *(self.key(progress.job_id, kind) for kind in kinds),
            *self.leases_of(progress),
            self.waiting_key,
        ]
        is_held = has_failed and progress.span is not None
        args: list[str | float] = [
            progress.holder,
            "" if progress.span is None else str(progress.span),
            "" if progress.span is None or progress.done_bytes is None else progress.done_bytes,
            int(LEASE_SECONDS) if is_held else "",
            progress.job_id,
            progress.rank,
        ]
        self.run(_ENDED, keys=keys, args=args)

    def retried(self, job_id: str) -> None:
        """Count one retry."""
        self.run(_RETRIED, keys=[self.key(job_id)], args=[])
