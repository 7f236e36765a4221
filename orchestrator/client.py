"""The Python API; the command line is made of it."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any, Unpack

from orchestrator import checksums as checksum_lists
from orchestrator.asking import ask
from orchestrator.batch import LOOK_COSTS, MOST_JOBS_A_MESSAGE, WINDOW, Batch
from orchestrator.cluster import Cluster
from orchestrator.job import AWAY_SECONDS, LOOK_SECONDS, Job
from orchestrator.lost import LostRecords, Submitted
from orchestrator.pruning import prune_by_worker
from orchestrator.submission import Options, Submission, Wanted
from tasks.app import PLAN_TASK, RECOVER_TASK
from tasks.jobs import Recovered
from tasks.messages import urgency
from tasks.records import NoSuchJob, RedisAway
from tasks.transfer.errors import VolumeError
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestrator.ends import Ended, Refused, Totals
    from tasks.jobs import JobRecord
    from tasks.prune import Pruned
    from tasks.records import NewJob

#: Into so many tasks even a short list is split, for that many workers.
_LEAST_TASKS = 64


class Orchestrator(Cluster):
    """Submits jobs and finds them again; a context manager."""

    def __init__(self, **overrides: Any) -> None:
        """Take the settings of this process, with `overrides` of single ones, such as ``redis_url=...``.

        Raises:
            RedisError: Redis cannot be reached, refused the password, or is too old.
        """
        self._submitted: list[str] = []
        super().__init__(**overrides)

    def close(self) -> None:
        """Give connections back. An embedded Redis and worker end; another submit goes on with unfinished jobs."""
        was_embedded = self.is_embedded
        super().close()
        if was_embedded:
            # The stack has done so itself, unless it crashed.
            for job_id in self._submitted:
                with contextlib.suppress(VolumeError):
                    Volume(self.settings.volume.absolute()).leave(job_id)

    def submit(
        self,
        url: str,
        output: str | None = None,
        *,
        sha256: str | None = None,
        digests: Mapping[str, str] | None = None,
        checksums: str | Path | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Submit one URL.

        Args:
            url: http or https.
            output: name relative to the volume; None: the server's, else the URL's.
            sha256: the digest that the file must have, in hexadecimal.
            digests: others that it must have, in hexadecimal: sha-512, sha-256, sha-1, md5, crc32c.
            checksums: a list like SHA256SUMS that has the file's digest: its URL, which a worker reads, or a file here.
            options: see `Options`.

        Raises:
            UsageError: something of that makes no sense, or credentials were given and there is no key.
            RedisError: Redis cannot be used.
        """
        wanted = Wanted(url, output, checksum_lists.given(sha256, digests or {}), checksums)
        new = Submission(self.settings.secret_key, options).job(wanted)
        (job,) = self._record([new])
        self.send(PLAN_TASK, new.job_id, f"{new.job_id}, {new.url}", **urgency(new.spec.priority))
        return job

    def submit_many(self, files: Iterable[str | Wanted], **options: Unpack[Options]) -> list[Job]:
        """Submit many files, of which small ones share the price of a task.

        Args:
            files: URLs, or what only one of the files has.
            options: see `Options`; for all of them.

        Raises:
            UsageError, RedisError: as for `submit`; then none was submitted.
        """
        wanted = [each if isinstance(each, Wanted) else Wanted(each) for each in files]
        submission = Submission(self.settings.secret_key, options)
        news = [submission.job(each) for each in wanted]
        jobs = self._record(news)
        self.send_plans(news, min(MOST_JOBS_A_MESSAGE, max(1, len(news) // _LEAST_TASKS)))
        return jobs

    def submit_all(
        self,
        files: Iterable[str | Wanted | Refused | None],
        *,
        window: int = WINDOW,
        on_look: Callable[[Totals], object] = lambda _: None,
        on_away: Callable[[str], object] = lambda _: None,
        **options: Unpack[Options],
    ) -> Iterator[Ended | Refused]:
        """Bring many files, however many, of which so many are active at a time; yields each file's end as it comes.

        The same files with the same options again find their jobs: what is complete is not brought again, and
        what ended otherwise is gone on with. With `overwrite`, what is complete is brought again.

        Args:
            files: URLs, or what only one of the files has; None: there is no more for the moment.
            window: how many jobs are active at a time at most.
            on_look: called with the totals at short intervals.
            on_away: called with a sentence when Redis cannot be reached; it is waited for.
            options: see `Options`; for all of them.

        Raises:
            UsageError: the options make no sense. What makes none of a single file is yielded as `Refused`.
            RedisError: Redis refused something, or the private one ended.
        """
        submission = Submission(self.settings.secret_key, options)
        wanted = (Wanted(each) if isinstance(each, str) else each for each in files)
        batch = Batch(self, wanted, submission, window=window, on_look=on_look, on_away=on_away)
        # Who reads no more of them leaves the rest alone.
        return self._bring(batch)

    def _bring(self, batch: Batch) -> Iterator[Ended | Refused]:
        try:
            yield from batch
        finally:
            self._submitted += batch.active

    def wait_for_all(
        self,
        jobs: Iterable[Job],
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[int], object] = lambda _: None,
        on_away: Callable[[RedisAway], object] = lambda _: None,
    ) -> list[JobRecord]:
        """Wait until all have ended, well or badly, also while Redis is away.

        Args:
            jobs: which.
            timeout_seconds: how long at most; None: as long as it takes.
            on_look: called with the number of those that have not ended, at short intervals.
            on_away: called instead for as long as Redis does not answer.

        Returns:
            The record of each, in order; of those too that go on when the time is over.

        Raises:
            NoSuchJob: one has no record; `RecordLost` if it had one, and nobody puts it back.
            RedisError: as for `Job.wait`; `RedisAway` if it is away when the time is over.
        """
        ends_seconds = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        awaited = _Awaited(self, jobs)
        while True:
            looked_seconds = time.monotonic()
            try:
                awaited.look()
                on_look(len(awaited.active))
                if not awaited.active or time.monotonic() >= ends_seconds:
                    return awaited.all_records()
                # A tenth of a processor at most, however many they are.
                pause_seconds = min(LOOK_SECONDS, LOOK_COSTS * (time.monotonic() - looked_seconds))
                self.check_stack()
            except RedisAway as error:
                self.check_stack()
                on_away(error)
                if time.monotonic() >= ends_seconds:
                    raise
                pause_seconds = AWAY_SECONDS
            time.sleep(max(0.0, min(pause_seconds, ends_seconds - time.monotonic())))

    def _record(self, news: Sequence[NewJob]) -> list[Job]:
        now = time.time()
        self.records.create(news, now=now)
        self._submitted += [new.job_id for new in news]
        return [Job(self, new.job_id, Submitted(new, now)) for new in news]

    def job(self, job_id: str) -> Job:
        """A handle on a job that was submitted before; `NoSuchJob` if there is no record of it."""
        self.records.read(job_id)
        return Job(self, job_id)

    def list(self) -> list[JobRecord]:
        """The latest jobs, newest first."""
        return self.records.list()

    def cancel(self, job_id: str, *, keeps_parts: bool = False) -> bool:
        """See `Job.cancel`."""
        return Job(self, job_id).cancel(keeps_parts=keeps_parts)

    def limit(self, job_id: str, rate: str) -> bool:
        """See `Job.limit`."""
        return Job(self, job_id).limit(rate)

    def pause(self, job_id: str) -> bool:
        """See `Job.pause`."""
        return Job(self, job_id).pause()

    def resume(self, job_id: str) -> bool:
        """See `Job.resume`."""
        return Job(self, job_id).resume()

    def recover(
        self, timeout_seconds: float | None = None, *, on_look: Callable[[], object] = lambda: None
    ) -> Recovered:
        """Go on with the unfinished jobs on the volume that Redis does not know, whoever's they were.

        Args:
            timeout_seconds: how long to wait for the worker that does it; None: as long as it takes.
            on_look: called about once a second.

        Raises:
            NotAnswered: it could not be done, or not in time.
            RedisError: Redis cannot be reached.
        """
        return ask(
            self,
            RECOVER_TASK,
            "recover",
            kind=Recovered,
            late="No worker had looked at the volume",
            timeout_seconds=timeout_seconds,
            on_look=on_look,
        )

    def prune(
        self,
        older_than_seconds: float | None = None,
        *,
        is_dry_run: bool = False,
        timeout_seconds: float | None = None,
        on_look: Callable[[], object] = lambda: None,
    ) -> Pruned:
        """Remove what nobody will come back to: jobs that ended so long ago, their parts, and what nobody is at.

        Args:
            older_than_seconds: how long ago; None: as old as records become.
            is_dry_run: only say what would be removed.
            timeout_seconds: how long to wait for the worker that does it; None: as long as it takes.
            on_look: called about once a second.

        Raises:
            NotAnswered: it could not be done, or not in time.
            RedisError: Redis cannot be reached.
        """
        if older_than_seconds is None:
            older_than_seconds = self.settings.record_age_seconds
        return prune_by_worker(
            self,
            older_than_seconds=older_than_seconds,
            is_dry_run=is_dry_run,
            timeout_seconds=timeout_seconds,
            on_look=on_look,
        )

    def kept_at(self, job_id: str) -> Path | None:
        """Where a job of the embedded mode keeps what it has for another submit; None: it has nothing of use.

        Raises:
            VolumeError: the volume cannot be read.
        """
        volume = Volume(self.settings.volume.absolute())
        if not self.is_embedded or not volume.is_worth_keeping(job_id):
            return None
        return volume.job(job_id).path


class _Awaited:
    """Many jobs that are waited for."""

    def __init__(self, cluster: Cluster, jobs: Iterable[Job]) -> None:
        self._records = cluster.records
        self._jobs = list(jobs)
        self._submitted = {job.job_id: job.submitted for job in self._jobs}
        self._lost = LostRecords(cluster)
        self._ended: dict[str, JobRecord] = {}
        self._missing: dict[str, NoSuchJob] = {}
        self.active = list(self._submitted)

    def look(self) -> None:
        """Find out which are still active."""
        states = dict(zip(self.active, self._records.states(self.active), strict=True))
        for job_id, state in states.items():
            try:
                self._lost.look(job_id, state, self._submitted[job_id])
            except NoSuchJob as error:
                self._missing[job_id] = error
        # At once: of one that has ended, a Redis that is emptied later has nothing, and nobody puts it back.
        ended = [job_id for job_id, state in states.items() if state is not None and not state.is_active]
        if ended:
            self._ended |= {record.job_id: record for record in self._records.read_all(ended)}
        self.active = [each for each in self.active if each not in self._ended and each not in self._missing]

    def all_records(self) -> list[JobRecord]:
        """The record of each, in order; `NoSuchJob` if one has none."""
        found = self._ended | {record.job_id: record for record in self._records.read_all(self.active)}
        for job_id in self._submitted:
            if job_id not in found:
                raise self._missing.get(job_id, NoSuchJob(job_id))
        return [found[job.job_id] for job in self._jobs]
