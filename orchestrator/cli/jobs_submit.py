"""``orchestrator submit``."""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.access import Access
from orchestrator.batch import WINDOW
from orchestrator.cli import exits, options, variables
from orchestrator.cli.batches import bring_list
from orchestrator.cli.waiting import interrupted, kept_sentence, wait_and_exit
from orchestrator.client import Orchestrator
from orchestrator.submission import Options
from tasks.records import RedisError
from tasks.transfer.manifest import LayoutName, Priority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.job import Job

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("url", type=options.Secret(stdin="-"), required=False)
@click.option(
    "-i",
    "--input-file",
    "input_file",
    metavar="FILE",
    help="Download all URLs of this list, as aria2 has them; - is standard input. See below.",
)
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help=f"With -i: so many files are on their way at a time (default: {WINDOW}).",
)
@click.option("-o", "--output", metavar="NAME", help="Name of the file, relative to the volume.")
@options.digests
@click.option(
    "--no-verify-offered", is_flag=True, help="Do not compare with digests that the origin itself offers."
)
@click.option(
    "--chunk-size", metavar="SIZE", type=options.Size(), help="Such as 32M; default: from the file's size."
)
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="At most so many connections to the origin, over all workers and jobs (default: the workers' setting).",
)
@click.option(
    "--limit-rate",
    metavar="RATE",
    type=options.Rate(),
    help="At most so many bytes a second over all hosts, such as 50M, or a timetable: '08:00 50M, 18:00 off'. "
    "See also: orchestrator limit.",
)
@options.source
@click.option(
    "--layout",
    type=click.Choice([name.value for name in LayoutName]),
    default=LayoutName.AUTO.value,
    show_default=True,
    help="shared: one file, written in place. parts: one file a part, joined at the end.",
)
@click.option(
    "-H", "--header", "headers", metavar="'K: V'", type=options.Headers(), multiple=True,
    help="Send this header to the URL's origin, or those of a file: @FILE; may be repeated.",
)  # fmt: skip
@click.option(
    "--user",
    metavar="NAME[:PASSWORD]",
    type=options.Secret(),
    help="Basic authentication; a missing password is asked for. @FILE: what that file says.",
)
@click.option("--digest", is_flag=True, help="Digest authentication instead of Basic.")
@click.option(
    "--cookies", metavar="FILE", type=_FILE, help="Send the cookies of this file (Netscape's format)."
)
@click.option("--cert", metavar="FILE", type=_FILE, help="The client's certificate, PEM.")
@click.option("--key", metavar="FILE", type=_FILE, help="The client's key, PEM, if it is not in --cert.")
@click.option(
    "--ca-file",
    metavar="FILE",
    type=_FILE,
    help="Trust these certificates instead of certifi's, or of the worker's REQUESTS_CA_BUNDLE.",
)
@click.option("-k", "--insecure", is_flag=True, help="Do not check the origin's certificate.")
@click.option(
    "--proxy",
    metavar="URL",
    type=options.Secret(),
    help="http, https or socks5h, or @FILE; default: from the environment of each worker.",
)
@click.option(
    "--location-trusted", is_flag=True, help="Credentials go along when a redirect leads to another origin."
)
@click.option("--allow-downgrade", is_flag=True, help="Follow a redirect from https to http.")
@click.option("--strict", is_flag=True, help="Another ETag is another file, though size and date agree.")
@click.option(
    "--on-change",
    type=click.Choice(["restart", "fail"]),
    default="restart",
    show_default=True,
    help="What to do, once, if the file changes midway.",
)
@click.option("--max-size", metavar="SIZE", type=options.Size(), help="Refuse a larger file.")
@click.option(
    "--max-wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="The longest Retry-After to obey (default: the workers' setting, 120).",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if there is one.")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="A file that is there, of the size that the origin says and with the digests that were given, is complete.",
)
@click.option("--no-sync", is_flag=True, help="Do not wait for the disk: faster, lost if the host crashes.")
@click.option(
    "--priority",
    type=click.Choice([priority.value for priority in Priority]),
    default=Priority.NORMAL.value,
    show_default=True,
    help="Whose turn it is: a job of a higher one goes first, also before what is under way.",
)
@click.option("--detach", is_flag=True, help="Print the job's id and return at once (needs a cluster).")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=options.Seconds(),
    help="Fail the job if its last byte has not come by then (exit code 7); what came is kept.",
)
@options.quiet
@options.as_json
def submit(
    url: str | None,
    input_file: str | None,
    jobs: int | None,
    detach: bool,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Download URL, or all URLs of a list, onto the volume, and wait for it.

    The file appears under its name when it is complete and checked, never before. Prints its path. If it ends early,
    the same command again goes on with what is there.

    Others on this machine can read a command line. A URL - is read from standard input, and one of @FILE from
    that file; so are -H @FILE, --user @FILE and --proxy @FILE, where @- is standard input.

    A list has a URL a line, and beneath it, on lines that begin with a space, out=NAME and checksum=TYPE=DIGEST for
    it alone; empty lines and those that begin with # are passed over. A FILE is checked before anything is submitted;
    from standard input or a pipe, a URL is submitted as soon as the next line has come, be it empty. One that
    fails does not stop the others: each is named on stderr, and again at the end; the exit code is 0 if all are
    complete, else that of the first in the list that is not. The paths go to stdout if that is no terminal. --json
    prints a record a line as each ends, with the "line" of the list, and at last {"summary": ...}.

    The same command again passes over what is complete, as long as its record is kept (a week; also if somebody
    removed the file), goes on with what is not, and submits the rest. --overwrite brings all anew. Another key or
    another option makes other jobs, and so does the embedded mode: there, add --skip-existing. --timeout is for
    each file from its submit.

    \b
    Examples:
      orchestrator submit https://example.org/big.iso
      orchestrator submit -i urls.txt --checksums SHA256SUMS
      orchestrator submit https://example.org/big.iso -o images/big.iso --sha256 1f2e...
      orchestrator submit https://example.org/big.iso --checksums https://example.org/SHA256SUMS
      orchestrator submit https://example.org/data.tar --connections 4 --chunk-size 64M --priority low
      orchestrator submit https://example.org/data.tar --limit-rate '08:00 20M, 18:00 off'
      orchestrator submit https://example.org/private -H 'Authorization: Bearer ...' --json
      make-signed-link | orchestrator submit - -H @headers.txt
    """
    if input_file is not None:
        _refuse_what_is_for_one(url, given, detach=detach)
        with _orchestrator() as orchestrator:
            return bring_list(
                orchestrator,
                input_file,
                _options(given, timeout),
                checksums=given["checksums"],
                window=jobs if jobs is not None else WINDOW,
                quiet=quiet,
                as_json=as_json,
            )
    if jobs is not None:
        raise click.UsageError("-j is for a list of URLs: give one with -i.")
    if url is None:
        raise click.UsageError("Missing argument 'URL', or -i FILE for a list of them.")
    with _orchestrator() as orchestrator:
        return _submit_one(
            orchestrator, url, given, timeout=timeout, detach=detach, quiet=quiet, as_json=as_json
        )


@contextlib.contextmanager
def _orchestrator() -> Iterator[Orchestrator]:
    """The cluster; where its workers' connections leave from, only that of the embedded mode is told here."""
    own = set(variables.given(click.get_current_context())) & {"--source-address", "--interface"}
    with Orchestrator() as orchestrator:
        if own and not orchestrator.is_embedded:
            raise click.UsageError(
                f"{own.pop()} is for the host that fetches: give it to `orchestrator worker` or `orchestrator up` "
                f"there. Here it is of use without a cluster only."
            )
        yield orchestrator


def _submit_one(
    orchestrator: Orchestrator,
    url: str,
    given: dict[str, Any],
    *,
    timeout: float | None,
    detach: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    if detach and orchestrator.is_embedded:
        raise click.UsageError(
            "--detach needs a cluster or an `orchestrator up`: the embedded mode ends with this command."
        )
    job = orchestrator.submit(
        url,
        given["output"],
        sha256=given["sha256"],
        digests=options.by_algorithm(given["checksum"]),
        checksums=given["checksums"],
        **_options(given, timeout),
    )
    if detach:
        click.echo(job.status().model_dump_json(indent=2) if as_json else job.job_id)
        return exits.COMPLETE
    return _wait(orchestrator, job, timeout=timeout, quiet=quiet, as_json=as_json)


def _refuse_what_is_for_one(url: str | None, given: dict[str, Any], *, detach: bool) -> None:
    """Refuse what makes no sense with a list of URLs."""
    if url is not None:
        raise click.UsageError("Give a URL or -i FILE, not both.")
    if detach:
        raise click.UsageError(
            "--detach cannot be combined with -i: this command submits the list a window at a time, and has to stay. "
            "Run it in the background; interrupted, the same command goes on."
        )
    for name, flag in (("output", "-o"), ("sha256", "--sha256"), ("checksum", "--checksum")):
        if given[name]:
            raise click.UsageError(
                f"{flag} is for one file: write out= and checksum= beneath each URL of the list, or give --checksums."
            )


def _options(given: dict[str, Any], timeout: float | None) -> Options:
    return Options(
        verify_offered=not given["no_verify_offered"],
        chunk_size_bytes=given["chunk_size"],
        connections=given["connections"],
        limit_rate=given["limit_rate"],
        layout=given["layout"],
        overwrite=given["overwrite"],
        skip_existing=given["skip_existing"],
        sync=not given["no_sync"],
        strict=given["strict"],
        restarts=given["on_change"] == "restart",
        max_size_bytes=given["max_size"],
        max_wait_seconds=given["max_wait"],
        timeout_seconds=timeout,
        priority=given["priority"],
        access=_access(given),
    )


def _access(given: dict[str, Any]) -> Access:
    user = given["user"]
    if user is not None and ":" not in user and sys.stdin.isatty():
        user = f"{user}:{click.prompt('Password', hide_input=True, err=True)}"
    return Access(
        headers=options.joined(itertools.chain(*given["headers"])),
        user=user,
        uses_digest=given["digest"],
        cookie_file=given["cookies"],
        certificate_file=given["cert"],
        key_file=given["key"],
        ca_file=given["ca_file"],
        is_insecure=given["insecure"],
        proxy=given["proxy"],
        trusts_redirects=given["location_trusted"],
        allows_downgrade=given["allow_downgrade"],
    )


def _wait(orchestrator: Orchestrator, job: Job, *, timeout: float | None, quiet: bool, as_json: bool) -> int:
    try:
        return wait_and_exit(
            orchestrator, job, timeout=timeout, as_json=as_json, quiet=quiet or as_json, ends_job=True
        )
    except KeyboardInterrupt:
        if not orchestrator.is_embedded:
            return interrupted(job)
        exits.say_error(f"Interrupted. {kept_sentence(orchestrator, job)}")
        return exits.INTERRUPTED
    except RedisError:
        if not orchestrator.is_embedded:
            raise
        exits.say_error(
            f"The private Redis or its worker ended, and the job with it. {kept_sentence(orchestrator, job)}"
        )
        return exits.REDIS
