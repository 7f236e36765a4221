"""What nginx's access log says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psutil

from support.tools import wait_until

if TYPE_CHECKING:
    from bench.origins import Origin

#: Of the format `combined`: the request, the status and $body_bytes_sent.
_LINE = re.compile(r'"GET [^"]*" (\d{3}) (\d+) "')


def sent_bytes(origin: Origin) -> int:
    """How many bytes of files nginx has sent so far, over connections that are closed by now.

    A response is logged when it ends. So its clients have to be gone: this waits for nginx to notice.
    """
    if origin.access_log is None:
        raise ValueError("this origin has no access log")
    wait_until(lambda: not _has_connections(origin), what="nginx letting go of its clients")
    lines = origin.access_log.read_text().splitlines()
    matches = [match for line in lines if (match := _LINE.search(line)) is not None]
    return sum(int(match[2]) for match in matches if match[1] in ("200", "206"))


def _has_connections(origin: Origin) -> bool:
    return any(
        connection.status != psutil.CONN_LISTEN
        for process in origin.processes()
        for connection in process.net_connections(kind="tcp")
    )
