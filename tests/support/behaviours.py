"""Answers of HTTP servers, good and bad, to build scripted behaviours from."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from support.scripted import Request

Handler = Callable[[Request], object]

MIB = 1024 * 1024
CONTENT = random.Random(11).randbytes(2 * MIB + MIB // 2)
OTHER = CONTENT[::-1]
DATE = "Thu, 01 Oct 2026 10:00:00 GMT"
LATER = "Fri, 02 Oct 2026 10:00:00 GMT"


def head(status: str, *headers: str) -> bytes:
    """The head of a response that closes its connection."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode("latin-1")


def plain(status: str, *headers: str, body: bytes = b"") -> Handler:
    """The same answer to everything."""
    return lambda request: request.send(head(status, *headers, f"Content-Length: {len(body)}") + body)


def raw(data: bytes) -> Handler:
    """The same bytes to everything."""
    return lambda request: request.send(data)


def serve(  # noqa: C901  (an argument for each fault)
    content: bytes = CONTENT,
    *,
    etag: str | None = '"v1"',
    date: str | None = DATE,
    extra: tuple[str, ...] = (),
    ranges: bool = True,
    total: str | None = None,
    content_range: Callable[[int, int, int], str | None] | None = None,
    length: Callable[[int], str | None] | None = None,
    at_most: int | None = None,
    cut: int | None = None,
    body: Callable[[bytes], bytes] = lambda body: body,
    honours_if_range: bool = True,
    chunked: bool = False,
    slice_of: Callable[[int, int], tuple[int, int]] = lambda first, last: (first, last),
) -> Handler:
    """A server of one file, with its faults as arguments.

    Args:
        content: the file.
        etag: its entity tag; None: none is sent.
        date: its Last-Modified; None: none is sent.
        extra: more header lines.
        ranges: whether ranges are honoured.
        total: what Content-Range says of the size.
        content_range: the whole Content-Range from first, last and size; None: none is sent.
        length: Content-Length from the body's; None: none is sent.
        at_most: the longest range that is sent.
        cut: how many bytes of a body are sent before the connection is closed.
        body: what is sent instead of the body.
        honours_if_range: whether an If-Range that does not hold makes it send the whole file.
        chunked: send the body in chunks (RFC 9112, section 7.1).
        slice_of: the bytes that are really sent for first and last.
    """

    def answer(request: Request) -> None:  # noqa: C901
        lines = [*extra]
        if etag is not None:
            lines.append(f"ETag: {etag}")
        if date is not None:
            lines.append(f"Last-Modified: {date}")
        asked = request.range if ranges else None
        if_range = request.header("If-Range")
        if honours_if_range and if_range is not None and if_range != etag:
            asked = None
        if asked is None:
            status, data = "200 OK", content
        else:
            first, last = asked[0], min(asked[1], len(content) - 1)
            if first >= len(content):
                request.send(
                    head(
                        "416 Range Not Satisfiable",
                        f"Content-Range: bytes */{len(content)}",
                        "Content-Length: 0",
                    )
                )
                return
            if at_most is not None:
                last = min(last, first + at_most - 1)
            first, last = slice_of(first, last)
            status, data = "206 Partial Content", content[first : last + 1]
            said = f"bytes {first}-{last}/{total or len(content)}"
            if content_range is not None:
                said = content_range(first, last, len(content))
            if said is not None:
                lines.append(f"Content-Range: {said}")
        sent = body(data)
        if chunked:
            lines.append("Transfer-Encoding: chunked")
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent) if sent else b"0\r\n\r\n"
        else:
            said_length = str(len(data)) if length is None else length(len(data))
            if said_length is not None:
                lines.append(f"Content-Length: {said_length}")
        request.send(head(status, *lines))
        request.send(sent if cut is None else sent[:cut])

    return answer


def in_turn(*handlers: Handler) -> Handler:
    """The first answer to the first request, and so on; the last one to all that follow."""
    seen: list[int] = []

    def answer(request: Request) -> None:
        seen.append(1)
        handlers[min(len(seen), len(handlers)) - 1](request)

    return answer


def by_path(paths: dict[str, Handler], otherwise: Handler) -> Handler:
    """An answer for each path, without its query."""
    return lambda request: paths.get(request.path.partition("?")[0], otherwise)(request)


def redirect(location: str, status: str = "302 Found") -> Handler:
    """A redirect."""
    return plain(status, f"Location: {location}")


def when(condition: Callable[[Request], bool], then: Handler, otherwise: Handler) -> Handler:
    """One answer or the other."""
    return lambda request: (then if condition(request) else otherwise)(request)


def slowly(data: bytes, *, every_seconds: float, count: int) -> Handler:
    """Bytes that come one by one, so many of them."""

    def answer(request: Request) -> None:
        for index in range(count):
            request.send(data[index : index + 1])
            time.sleep(every_seconds)

    return answer
