"""``orchestrator verify``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import exits, options

if TYPE_CHECKING:
    from tasks.transfer.verify_file import Verification

_JOB_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


@click.command()
@click.argument("target", metavar="JOB|FILE")
@options.digests
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=options.Seconds(),
    help="Stop waiting for the worker after this (exit code 7).",
)
@options.as_json
def verify(target: str, timeout: float | None, as_json: bool, **given: Any) -> int:
    """Read a finished file again and compare it with what is known: exit code 0, or 3 if it differs.

    The file of a complete JOB is read by a worker, and compared with the job's size, CRC32C and digests. A FILE of
    this machine is compared with the digests that are given.

    \b
    Examples:
      orchestrator verify 3f9a1c27d0b4
      orchestrator verify big.iso --sha256 1f2e...
      orchestrator verify big.iso --checksums SHA256SUMS
    """
    has_digests = any(given.values())
    if _JOB_ID.fullmatch(target) and not has_digests:
        result = _verify_job(target, timeout)
    elif not Path(target).is_file():
        raise click.UsageError(f"{target!r} is neither the id of a job nor a file here.")
    else:
        from orchestrator.verify_here import verify_here

        result = verify_here(
            Path(target),
            sha256=given["sha256"],
            digests=options.by_algorithm(given["checksum"]),
            checksums=given["checksums"],
        )
    return _tell(result, as_json=as_json)


def _verify_job(job_id: str, timeout: float | None) -> Verification:
    from orchestrator.cli.jobs import cluster
    from orchestrator.cli.waiting import IdleHint
    from tasks.app import MERGE_QUEUE

    with cluster() as orchestrator:
        hint = IdleHint(orchestrator, exits.say, queues=(MERGE_QUEUE,))
        return orchestrator.job(job_id).verify(timeout, on_look=hint.look)


def _tell(result: Verification, *, as_json: bool) -> int:
    if as_json:
        click.echo(result.model_dump_json(indent=2))
    for each in result.compared:
        if each.expected != each.actual:
            exits.say_error(f"{result.path} has {each.what} {each.actual}, expected {each.expected}.")
        elif not as_json:
            click.echo(f"{each.what} {each.actual} is right")
    return exits.COMPLETE if result.is_same else exits.ORIGIN
