"""The Python API; the command line is made of it.

With a Redis in the settings, jobs go to the cluster behind it. Else to an `orchestrator up` of this user, if
one runs. Else a private Redis and a worker are started for as long as the `Orchestrator` lives.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any, Unpack

from kombu.exceptions import OperationalError

from orchestrator import checksums as checksum_lists
from orchestrator import rendezvous
from orchestrator.stack import PrivateStack
from orchestrator.submission import Options, Wanted, new_job
from tasks.app import PLAN_MANY_TASK, PLAN_TASK, QUEUES, REMOVE_TASK, VERIFY_TASK, make_app
from tasks.host import records_of
from tasks.jobs import ACTIVE_STATES, RESUMABLE_STATES, JobRecord, JobState, VerifyAnswer
from tasks.records import NoSuchJob, RedisError
from tasks.sealing import new_key
from tasks.settings import Settings
from tasks.transfer.errors import JobTimedOut, PermanentError, VolumeError, side_of
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from celery import Celery

    from tasks.records import NewJob, Records
    from tasks.transfer.verify_file import Verification

#: How often a waiting client looks, changes of state aside, which it is told at once.
_LOOK_SECONDS = 0.25
#: How much longer than a look at many jobs the pause behind it is.
_LOOK_COSTS = 10
#: So many small files share a task at most: what a worker that dies leaves for its message to come again.
_MOST_JOBS_A_TASK = 32
#: Into so many tasks even a short list is split, for that many workers.
_LEAST_TASKS = 64
#: How long a reply of a worker may take.
_PING_SECONDS = 1.0
#: How long one call of Redis waits for an answer.
_ANSWER_LOOK_SECONDS = 1.0


class JobEndedBadly(Exception):
    """The job failed, was cancelled, or is paused; `record` says why."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__(record)
        self.record = record

    def __str__(self) -> str:
        """Say what became of the job."""
        if self.record.error is not None:
            return self.record.error.message
        return f"Job {self.record.job_id} is {self.record.state}."


class StillRunning(Exception):
    """The job was still running when the time to wait was over."""

    def __init__(self, record: JobRecord, seconds: float) -> None:
        super().__init__(record, seconds)
        self.record, self.seconds = record, seconds

    def __str__(self) -> str:
        """Say that it goes on, and how to come back."""
        return (
            f"Job {self.record.job_id} is {self.record.state} after {self.seconds:g} seconds and goes on. "
            f"Come back with: orchestrator wait {self.record.job_id}"
        )


