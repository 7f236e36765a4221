"""``orchestrator recover``."""

from __future__ import annotations

import click

from orchestrator.cli import exits, options


@click.command()
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=options.Seconds(),
    help="Stop waiting for the worker after this (exit code 7).",
)
@options.as_json
def recover(timeout: float | None, as_json: bool) -> int:
    """Go on with the jobs on the volume that Redis does not know.

    Workers do so by themselves with what they know to be theirs. This is for a Redis that lost its data while no
    worker ran, or that is new: it takes over all unfinished jobs of the volume. If another cluster has the same
    volume, its jobs would be fetched twice. Jobs that were paused are paused then, and those that had failed are left.

    \b
    Example:
      orchestrator recover
    """
    from orchestrator.cli.jobs import cluster
    from orchestrator.cli.waiting import IdleHint
    from tasks.app import CONTROL_QUEUE

    with cluster() as orchestrator:
        hint = IdleHint(orchestrator, exits.say, queues=(CONTROL_QUEUE,))
        recovered = orchestrator.recover(timeout_seconds=timeout, on_look=hint.look)
    if as_json:
        click.echo(recovered.model_dump_json(indent=2))
    elif not recovered.jobs:
        click.echo("no job on the volume that Redis does not know")
    for job_id in recovered.jobs if not as_json else ():
        click.echo(f"job {job_id} goes on")
    return exits.COMPLETE
