"""``orchestrator prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import exits, options

if TYPE_CHECKING:
    from tasks.prune import Pruned


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    type=options.Age(),
    help="Such as 90s, 30m, 12h, 7d (default: the setting ORCHESTRATOR_RECORD_AGE_SECONDS, 7 days).",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=options.Seconds(),
    help="Stop waiting for the worker after this (exit code 7).",
)
@options.as_json
def prune(older_than: float | None, dry_run: bool, timeout: float | None, as_json: bool) -> int:
    """Remove what nobody will come back to: of jobs that ended longer ago than AGE, the records and the parts.

    The parts of a job that failed, or was cancelled with --keep, stay on the volume until then, however large they
    are. Workers do the same by themselves about once an hour, with the default age. Also removed are parts of jobs
    without a record that nobody has written to for AGE and at least a day, and what processes left that died. A job
    that is active or paused is never touched.

    A worker does it; without a cluster, this host does, on the volume here or on --volume.

    \b
    Examples:
      orchestrator prune --older-than 1d --dry-run
      orchestrator prune --older-than 12h
      orchestrator --volume /data prune
    """
    from orchestrator.cli.jobs import cluster, is_without_cluster
    from tasks.settings import Settings

    if is_without_cluster():
        from orchestrator.pruning import prune_here

        settings = Settings()
        pruned = prune_here(
            settings.volume.absolute(),
            older_than_seconds=settings.record_age_seconds if older_than is None else older_than,
            is_dry_run=dry_run,
        )
    else:
        from orchestrator.cli.waiting import IdleHint
        from tasks.app import MERGE_QUEUE

        with cluster() as orchestrator:
            hint = IdleHint(orchestrator, exits.say, queues=(MERGE_QUEUE,))
            pruned = orchestrator.prune(
                older_than, is_dry_run=dry_run, timeout_seconds=timeout, on_look=hint.look
            )
    return _tell(pruned, as_json=as_json)


def _tell(pruned: Pruned, *, as_json: bool) -> int:
    if as_json:
        click.echo(pruned.model_dump_json(indent=2))
    else:
        click.echo(sentence(pruned))
    if pruned.stuck:
        exits.say_error(
            f"The parts of {_count(len(pruned.stuck), 'job')} could not be removed: {', '.join(pruned.stuck)}. "
            f"May the worker's user write to them?"
        )
        return exits.VOLUME
    return exits.COMPLETE


def sentence(pruned: Pruned) -> str:
    """What was removed, or would be."""
    from rich.filesize import decimal

    what = [_count(len(pruned.jobs), "job")] if pruned.jobs else []
    if pruned.leftovers_count:
        what.append(_count(pruned.leftovers_count, "leftover"))
    if not what:
        return "nothing to remove"
    verb = "would be removed" if pruned.is_dry_run else "removed"
    return f"{verb}: {' and '.join(what)}, {decimal(pruned.bytes)} on the volume"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
