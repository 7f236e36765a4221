"""What running attempts report, and what they are told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs import JobState
from tasks.records.leases import LEASE_SECONDS, LEASES_KEPT_SECONDS, Leases

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Progress:
    """What one attempt reports at intervals."""

    job_id: str
    number: int
    generation: int  #: of the sending that the attempt belongs to
    done_bytes: int | None  #: None: it is not known yet what earlier attempts left
    holder: str  #: ``<host>/<attempt>``, whose lease is renewed
    origin: str  #: scheme, host and port, whose connection it is


@dataclass(frozen=True, slots=True)
class Standing:
    """What a running attempt is told of its job."""

    state: JobState | None
    generation: int  #: the last that was sent
    is_overdue: bool  #: the time that the job was given has passed


class Attempts(Leases):
    """Reports of attempts."""

    def report(self, reports: Iterable[Progress]) -> dict[str, Standing]:
        """Store the progress of attempts and renew their leases; how each of their jobs stands."""
        reports = list(reports)
        jobs = sorted({report.job_id for report in reports})
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in jobs:
                pipe.hmget(self.key(job_id), "state", "generation", "ends_at")
            seconds, *standings = pipe.execute()
            for report in reports:
                if report.done_bytes is not None:
                    pipe.hset(self.key(report.job_id, "bytes"), str(report.number), report.done_bytes)
                for leases in self.leases_of(report):
                    # XX: a lease that was given back meanwhile must not come to life again.
                    pipe.zadd(leases, {report.holder: seconds[0] + LEASE_SECONDS}, xx=True)
                    pipe.expire(leases, LEASES_KEPT_SECONDS)
            pipe.execute()
        return {
            job_id: Standing(
                state=JobState(state) if state else None,
                generation=int(generation or 0),
                is_overdue=ends_at is not None and seconds[0] >= float(ends_at),
            )
            for job_id, (state, generation, ends_at) in zip(jobs, standings, strict=True)
        }

    def attempt_ended(self, progress: Progress) -> None:
        """Store how far an unfinished attempt came, and give its lease back."""
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            if progress.done_bytes is not None:
                pipe.hset(self.key(progress.job_id, "bytes"), str(progress.number), progress.done_bytes)
            for leases in self.leases_of(progress):
                pipe.zrem(leases, progress.holder)
            pipe.execute()

    def chunk_done(self, progress: Progress, brought_bytes: Mapping[str, int]) -> None:
        """Store that a chunk has its receipt and who brought it, and give the lease back."""
        number = str(progress.number)
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(self.key(progress.job_id, "bytes"), number, progress.done_bytes or 0)
            pipe.hset(self.key(progress.job_id, "shares"), number, json.dumps(dict(brought_bytes)))
            pipe.sadd(self.key(progress.job_id, "done"), number)
            for leases in self.leases_of(progress):
                pipe.zrem(leases, progress.holder)
            pipe.execute()

    def retried(self, job_id: str) -> None:
        """Count one retry."""
        with self.translated():
            self._redis.hincrby(self.key(job_id), "retries_count", 1)

    def start_over(self, job_id: str) -> None:
        """Forget the progress of an earlier plan, of which nothing is left."""
        with self.translated():
            self._redis.delete(*(self.key(job_id, kind) for kind in ("bytes", "done", "shares")))
