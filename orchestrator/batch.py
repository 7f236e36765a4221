"""Batches: lists of files of any length, of which a bounded number of jobs is active at a time.

A job's id is made of what is asked for, so the same list again finds the jobs that it made before: it passes over those
that are complete, waits for those that are active, goes on with those that ended otherwise, and submits the rest. That
is also how a batch outlives its client, and a Redis that lost its data.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from orchestrator.ends import Ended, Refused, Totals, shown_url
from orchestrator.job import LOOK_SECONDS
from tasks.jobs import RESUMABLE_STATES, JobError, JobState
from tasks.records import Found, RedisAway
from tasks.transfer.errors import BadOption, UsageError
from tasks.transfer.rates import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.cluster import Cluster
    from orchestrator.submission import Submission, Wanted
    from tasks.records import NewJob

_Answer = TypeVar("_Answer")

#: How many jobs of a batch are active at a time, unless its user says.
WINDOW = 128
#: So many chunks of a batch's jobs wait or are fetched at a time: about 4 MB of Redis. One larger job may go beyond.
_MOST_CHUNKS = 2000
#: What a job is thought to have as long as nothing is known of the batch's files: large ones must not come at once.
_CHUNKS_AT_FIRST = 500.0
#: How much the latest file counts for what the next ones are thought to have.
_LATEST_COUNTS = 1 / 4
#: There is room for such a share of what is active before more is submitted, unless that takes long: jobs that go
#: together cost less.
_REFILL_SHARE = 1 / 4
#: So many messages a refill is made of, for that many workers.
_MESSAGES_A_REFILL = 8
#: So many small files share a message at most: what a worker that dies leaves for its message to come again.
MOST_JOBS_A_MESSAGE = 32
#: How much longer than a look at many jobs the pause behind it is.
LOOK_COSTS = 10
_AWAY_LOOK_SECONDS = 1.0
#: The workers end a job whose time is over. Where there is none, the client does, a little later.
_DEADLINE_GRACE_SECONDS = 1.0


@dataclass(slots=True)
class _Active:
    job: NewJob
    line: int | None
    since_seconds: float = field(default_factory=time.monotonic)
    chunks_count: int | None = None  #: None: not planned yet


class Batch:
    """One list of files on its way; iterating over it submits, waits, and yields each file's end."""

    def __init__(
        self,
        cluster: Cluster,
        files: Iterable[Wanted | Refused | None],
        submission: Submission,
        *,
        window: int = WINDOW,
        on_look: Callable[[Totals], object] = lambda _: None,
        on_away: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Take what to bring.

        Args:
            cluster: which.
            files: None among them: there is no more for the moment, but there may be later.
            submission: makes jobs of them.
            window: how many jobs are active at a time at most.
            on_look: called with the present totals at short intervals.
            on_away: called with a sentence when Redis cannot be reached; it is waited for.
        """
        self.totals = Totals()
        self.active: dict[str, _Active] = {}
        self._cluster = cluster
        self._files = iter(files)
        self._submission = submission
        self._window = window
        self._on_look, self._on_away = on_look, on_away
        self._is_over = False
        self._has_taken = False  #: there was something of the list to take the last time
        self._chunks_guess = _CHUNKS_AT_FIRST
        self._counted_seconds = 0.0
        self._admitted_seconds = 0.0

    def __iter__(self) -> Iterator[Ended | Refused]:
        """Bring all.

        Raises:
            RedisError: Redis refused something, or the private one ended.
        """
        self._on_look(self.totals)
        while True:
            for end in self._admit():
                yield self._counted(end)
            self.totals.active_count = len(self.active)
            self._on_look(self.totals)
            if self._is_over and not self.active:
                break
            if self._has_taken and not self.active:
                continue  # all of that had ended before
            began_seconds = time.monotonic()
            for end in self._look():
                yield self._counted(end)
            self._cluster.check_stack()
            # A tenth of a processor at most, however many they are.
            cost_seconds = LOOK_COSTS * (time.monotonic() - began_seconds)
            time.sleep(min(LOOK_SECONDS, cost_seconds) if self.active else LOOK_SECONDS)

    def _counted(self, end: Ended | Refused) -> Ended | Refused:
        totals = self.totals
        totals.active_count = len(self.active)
        if end.error is not None or isinstance(end, Refused):
            totals.failed_count += 1
        else:
            totals.complete_count += 1
            totals.before_count += end.was_complete
            if not end.was_complete:
                totals.done_bytes += max(0, end.record.bytes_done - end.record.resumed_bytes)
        return end

    def _admit(self) -> Iterator[Ended | Refused]:
        """Fill the window, if that is worth it."""
        self._has_taken = False
        room = self._room()
        has_rested = time.monotonic() - self._admitted_seconds > LOOK_SECONDS
        if room < (1 if has_rested else max(1, len(self.active) * _REFILL_SHARE)):
            return
        self._admitted_seconds = time.monotonic()
        news: dict[str, _Active] = {}
        while len(news) < room and not self._is_over:
            try:
                wanted = next(self._files)
            except StopIteration:
                self._is_over = True
                break
            if wanted is None:
                break
            self._has_taken = True
            if isinstance(wanted, Refused):
                yield wanted
                continue
            try:
                job = self._submission.named_job(wanted)
                if job.job_id in news or job.job_id in self.active:
                    raise BadOption("The same file is listed twice.")
            except UsageError as error:
                told = JobError(code=error.code, message=str(error))
                yield Refused(shown_url(wanted.url), told, wanted.line)
                continue
            news[job.job_id] = _Active(job, wanted.line)
        if news:
            yield from self._submit(news)

    def _room(self) -> int:
        """How many jobs may be submitted now."""
        chunks = sum(
            self._chunks_guess if each.chunks_count is None else each.chunks_count
            for each in self.active.values()
        )
        room = min(self._window - len(self.active), int(max(0.0, _MOST_CHUNKS - chunks) / self._chunks_guess))
        return max(room, 0 if self.active else 1)

    def _submit(self, news: dict[str, _Active]) -> Iterator[Ended | Refused]:
        """Submit jobs, or find them; what has ended before is told at once."""
        jobs = [each.job for each in news.values()]
        self.active |= news
        sends_queued = False
        while True:
            try:
                found = self._admit_and_send(jobs, sends_queued=sends_queued)
                break
            except RedisAway as error:
                # What was recorded when Redis went away is found there, and was perhaps not sent.
                sends_queued = True
                self._wait_for_redis(error)
        for job, state in zip(jobs, found, strict=True):
            if state is Found.ANOTHER:
                line = self.active.pop(job.job_id).line
                message = f"Another file's job has the id {job.job_id} by chance. Submit this one by itself."
                yield Refused(job.url, JobError(code=BadOption.__name__, message=message), line)
        before = [job.job_id for job, state in zip(jobs, found, strict=True) if state is JobState.COMPLETE]
        yield from self._take_ended(before, was_complete=True)

    def _admit_and_send(self, jobs: Sequence[NewJob], *, sends_queued: bool) -> list[JobState | Found]:
        records = self._cluster.records
        anew = jobs[0].spec.overwrite
        found = records.admit(jobs, anew=anew, now=time.time())
        unsent = []
        for job, state in zip(jobs, found, strict=True):
            if state is Found.NOTHING or (state is JobState.QUEUED and sends_queued):
                unsent.append(job)
            elif state in RESUMABLE_STATES:
                fields = {
                    "spec": job.spec.model_dump_json(exclude_defaults=True),
                    "limit_rate": job.spec.limit_rate or NO_LIMIT,
                    **records.deadline(job.spec),
                }
                if records.transition(job.job_id, JobState.QUEUED, allowed=RESUMABLE_STATES, fields=fields):
                    unsent.append(job)
        # Recorded, they go on whoever sends them: an interrupt must not pass over them.
        self.totals.active_count = len(self.active)
        count = min(MOST_JOBS_A_MESSAGE, max(1, len(unsent) // _MESSAGES_A_REFILL))
        self._cluster.send_plans(unsent, count)
        return found

    def _look(self) -> Iterator[Ended | Refused]:
        """See what has ended; what Redis has lost is submitted again."""
        job_ids = list(self.active)
        if not job_ids:
            return
        looks = self._answer(lambda: self._cluster.records.looks(job_ids))
        ended, lost = [], {}
        for job_id, look in zip(job_ids, looks, strict=True):
            each = self.active[job_id]
            if look.state is None:
                # It may have been complete: then its file is there, and nobody knows whose that is.
                spec = each.job.spec.model_copy(update={"skip_existing": True})
                lost[job_id] = _Active(dataclasses.replace(each.job, spec=spec), each.line)
            elif not look.state.is_active:
                ended.append(job_id)
            if look.chunks_count is not None and each.chunks_count is None:
                each.chunks_count = self._learnt(look.chunks_count)
        if lost:
            yield from self._submit(lost)
        yield from self._take_ended(ended)
        self._end_late()
        self._count_bytes()

    def _take_ended(self, job_ids: Sequence[str], *, was_complete: bool = False) -> Iterator[Ended]:
        if not job_ids:
            return
        for record in self._answer(lambda: self._cluster.records.read_all(job_ids)):
            # Somebody may have resumed it just now.
            if not record.state.is_active:
                each = self.active.pop(record.job_id)
                if each.chunks_count is None:
                    self._learnt(record.chunks_count or 1)  # it ended without a plan: it sent none
                yield Ended(record, each.line, was_complete or record.was_there)

    def _learnt(self, chunks_count: int) -> int:
        """Take note of how many chunks a file has."""
        chunks_count = max(1, chunks_count)
        self._chunks_guess += (chunks_count - self._chunks_guess) * _LATEST_COUNTS
        return chunks_count

    def _end_late(self) -> None:
        now = time.monotonic()
        for job_id, each in self.active.items():
            seconds = each.job.spec.timeout_seconds
            if seconds is not None and now - each.since_seconds > seconds + _DEADLINE_GRACE_SECONDS:
                self._answer(lambda job_id=job_id: self._cluster.records.time_out(job_id))  # type: ignore[misc]

    def _count_bytes(self) -> None:
        now = time.monotonic()
        if now - self._counted_seconds >= LOOK_SECONDS:
            self._counted_seconds = now
            job_ids = list(self.active)
            self.totals.active_bytes = self._answer(lambda: self._cluster.records.bytes_done(job_ids))

    def _answer(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask Redis, for as long as it takes."""
        while True:
            try:
                return ask()
            except RedisAway as error:
                self._wait_for_redis(error)

    def _wait_for_redis(self, error: RedisAway) -> None:
        """Wait until Redis can be reached; `RedisError` if it refuses us then, or was a private one that ended."""
        self._on_away(str(error))
        while True:
            self._cluster.check_stack()
            time.sleep(_AWAY_LOOK_SECONDS)
            try:
                self._cluster.records.check()
            except RedisAway:
                continue
            return
