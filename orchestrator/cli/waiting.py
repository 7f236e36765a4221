"""Waiting for a job in a terminal: progress, hints, and what to say at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli import exits
from orchestrator.client import Job, JobEndedBadly, Orchestrator, StillRunning
from tasks.jobs import JobRecord, JobState

if TYPE_CHECKING:
    from orchestrator.progress import Display

_IDLE_SECONDS = 3.0


class _IdleHint:
    """Says once that no worker serves a job that has been standing still."""

    def __init__(self, orchestrator: Orchestrator, display: Display) -> None:
        self._orchestrator = orchestrator
        self._display = display
        self._seen: tuple[JobState, int, int] | None = None
        self._since_seconds = 0.0
        self._is_told = False

    def look(self, record: JobRecord) -> None:
        """Take note of the record; ask the workers if nothing has moved for a few seconds."""
        seen = (record.state, record.bytes_done, record.connections_count)
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_seconds = seen, now
        elif not self._is_told and now - self._since_seconds > _IDLE_SECONDS and record.state.is_active:
            self._is_told = True
            unserved = self._orchestrator.unserved_queues()
            if unserved:
                self._display.say(
                    f"No worker is listening on {' and '.join(sorted(unserved))}; waiting for one. "
                    f"Start one with: orchestrator worker"
                )


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
        hint = _IdleHint(orchestrator, display)

        def on_look(record: JobRecord) -> None:
            display.update(record)
            hint.look(record)

        try:
            record = job.wait(timeout, on_look=on_look)
        except JobEndedBadly as ended:
            record = ended.record
        except StillRunning:
            if ends_job:
                job.time_out()  # the workers do so too, if there are any
            # Read again: it may have come to its end just now.
            record = job.status()
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    code = exits.of_record(record)
    if orchestrator.is_embedded and code == exits.TIMED_OUT:
        exits.say_error(
            f"Not done after {timeout:g} seconds. Nothing was kept: the embedded mode ends with this command."
        )
    else:
        _tell_end(record, quiet=quiet or as_json)
    return code


def _tell_end(record: JobRecord, *, quiet: bool) -> None:
    if record.state is JobState.COMPLETE:
        if not quiet:
            click.echo(record.path)
    elif record.state is JobState.FAILED and record.error is not None:
        exits.say_error(record.error.message)
        code = exits.of_record(record)
        click.echo(f"       job {record.job_id}, exit {code}, {record.error.code}", err=True)
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
        return Silence(_write)
    if sys.stderr.isatty():
        return Bar(Console(stderr=True))
    return Lines(_write)


def _write(line: str) -> None:
    # A log that is full or closed is no reason to end a download.
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, err=True)
