"""Waiting for a job in a terminal: progress, hints, and what to say at the end."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from orchestrator.cli import exits
from orchestrator.job import Job, JobEndedBadly, StillRunning
from tasks.app import QUEUES
from tasks.jobs import JobRecord, JobState
from tasks.records import RedisAway, RedisError
from tasks.transfer.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from orchestrator.client import Orchestrator
    from orchestrator.progress import Display

_IDLE_SECONDS = 3.0
NOTHING_KEPT = "Nothing had come that could be kept; run the same command again to start over."


class IdleHint:
    """Says once that no worker serves what has been standing still."""

    def __init__(
        self, orchestrator: Orchestrator, say: Callable[[str], object], *, queues: Collection[str] = QUEUES
    ) -> None:
        """Take whom to ask for unserved queues, what says a sentence, and which queues are needed."""
        self._orchestrator = orchestrator
        self._say = say
        self._queues = frozenset(queues)
        self._seen: object = None
        self._since_seconds = time.monotonic()
        self._is_told = False

    def look(self, seen: object = None) -> None:
        """Ask the workers if `seen`, which changes for as long as somebody works, has not for a few seconds."""
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_seconds = seen, now
        elif not self._is_told and now - self._since_seconds > _IDLE_SECONDS:
            self._is_told = True
            unserved: frozenset[str] = frozenset()
            # It may go away just now, which is no reason to end the wait.
            with contextlib.suppress(RedisError):
                unserved = self._queues & self._orchestrator.unserved_queues()
            if unserved:
                self._say(
                    f"No worker is listening on {' and '.join(sorted(unserved))}; waiting for one. "
                    f"Start one with: orchestrator worker"
                )


class AwayNote:
    """Says once that Redis is away, and once that it is back."""

    def __init__(self, where: str, say: Callable[[str], object]) -> None:
        """Take which Redis it is, as it may be shown, and what says a sentence."""
        self._where = where
        self._say = say
        self._is_away = False

    def away(self, _: object) -> None:
        """It does not answer."""
        if not self._is_away:
            self._is_away = True
            self._say(
                f"Redis at {self._where} is away; the workers go on with what they have. Waiting for it."
            )

    def back(self) -> None:
        """It answers."""
        if self._is_away:
            self._is_away = False
            self._say(f"Redis at {self._where} is back.")


def wait_and_exit(
    orchestrator: Orchestrator,
    job: Job,
    *,
    timeout: float | None,
    as_json: bool,
    quiet: bool,
    ends_job: bool = False,
) -> int:
    """Wait for a job with progress on stderr, say how it ended, and return the exit code.

    Args:
        orchestrator: whose job.
        job: which.
        timeout: how many seconds to wait at most; None: as long as it takes.
        as_json: print the record on stdout.
        quiet: show no progress.
        ends_job: the job itself has no more time than `timeout`.
    """
    with _display(quiet=quiet) as display:
        hint = IdleHint(orchestrator, display.say)
        note = AwayNote(orchestrator.records.where, display.say)
        is_told = False
        away: StillRunning | None = None

        def on_look(record: JobRecord) -> None:
            nonlocal is_told
            note.back()
            if record.resumed_bytes and not is_told:
                is_told = True
                display.say(f"Going on with {decimal(record.resumed_bytes)} that an earlier job left.")
            display.update(record)
            if record.state.is_active:
                hint.look((record.state, record.bytes_done, record.connections_count))

        try:
            record = job.wait(timeout, on_look=on_look, on_away=note.away)
        except JobEndedBadly as ended:
            record = ended.record
        except StillRunning as still:
            try:
                record = _when_over(job, still, ends_job=ends_job)
            except RedisAway as error:
                away = StillRunning(job.job_id, still.record, still.seconds, error)
    if away is not None:
        return _exit_away(away, as_json=as_json)
    return _exit(orchestrator, job, record, timeout=timeout, as_json=as_json, quiet=quiet)


def _exit_away(away: StillRunning, *, as_json: bool) -> int:
    if as_json and away.record is not None:
        click.echo(away.record.model_dump_json(indent=2))
    exits.say_error(str(away))
    # The time is what was over. Whoever asks again learns from that whether Redis is still away.
    return exits.TIMED_OUT


def _exit(
    orchestrator: Orchestrator,
    job: Job,
    record: JobRecord,
    *,
    timeout: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    code = exits.of_record(record)
    kept = kept_sentence(orchestrator, job)
    if orchestrator.is_embedded and code == exits.TIMED_OUT:
        exits.say_error(f"Not done after {timeout:g} seconds. {kept}")
    else:
        _tell_end(record, quiet=quiet or as_json)
        if orchestrator.is_embedded and record.state is JobState.FAILED and kept != NOTHING_KEPT:
            exits.say(f"       {kept}")
    return code


def _when_over(job: Job, still: StillRunning, *, ends_job: bool) -> JobRecord:
    """The record of a job whose time is over; `RedisAway` if it cannot be read."""
    if still.away is not None:
        raise still.away
    if ends_job:
        job.time_out()  # the workers do so too, if there are any
    # Read again: it may have come to its end just now.
    return job.status()


def interrupted(job: Job) -> int:
    """Say that a job goes on though nobody waits for it any more; the exit code."""
    exits.say_error(
        f"Interrupted; job {job.job_id} goes on. Come back with: orchestrator wait {job.job_id}   "
        f"End it with: orchestrator cancel {job.job_id}"
    )
    return exits.INTERRUPTED


def kept_sentence(orchestrator: Orchestrator, job: Job) -> str:
    """What becomes of an unfinished job of the embedded mode, and what to run next."""
    try:
        path = orchestrator.kept_at(job.job_id)
    except VolumeError:
        path = None
    if path is None:
        return NOTHING_KEPT
    volume = orchestrator.settings.volume.absolute()
    where = "" if volume == Path.cwd() else f" --volume {shlex.quote(str(volume))}"
    return (
        f"What came is kept in {path}: run the same command again to go on, or throw it away with: "
        f"orchestrator{where} cancel {job.job_id}"
    )


def _tell_end(record: JobRecord, *, quiet: bool) -> None:
    if record.state is JobState.COMPLETE:
        if not quiet:
            click.echo(record.path)
    elif record.state is JobState.FAILED and record.error is not None:
        exits.say_error(record.error.message)
        code = exits.of_record(record)
        exits.say(f"       job {record.job_id}, exit {code}, {record.error.code}")
    elif record.state is JobState.CANCELLED:
        exits.say_error(f"Job {record.job_id} was cancelled.")
    elif record.state is JobState.PAUSED:
        exits.say_error(f"Job {record.job_id} is paused. Go on with: orchestrator resume {record.job_id}")
    else:
        exits.say_error(
            f"Job {record.job_id} is {record.state} and goes on. Come back with: orchestrator wait {record.job_id}"
        )


def _display(*, quiet: bool) -> Display:
    from rich.console import Console

    from orchestrator.progress import Bar, Lines, Silence

    if quiet or sys.stderr is None:
        return Silence(exits.say)
    if sys.stderr.isatty():
        return Bar(Console(stderr=True))
    return Lines(exits.say)
