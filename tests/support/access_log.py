"""What a web server was asked, from its own access log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from support.tools import wait_until

if TYPE_CHECKING:
    from pathlib import Path

NGINX_FORMAT = "$status|$request_uri|$http_range|$http_authorization|$http_cookie"
APACHE_FORMAT = "%>s|%U|%{Range}i|%{Authorization}i|%{Cookie}i"  #: lighttpd has the same letters


class Logged(NamedTuple):
    """One request; a header that it did not have is empty."""

    status: int
    path: str
    range: str
    authorization: str
    cookie: str


def _of_caddy(line: str) -> Logged:
    entry = json.loads(line)
    headers = entry["request"]["headers"]
    values = [", ".join(headers.get(name, [])) for name in ("Range", "Authorization", "Cookie")]
    return Logged(entry["status"], entry["request"]["uri"], *values)


def _of_fields(line: str) -> Logged:
    status, *fields = line.split("|")
    return Logged(int(status), *("" if field == "-" else field for field in fields))


def logged(folder: Path, path: str = "") -> list[Logged]:
    """The requests for paths that begin so, as the server in this folder logged them."""
    file = folder / "access.log"
    lines = file.read_text().splitlines() if file.exists() else []
    requests = [_of_caddy(line) if line.startswith("{") else _of_fields(line) for line in lines]
    return [request for request in requests if request.path.startswith(path)]


def wait_until_logged(folder: Path, count: int, path: str = "") -> list[Logged]:
    """The requests, as soon as there are so many: a client may have its answer before the log has its line."""
    wait_until(
        lambda: len(logged(folder, path)) >= count,
        what=f"{count} requests for {path or '/'} in {folder.name}'s log",
    )
    return logged(folder, path)
