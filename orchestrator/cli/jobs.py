"""The commands that look at jobs and steer them."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from orchestrator.cli import exits, options
from orchestrator.cli.waiting import interrupted, wait_and_exit
from orchestrator.client import Orchestrator
from orchestrator.job import Job
from tasks.jobs import JobRecord, JobState
from tasks.records import NoSuchJob, RedisError
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def cluster() -> Iterator[Orchestrator]:
    """The cluster, or an `orchestrator up`: nobody knows of jobs of the embedded mode when it has ended."""
    if is_without_cluster():
        raise RedisError(
            "ORCHESTRATOR_REDIS_URL is not set and no `orchestrator up` is running: there are no jobs to look at."
        )
    with Orchestrator() as orchestrator:
        yield orchestrator


def is_without_cluster() -> bool:
    """Whether there is neither a Redis in the settings nor an `orchestrator up`."""
    from orchestrator import rendezvous

    return Settings().redis_url is None and rendezvous.find() is None


def _end_left(job_id: str, *, keep: bool) -> Path | None:
    """Throw away what a job of the embedded mode has left, unless it is to stay; where it was, None if nowhere."""
    from tasks.transfer.volume import Volume

    volume = Volume(Settings().volume.absolute())
    path = volume.job(job_id).path
    if not path.exists():
        return None
    if not keep:
        volume.remove_job(job_id)
    return path


def _tell_left(ended: dict[str, Path], *, keep: bool, as_json: bool) -> None:
    if as_json:
        shown = [{"job_id": each, "path": str(path), "is_kept": keep} for each, path in ended.items()]
        click.echo(json.dumps(shown[0] if len(shown) == 1 else shown, indent=2))
        return
    for job_id, path in ended.items():
        if keep:
            click.echo(f"job {job_id} has ended; what it has left stays in {path}")
        else:
            click.echo(f"what job {job_id} had left is removed")


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@options.as_json
def status(job_id: str | None, as_json: bool) -> None:
    """Show one job: state, progress, who did what. Without JOB, a table of all.

    \b
    Examples:
      orchestrator status 3f9a1c27d0b4
      orchestrator status 3f9a1c27d0b4 --json
    """
    with cluster() as orchestrator:
        if job_id is None:
            _print_table(orchestrator.list(), as_json=as_json)
            return
        record = orchestrator.job(job_id).status()
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        _print_one(record)


@click.command(name="list")
@options.as_json
def list_(as_json: bool) -> None:
    """Show a table of jobs, newest first.

    \b
    Examples:
      orchestrator list
      orchestrator list --json | jq '.[] | select(.state == "failed")'
    """
    with cluster() as orchestrator:
        _print_table(orchestrator.list(), as_json=as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=options.Seconds(),
    help="Stop waiting after this; the job goes on (exit code 7).",
)
@options.quiet
@options.as_json
def wait(job_id: str, timeout: float | None, quiet: bool, as_json: bool) -> int:
    """Wait until JOB ends, with progress; the exit code is that of the job.

    \b
    Example:
      orchestrator wait 3f9a1c27d0b4 --timeout 3600
    """
    with cluster() as orchestrator:
        job = orchestrator.job(job_id)
        try:
            return wait_and_exit(orchestrator, job, timeout=timeout, as_json=as_json, quiet=quiet or as_json)
        except KeyboardInterrupt:
            return interrupted(job)


_jobs = click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)


@click.command()
@_jobs
@click.option("--keep", is_flag=True, help="Keep what came, for resume or for another submit.")
@options.as_json
def cancel(job_ids: tuple[str, ...], keep: bool, as_json: bool) -> int:
    """End each JOB and remove its parts from the volume.

    With --keep they stay, until they are pruned: `resume` goes on from there, and so does another submit of the same
    URL. A later cancel without --keep removes them.

    Without a cluster: throw away what jobs of the embedded mode have left here, or on --volume.

    \b
    Examples:
      orchestrator cancel 3f9a1c27d0b4
      orchestrator cancel --keep 3f9a1c27d0b4 81c0e2aa5d17
      orchestrator --volume /data cancel 3f9a1c27d0b4
    """
    if is_without_cluster():
        ended = {each: path for each in job_ids if (path := _end_left(each, keep=keep)) is not None}
        if ended:
            _tell_left(ended, keep=keep, as_json=as_json)
        job_ids = tuple(each for each in job_ids if each not in ended)
        if not job_ids:
            return exits.COMPLETE

    def end(job: Job) -> bool:
        return job.cancel(keeps_parts=keep)

    return _steer(job_ids, end, JobState.CANCELLED, as_json=as_json)


@click.command()
@_jobs
@options.as_json
def pause(job_ids: tuple[str, ...], as_json: bool) -> int:
    """Stop fetching each JOB and keep what is there.

    \b
    Example:
      orchestrator pause 3f9a1c27d0b4
    """
    return _steer(job_ids, Job.pause, JobState.PAUSED, as_json=as_json)


@click.command()
@_jobs
@options.as_json
def resume(job_ids: tuple[str, ...], as_json: bool) -> int:
    """Go on with each paused, failed or cancelled JOB from what is there.

    Of a job that was cancelled without --keep nothing is there: it starts over.

    \b
    Example:
      orchestrator resume 3f9a1c27d0b4
    """
    return _steer(job_ids, Job.resume, JobState.QUEUED, as_json=as_json)


@click.command()
@click.argument("job_id", metavar="JOB")
@click.argument("rate", type=options.Rate())
@options.as_json
def limit(job_id: str, rate: str, as_json: bool) -> int:
    """Have JOB bring at most RATE bytes a second over all hosts, from within a second on.

    RATE is such as 500k or 50M, off for no limit, or a timetable by the clocks of the workers' hosts. Each time of it
    holds until the next; one without a day is of every day.

    \b
    Examples:
      orchestrator limit 3f9a1c27d0b4 20M
      orchestrator limit 3f9a1c27d0b4 off
      orchestrator limit 3f9a1c27d0b4 '08:00 20M, 18:00 off'
      orchestrator limit 3f9a1c27d0b4 'Mon-08:00 20M, Fri-18:00 off'
    """
    with cluster() as orchestrator:
        job = orchestrator.job(job_id)
        done = job.limit(rate)
        record = job.status()
    if not done:
        exits.say_error(f"Job {job_id} is {record.state}; nothing was changed.")
        return exits.USAGE
    click.echo(
        record.model_dump_json(indent=2) if as_json else f"job {job_id} has the limit {exits.printable(rate)}"
    )
    return exits.COMPLETE


def _steer(job_ids: tuple[str, ...], verb: Callable[[Job], bool], wanted: JobState, *, as_json: bool) -> int:
    """Do the same to each of these jobs; the exit code of the last that it could not be done to."""
    code, records = exits.COMPLETE, []
    with cluster() as orchestrator:
        for job_id in dict.fromkeys(job_ids):
            try:
                before = orchestrator.job(job_id).status()
                done = verb(Job(orchestrator, job_id))
                record = orchestrator.job(job_id).status()
            except NoSuchJob as error:
                if len(job_ids) == 1:
                    raise
                exits.say_error(str(error))
                code = exits.USAGE
                continue
            records.append(record)
            if done and not as_json:
                click.echo(f"job {job_id} is {record.state}{_besides(before, record)}")
            if not done and record.state is wanted:
                if not as_json:
                    click.echo(f"job {job_id} is {record.state} already{_besides(before, record)}")
            elif not done:
                exits.say_error(f"Job {job_id} is {record.state}; nothing was changed.")
                code = exits.USAGE
    if as_json:
        shown = [record.model_dump(mode="json") for record in records]
        click.echo(json.dumps(shown[0] if len(job_ids) == 1 else shown, indent=2))
    return code


def _besides(before: JobRecord, after: JobRecord) -> str:
    """What a person does not see in the new state."""
    if after.state is JobState.CANCELLED and after.keeps_parts:
        return f"; what came is kept. Go on with: orchestrator resume {after.job_id}"
    if before.state is not JobState.CANCELLED or before.keeps_parts:
        return ""
    starts_over = "" if after.state is JobState.CANCELLED else ", so it starts over"
    return f"; its parts were removed when it was cancelled{starts_over}"


def _print_table(records: list[JobRecord], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("job", "state", "done", "size", "submitted", "name"):
        table.add_column(title, overflow="fold", no_wrap=title != "name")
    for record in records:
        share = f"{100 * record.bytes_done / record.size_bytes:.0f}%" if record.size_bytes else "-"
        size = decimal(record.size_bytes) if record.size_bytes is not None else "-"
        submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created_at))
        name = exits.printable(record.path or record.url)
        table.add_row(*map(Text, (record.job_id, record.state, share, size, submitted, name)))
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def _print_one(record: JobRecord) -> None:
    from rich.filesize import decimal

    def show(name: str, value: object) -> None:
        if value not in (None, ""):
            click.echo(f"{name:>12}  {exits.printable(str(value))}")

    show("job", record.job_id)
    show("state", record.state)
    show("url", record.url)
    show("path", record.path)
    of = f" of {decimal(record.size_bytes)}" if record.size_bytes is not None else ""
    show("done", f"{decimal(record.bytes_done)}{of}")
    if record.chunks_count is not None:
        show("chunks", f"{record.chunks_done} of {record.chunks_count}")
    if record.state.is_active:
        show("connections", f"{record.connections_count} on {record.workers_count} workers")
    show("limit", record.limit_rate)
    if record.seconds is not None:
        rate = f", {decimal(int(record.bytes_per_second))}/s" if record.bytes_per_second else ""
        show("took", f"{record.seconds:.2f} s{rate}")
    show("retries", record.retries_count or None)
    show("sha256", record.sha256)
    show("crc32c", record.crc32c)
    for worker, share in sorted(record.workers.items()):
        show("by", f"{worker}: {decimal(share.bytes)} in {share.chunks_count} chunks")
    for state, at in sorted(record.state_times.items(), key=lambda item: item[1]):
        show(state, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)))
    if record.error is not None:
        show("error", f"{record.error.code}: {record.error.message}")
