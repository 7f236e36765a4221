"""``orchestrator submit``."""

from __future__ import annotations

import sys

import click

from orchestrator.cli import exits, options
from orchestrator.cli.waiting import wait_and_exit
from orchestrator.client import Job, Orchestrator
from tasks.records import RedisError
from tasks.transfer.manifest import LayoutName


@click.command()
@click.argument("url")
@click.option("-o", "--output", metavar="NAME", help="Name of the file, relative to the volume.")
@click.option("--sha256", metavar="HEX", help="The file must have this digest, else nothing is published.")
@click.option(
    "--chunk-size", metavar="SIZE", type=options.Size(), help="Such as 32M; default: from the file's size."
)
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="At most so many connections to the origin (default: 16).",
)
@click.option(
    "--layout",
    type=click.Choice([name.value for name in LayoutName]),
    default=LayoutName.AUTO.value,
    show_default=True,
    help="shared: one file, written in place. parts: one file a part, joined at the end.",
)
@click.option(
    "-H", "--header", "headers", metavar="'K: V'", type=options.Header(), multiple=True,
    help="Send this header to the URL's origin; may be repeated.",
)  # fmt: skip
@click.option(
    "--user", metavar="NAME[:PASSWORD]", help="Basic authentication; a missing password is asked for."
)
@click.option("--overwrite", is_flag=True, help="Replace the file if there is one.")
@click.option(
    "--no-sync", is_flag=True, help="Do not wait for the disk: faster, and lost if the host crashes."
)
@click.option("--detach", is_flag=True, help="Print the job's id and return at once (needs a cluster).")
@options.timeout
@options.quiet
@options.as_json
def submit(
    url: str,
    output: str | None,
    sha256: str | None,
    chunk_size: int | None,
    connections: int | None,
    layout: str,
    headers: tuple[tuple[str, str], ...],
    user: str | None,
    overwrite: bool,
    no_sync: bool,
    detach: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Download URL onto the volume, and wait for it.

    The file appears under its name when it is complete and checked, never before. Prints its path.

    \b
    Examples:
      orchestrator submit https://example.org/big.iso
      orchestrator submit https://example.org/big.iso -o images/big.iso --sha256 1f2e...
      orchestrator submit https://example.org/data.tar --connections 4 --chunk-size 64M
      orchestrator submit https://example.org/private -H 'Authorization: Bearer ...' --json
    """
    if user is not None and ":" not in user and sys.stdin.isatty():
        user = f"{user}:{click.prompt('Password', hide_input=True, err=True)}"
    with Orchestrator() as orchestrator:
        if detach and orchestrator.is_embedded:
            raise click.UsageError(
                "--detach needs a cluster or an `orchestrator up`: the embedded mode ends with this command."
            )
        job = orchestrator.submit(
            url,
            output,
            sha256=sha256,
            chunk_size_bytes=chunk_size,
            connections=connections,
            layout=layout,
            headers=options.joined(headers),
            user=user,
            overwrite=overwrite,
            sync=not no_sync,
        )
        if detach:
            click.echo(job.status().model_dump_json(indent=2) if as_json else job.job_id)
            return exits.COMPLETE
        return _wait(orchestrator, job, timeout=timeout, quiet=quiet, as_json=as_json)


def _wait(orchestrator: Orchestrator, job: Job, *, timeout: float | None, quiet: bool, as_json: bool) -> int:
    try:
        return wait_and_exit(orchestrator, job, timeout=timeout, as_json=as_json, quiet=quiet or as_json)
    except KeyboardInterrupt:
        if orchestrator.is_embedded:
            exits.say_error("Interrupted; nothing was kept. Run the same command to start again.")
        else:
            exits.say_error(
                f"Interrupted; job {job.job_id} goes on. Come back with: orchestrator wait {job.job_id}   "
                f"End it with: orchestrator cancel {job.job_id}"
            )
        return exits.INTERRUPTED
    except RedisError:
        if not orchestrator.is_embedded:
            raise
        exits.say_error(
            "The private Redis or its worker ended, and the job with it. Nothing was kept; run the same command "
            "to start again."
        )
        return exits.REDIS
