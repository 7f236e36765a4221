"""What nginx's access log says."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from support.web_servers import wait_until_let_go

if TYPE_CHECKING:
    from bench.origins import Origin

#: An `Answer`, field by field.
NGINX_FORMAT = "$msec $request_time $status $body_bytes_sent"


class Answer(NamedTuple):
    """One answer of nginx, which is logged when it ends."""

    ended_seconds: float
    took_seconds: float
    status: int
    body_bytes: int

    @property
    def is_of_file(self) -> bool:
        """Whether it brought bytes of a file."""
        return self.status in (200, 206)


def answers(origin: Origin) -> list[Answer]:
    """All that have ended so far."""
    if origin.access_log is None:
        raise ValueError("this origin has no access log")
    # nginx may be about to write the last line.
    whole, _, _ = origin.access_log.read_text().rpartition("\n")
    rows = [line.split() for line in whole.splitlines()]
    return [Answer(float(ended), float(took), int(status), int(sent)) for ended, took, status, sent in rows]


def file_bytes(logged: list[Answer]) -> int:
    """How many bytes of files these answers had."""
    return sum(answer.body_bytes for answer in logged if answer.is_of_file)


def sent_bytes(origin: Origin) -> int:
    """How many bytes of files nginx has sent so far, over connections that are closed by now.

    A response is logged when it ends. So its clients have to be gone: this waits for nginx to notice.
    """
    wait_until_let_go(origin.base_url)
    return file_bytes(answers(origin))
