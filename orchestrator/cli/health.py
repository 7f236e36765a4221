"""``orchestrator health``: for the health checks of containers, which run it again and again."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import click

from orchestrator.cli import exits

#: Where who listens on all addresses is to be found.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (it is asked there, and does not listen)

_MOST_ANSWER_BYTES = 1024 * 1024


@click.command()
@click.option(
    "--timeout",
    "timeout_seconds",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    help="How long to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def health(timeout_seconds: float, as_json: bool) -> int:
    """Say whether this host's worker is well: whether all its processes run, and none stands still.

    It asks the worker that was started with the same ORCHESTRATOR_METRICS_PORT. That Redis, the volume or an
    origin is away does not count: starting the worker again would not bring them back. Exit code 0: it is well;
    1: it is not, or does not answer.

    \b
    Examples:
      orchestrator health
      orchestrator health --json --timeout 2
    """
    from tasks.settings import settings

    values = settings()
    if values.metrics_port is None:
        raise click.UsageError("ORCHESTRATOR_METRICS_PORT is not set: where does the worker answer?")
    address = _HERE.get(values.metrics_address, values.metrics_address)
    page = _ask(address, values.metrics_port, timeout_seconds)
    if as_json:
        click.echo(json.dumps(page, indent=2))
    elif page["is_healthy"]:
        click.echo(f"well: {len(page['processes'])} processes run")
    for problem in page["problems"]:
        exits.say_error(f"{problem}.")
    return exits.COMPLETE if page["is_healthy"] else exits.BUG


def _ask(address: str, port: int, timeout_seconds: float) -> dict[str, Any]:
    """The answer of `/healthz`, or one in its form that says why there is none."""
    try:
        page: dict[str, Any] = json.loads(_fetch(address, port, timeout_seconds))
        _ = page["is_healthy"], page["processes"], page["problems"]
    except OSError as error:
        reason = error.strerror or "no answer in time"
        problem = f"The worker on {address} port {port} does not answer ({reason.lower()})"
    except (ValueError, KeyError, TypeError):
        problem = f"What answers on {address} port {port} is no worker of Manyhands"
    else:
        return page
    return {"is_healthy": False, "problems": [problem], "processes": []}


def _fetch(address: str, port: int, timeout_seconds: float) -> bytes:
    """The body of the answer, whatever its status; `OSError` if there is none in time."""
    # An HTTP library takes longer to be imported than all the rest of this, and has no deadline for the whole.
    ends_seconds = time.monotonic() + timeout_seconds
    answer = b""
    with socket.create_connection((address, port), timeout_seconds) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        while len(answer) < _MOST_ANSWER_BYTES:
            connection.settimeout(max(ends_seconds - time.monotonic(), 0.001))
            block = connection.recv(_MOST_ANSWER_BYTES)
            if not block:
                break
            answer += block
    return answer.partition(b"\r\n\r\n")[2]
