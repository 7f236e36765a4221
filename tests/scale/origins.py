"""The origin of all hosts, and what its log says of each."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT = "$msec $request_time $status $body_bytes_sent $remote_addr"


class Answer(NamedTuple):
    """One answer; times are seconds since the epoch."""

    began: float
    ended: float
    status: int
    body_bytes: int
    address: str  #: of who asked

    @property
    def is_of_file(self) -> bool:
        """Whether it brought bytes of a file."""
        return self.status in (200, 206) and self.body_bytes > 0


@dataclass(frozen=True)
class Origin:
    """nginx on an address that all hosts reach."""

    url: str  #: without a slash at the end
    log: Path
    pid: int

    def answers(self, *, since: float) -> list[Answer]:
        """All that have ended by now, and began after a time."""
        # nginx may be about to write the last line.
        whole, _, _ = self.log.read_text().rpartition("\n")
        found = []
        for line in whole.splitlines():
            ended, took, status, sent, address = line.split()
            if float(ended) - float(took) >= since:
                answer = Answer(float(ended) - float(took), float(ended), int(status), int(sent), address)
                found.append(answer)
        return found


@contextmanager
def origin(
    state: Path, documents: Path, address: str, *, connections: int | None = None, bytes_per_second: int = 0
) -> Iterator[Origin]:
    """nginx in front of these documents.

    Args:
        state: where it may write.
        documents: what it serves.
        address: where it listens.
        connections: so many are served to one address at once, and it gets 503 on more; None: any number is.
        bytes_per_second: of each of them; 0: as many as go through. nginx gives each answer a second's worth at once.
    """
    log = state / "scale.log"
    extra, http_extra = f"access_log {log} scale;", f"log_format scale '{_FORMAT}';"
    if connections is not None:
        extra += f"limit_conn clients {connections}; limit_rate {bytes_per_second};"
        http_extra += "limit_conn_zone $binary_remote_addr zone=clients:1m;"
    with nginx(state, documents, extra=extra, http_extra=http_extra, address=address) as url:
        yield Origin(url, log, int((state / "nginx.pid").read_text()))
