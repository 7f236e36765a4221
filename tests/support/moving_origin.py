"""An origin that moves: signed links that expire, files that are replaced, connections that are counted and refused.

Everything that a test asks afterwards is from the origin's own books: who asked when, what was answered, and how many
bytes went out while how many connections were served.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from support.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

_BLOCK_BYTES = 32 * 1024


@dataclass(frozen=True)
class Version:
    """A file as it is at one time."""

    content: bytes
    etag: str | None = None
    last_modified: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def version(size_bytes: int, seed: int, **validators: str) -> Version:
    """A file whose every byte is by chance: parts of two versions are never alike."""
    return Version(random.Random(seed).randbytes(size_bytes), **validators)


@dataclass
class Seen:
    """One request in the origin's log."""

    at_seconds: float  #: time.monotonic()
    path: str
    first: int
    last: int  #: inclusive, as asked for
    query: str
    headers: Message
    status: int = 0  #: what was answered; 0: not a word


@dataclass
class MovingOrigin:
    """What the server does; a test changes it at any time, under `lock` if it has to be exact."""

    version: Version
    bytes_per_second: float | None = None  #: for each connection
    link_seconds: float = 2.0  #: how long a signed link is good for
    expired_status: int = 403
    cuts_at_expiry: bool = False  #: what is still being sent then is cut off
    stale_links: int = 0  #: the next redirects lead to a link that has expired already
    link_query: str = ""  #: goes with each link
    link_base: str = ""  #: where links lead; another origin's URL, or this one's
    most_served: int | None = None  #: connections that are served at once
    refuse: Callable[[BaseHTTPRequestHandler], int] = lambda handler: answer(handler, 503)
    #: called with each request for the file before it is answered, under the lock; may return an answer's function
    on_request: Callable[[Seen], Callable[[BaseHTTPRequestHandler], int] | None] = lambda seen: None

    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)
    log: list[Seen] = field(default_factory=list)
    links_count: int = 0
    served_count: int = 0  #: at this moment
    most_served_seen: int = 0
    bytes_by_served: Counter[int] = field(
        default_factory=Counter
    )  #: connections served at once -> bytes sent then
    late_bytes: int = 0  #: sent on links that had expired meanwhile
    cut_count: int = 0

    @property
    def served_bytes(self) -> int:
        return sum(self.bytes_by_served.values())

    def statuses(self) -> Counter[int]:
        return Counter(seen.status for seen in self.log)

    def new_link(self) -> str:
        """A link as the next redirect would have it."""
        with self.lock:
            self.links_count += 1
            ends = time.monotonic() + self.link_seconds
            if self.stale_links:
                self.stale_links -= 1
                ends -= 2 * self.link_seconds
            base = self.link_base or self.url.rpartition("/")[0]
            return f"{base}/signed?ends={ends!r}&n={self.links_count}{self.link_query}"


def answer(handler: BaseHTTPRequestHandler, status: int, *headers: tuple[str, str]) -> int:
    """An answer without a body."""
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return status


def hang_up(handler: BaseHTTPRequestHandler) -> int:
    """Close the connection without a word."""
    handler.close_connection = True
    return 0


def reset(handler: BaseHTTPRequestHandler) -> int:
    """Reset the connection."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A socket's own close() waits for the files made of it, and the server would send a FIN before.
    os.close(handler.connection.detach())
    return 0


@contextmanager
def moving_origin(first: Version, **settings: object) -> Iterator[MovingOrigin]:
    """Serve a file on loopback: at ``/file``, at ``/link`` through a redirect to ``/signed?...``."""
    one = MovingOrigin(first, **settings)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                _handle(one, self)
            except OSError:
                self.close_connection = True

    with serving(Handler) as port:
        one.url = f"http://127.0.0.1:{port}/file"
        yield one


def _handle(one: MovingOrigin, handler: BaseHTTPRequestHandler) -> None:
    url = urlsplit(handler.path)
    first, _, last = (handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
    seen = Seen(time.monotonic(), url.path, int(first), int(last or 2**62), url.query, handler.headers)
    with one.lock:
        one.log.append(seen)
        special = one.on_request(seen)
        current = one.version
    if special is not None:
        seen.status = special(handler)
        return
    if url.path == "/link":
        seen.status = answer(handler, 302, ("Location", one.new_link()))
        return
    ends_seconds = None
    if url.path == "/signed":
        ends_seconds = float(parse_qs(url.query)["ends"][0])
        if time.monotonic() >= ends_seconds:
            seen.status = answer(handler, one.expired_status)
            return
    with one.lock:
        is_refused = one.most_served is not None and one.served_count >= one.most_served
        if not is_refused:
            one.served_count += 1
            one.most_served_seen = max(one.most_served_seen, one.served_count)
    if is_refused:
        seen.status = one.refuse(handler)
        return
    try:
        _send_file(one, handler, seen, current, ends_seconds)
    finally:
        with one.lock:
            one.served_count -= 1


def _send_file(
    one: MovingOrigin,
    handler: BaseHTTPRequestHandler,
    seen: Seen,
    current: Version,
    ends_seconds: float | None,
) -> None:
    size_bytes = len(current.content)
    if seen.first >= size_bytes:
        seen.status = answer(handler, 416, ("Content-Range", f"bytes */{size_bytes}"))
        return
    stop = min(seen.last + 1, size_bytes)
    if_range = handler.headers.get("If-Range")
    start = seen.first
    is_whole = if_range is not None and if_range != current.etag
    if is_whole:
        start, stop = 0, size_bytes
    seen.status = 200 if is_whole else 206
    handler.send_response(seen.status)
    if current.etag is not None:
        handler.send_header("ETag", current.etag)
    if current.last_modified is not None:
        handler.send_header("Last-Modified", current.last_modified)
    if not is_whole:
        handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size_bytes}")
    handler.send_header("Content-Length", str(stop - start))
    handler.end_headers()
    began_seconds = time.monotonic()
    written_at, written_bytes = 0, 0
    for offset in range(start, stop, _BLOCK_BYTES):
        if one.bytes_per_second:
            # Before the write: once its last byte is out, a connection no longer counts as served.
            due_seconds = began_seconds + (offset - start) / one.bytes_per_second
            time.sleep(max(0.0, due_seconds - time.monotonic()))
        is_late = ends_seconds is not None and time.monotonic() > ends_seconds
        if is_late and one.cuts_at_expiry:
            one.cut_count += 1
            handler.close_connection = True
            return
        block = current.content[offset : min(offset + _BLOCK_BYTES, stop)]
        try:
            handler.wfile.write(block)
        except OSError:
            # Its client has closed, as one whose part is cut does: the block before went into a closed connection.
            with one.lock:
                one.bytes_by_served[written_at] -= written_bytes
            raise
        with one.lock:
            written_at, written_bytes = one.served_count, len(block)
            one.bytes_by_served[one.served_count] += len(block)
            one.late_bytes += len(block) if is_late else 0