class NotVerified(PermanentError):
    """A file could not be compared with what is known of it: the code of an error, and its sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.sentence = sentence
        self.side = side_of(code)

    def __str__(self) -> str:
        """Say why."""
        return self.sentence


class Job:
    """A handle on one job."""

    def __init__(self, orchestrator: Orchestrator, job_id: str) -> None:
        self._orchestrator = orchestrator
        self.job_id = job_id

    def status(self) -> JobRecord:
        """The record as it is now; `NoSuchJob` if there is none."""
        return self._orchestrator.records.read(self.job_id)

    def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[JobRecord], object] = lambda _: None,
    ) -> JobRecord:
        """Wait until the file is there.

        Args:
            timeout_seconds: how long at most; None: as long as it takes.
            on_look: called with the record at short intervals.

        Raises:
            JobEndedBadly: the job failed, was cancelled or was paused.
            StillRunning: the time is over.
            RedisError: Redis cannot be reached, or the private one ended.
        """
        began_seconds = time.monotonic()
        with self._orchestrator.records.changes(self.job_id) as changes:
            while True:
                record = self.status()
                on_look(record)
                if record.state is JobState.COMPLETE:
                    return record
                if not record.state.is_active:
                    raise JobEndedBadly(record)
                left_seconds = _LOOK_SECONDS
                if timeout_seconds is not None:
                    left_seconds = min(left_seconds, began_seconds + timeout_seconds - time.monotonic())
                    if left_seconds <= 0:
                        raise StillRunning(record, timeout_seconds)
                self._orchestrator.check_stack()
                changes.wait(left_seconds)

    def time_out(self) -> bool:
        """Fail the job because the time that it was given has passed; False if it is past fetching."""
        return self._orchestrator.records.time_out(self.job_id)

    def verify(
        self, timeout_seconds: float | None = None, *, on_look: Callable[[], object] = lambda: None
    ) -> Verification:
        """Have a worker read the complete job's file again, and compare it with the record.

        Args:
            timeout_seconds: how long to wait for it at most; None: as long as it takes.
            on_look: called about once a second.

        Raises:
            NotVerified: it could not be compared; one that differs is no error.
            RedisError: Redis cannot be reached.
        """
        return self._orchestrator.verify(self.job_id, timeout_seconds, on_look)

    def cancel(self) -> bool:
        """End the job and remove what it has on the volume; False if it had ended already."""
        return self._orchestrator.cancel(self.job_id)

    def pause(self) -> bool:
        """Stop fetching and keep what is there; False if it was not running."""
        return self._orchestrator.pause(self.job_id)

    def resume(self) -> bool:
        """Go on from what is there: after a pause, a failure or a cancel; False if none of them."""
        return self._orchestrator.resume(self.job_id)


class Orchestrator:
    """Submits and steers jobs; a context manager."""

    def __init__(self, **overrides: Any) -> None:
        """Take the settings of this process, with `overrides` of single ones, such as ``redis_url=...``.

        Raises:
            RedisError: Redis cannot be reached, refused the password, or is too old.
        """
        settings = Settings(**overrides)
        self._stack: PrivateStack | None = None
        self._submitted: list[str] = []
        if settings.redis_url is None:
            settings = self._find_or_start(settings, overrides)
        self.settings = settings
        self.records: Records = records_of(settings)
        self._app: Celery | None = None
        try:
            self.records.check()
        except BaseException:
            self.close()
            raise

    @property
    def is_embedded(self) -> bool:
        """Whether the Redis and the worker are its own and end with it."""
        return self._stack is not None

    def __enter__(self) -> Orchestrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back. An embedded Redis and worker end; another submit goes on with unfinished jobs."""
        if hasattr(self, "records"):
            self.records.close()
        if self._app is not None:
            self._app.close()
        if self._stack is not None:
            self._stack.close()
            # The stack has done so itself, unless it crashed.
            for job_id in self._submitted:
                with contextlib.suppress(VolumeError):
                    Volume(self.settings.volume.absolute()).leave(job_id)
            self._stack = None

    def kept_at(self, job_id: str) -> Path | None:
        """Where a job of the embedded mode keeps what it has for another submit; None: it has nothing of use.

        Raises:
            VolumeError: the volume cannot be read.
        """
        volume = Volume(self.settings.volume.absolute())
        if self._stack is None or not volume.is_worth_keeping(job_id):
            return None
        return volume.job(job_id).path

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
        new = new_job(wanted, self.settings.secret_key, options)
        self._record([new])
        self._send(PLAN_TASK, new.job_id, f"({new.job_id}, {new.url})")
        return Job(self, new.job_id)

    def submit_many(self, files: Iterable[str | Wanted], **options: Unpack[Options]) -> list[Job]:
        """Submit many files, of which small ones share the price of a task.

        Args:
            files: URLs, or what only one of the files has.
            options: see `Options`; for all of them.

        Raises:
            UsageError, RedisError: as for `submit`; then none was submitted.
        """
        wanted = [each if isinstance(each, Wanted) else Wanted(each) for each in files]
        news = [new_job(each, self.settings.secret_key, options) for each in wanted]
        self._record(news)
        count = min(_MOST_JOBS_A_TASK, max(1, len(news) // _LEAST_TASKS))
        for begin in range(0, len(news), count):
            some = news[begin : begin + count]
            self._send(PLAN_MANY_TASK, [new.job_id for new in some], f"({some[0].url}, {len(some)} jobs)")
        return [Job(self, new.job_id) for new in news]

    def wait_for_all(
        self,
        jobs: Iterable[Job],
        timeout_seconds: float | None = None,
        *,
        on_look: Callable[[int], object] = lambda _: None,
    ) -> list[JobRecord]:
        """Wait until all have ended, well or badly.

        Args:
            jobs: which.
            timeout_seconds: how long at most; None: as long as it takes.
            on_look: called with the number of those that have not ended, at short intervals.

        Returns:
            The record of each, in order; of those too that go on when the time is over.

        Raises:
            NoSuchJob: one has no record.
            RedisError: as for `Job.wait`.
        """
        began_seconds = time.monotonic()
        job_ids = [job.job_id for job in jobs]
        active = job_ids
        while True:
            looked_seconds = time.monotonic()
            states = self.records.states(active)
            active = [each for each, state in zip(active, states, strict=True) if state and state.is_active]
            on_look(len(active))
            now = time.monotonic()
            # A tenth of a processor at most, however many they are.
            left_seconds = min(_LOOK_SECONDS, _LOOK_COSTS * (now - looked_seconds))
            if timeout_seconds is not None:
                left_seconds = min(left_seconds, began_seconds + timeout_seconds - now)
            if not active or left_seconds <= 0:
                break
            self.check_stack()
            time.sleep(left_seconds)
        found = {record.job_id: record for record in self.records.read_all(job_ids)}
        for job_id in job_ids:
            if job_id not in found:
                raise NoSuchJob(job_id)
        return [found[job_id] for job_id in job_ids]

    def _record(self, jobs: Sequence[NewJob]) -> None:
        self.records.create(jobs, now=time.time())
        self._submitted += [job.job_id for job in jobs]

    def job(self, job_id: str) -> Job:
        """A handle on a job that was submitted before; `NoSuchJob` if there is no record of it."""
        self.records.read(job_id)
        return Job(self, job_id)

    def list(self) -> list[JobRecord]:
        """The latest jobs, newest first."""
        return self.records.list()

    def cancel(self, job_id: str) -> bool:
        """See `Job.cancel`."""
        allowed = ACTIVE_STATES | {JobState.PAUSED, JobState.FAILED}
        fields = {"finished_at": repr(time.time())}
        done = self.records.transition(job_id, JobState.CANCELLED, allowed=allowed, fields=fields)
        if done:
            self._send(REMOVE_TASK, job_id, f"({job_id})")
        return done

    def pause(self, job_id: str) -> bool:
        """See `Job.pause`."""
        return self.records.transition(job_id, JobState.PAUSED)

    def resume(self, job_id: str) -> bool:
        """See `Job.resume`."""
        asked = self.records.request(job_id)
        fields = self.records.deadline(asked.spec) if asked else {}
        done = self.records.transition(job_id, JobState.QUEUED, allowed=RESUMABLE_STATES, fields=fields)
        if done:
            self._send(PLAN_TASK, job_id, f"({job_id}, resumed)")
        return done

    def verify(
        self, job_id: str, timeout_seconds: float | None, on_look: Callable[[], object]
    ) -> Verification:
        """See `Job.verify`."""
        token = secrets.token_hex(16)
        self._send(VERIFY_TASK, job_id, f"({job_id})", token)
        began_seconds = time.monotonic()
        while (text := self.records.take_answer(token, _ANSWER_LOOK_SECONDS)) is None:
            if timeout_seconds is not None and time.monotonic() - began_seconds > timeout_seconds:
                raise NotVerified(
                    JobTimedOut.__name__,
                    f"Job {job_id} was not verified within {timeout_seconds:g} seconds. Is there a worker?",
                )
            self.check_stack()
            on_look()
        answer = VerifyAnswer.model_validate_json(text)
        if answer.error is not None:
            raise NotVerified(answer.error.code, answer.error.message)
        if answer.verification is None:
            raise AssertionError("an answer is a verification or an error")
        return answer.verification

    def unserved_queues(self) -> set[str]:
        """The queues that a job needs and no worker serves; takes a second."""
        replies = self._celery().control.inspect(timeout=_PING_SECONDS).active_queues() or {}
        served = {queue["name"] for queues in replies.values() for queue in queues}
        return set(QUEUES) - served

    def check_stack(self) -> None:
        """Raise `RedisError` if the embedded Redis and worker ended under us."""
        if self._stack is not None and not self._stack.is_running:
            raise RedisError("The private Redis or its worker ended.")

    def _find_or_start(self, settings: Settings, overrides: Mapping[str, Any]) -> Settings:
        running = rendezvous.find()
        wants_other_volume = "volume" in settings.model_fields_set and (
            running is not None and settings.volume.absolute() != running.volume
        )
        if running is not None and not wants_other_volume:
            return Settings(
                **{
                    **overrides,
                    "redis_url": running.redis_url,
                    "volume": running.volume,
                    "secret_key": running.secret_key,
                }
            )
        volume = str(settings.volume.absolute())
        key = settings.secret_key.get_secret_value() if settings.secret_key else new_key()
        given = {name: str(value) for name, value in overrides.items() if value is not None}
        self._stack = PrivateStack({**given, "volume": volume, "secret_key": key})
        try:
            self._stack.wait_until_ready()
        except BaseException:
            self._stack.close()
            raise
        return Settings(
            **{**overrides, "redis_url": self._stack.redis_url, "volume": volume, "secret_key": key}
        )

    def _celery(self) -> Celery:
        if self._app is None:
            self._app = make_app(self.settings)
        return self._app

    def _send(self, task: str, subject: str | Sequence[str], shown: str, *more: str) -> None:
        try:
            self._celery().send_task(
                task, args=(subject, *more), argsrepr=shown, kwargsrepr="{}", ignore_result=True
            )
        except OperationalError as error:
            # Not its text: that may carry the URL of Redis with its password.
            raise RedisError(f"The job could not be sent through Redis ({type(error).__name__}).") from None
