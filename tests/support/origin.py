"""An origin that counts what it serves, slowly if asked; for tests that look at a job while it runs."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, ClassVar

from support.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK_BYTES = 64 * 1024


class Origin:
    """Serves one content at any path that has none of its own, with ranges and a strong ETag."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.contents: dict[str, bytes] = {}  #: path -> what is there instead
        self.etag = '"v1"'
        self.bytes_per_second: float | None = None  #: for each connection
        self.gate = threading.Event()  #: cleared: bodies wait after their first block
        self.gate.set()
        self.stalled_starts: list[int] = []  #: ranges that begin here get a head and no body, each once
        self.stalls_before = 0  #: ranges that begin before this get a head and no body
        self.statuses: list[int] = []  #: the next answers, instead of the file
        self.retry_after_seconds: int | None = None  #: what those ask to wait
        self.lock = threading.Lock()
        self.served_bytes = 0
        self.requests: list[str] = []
        self.paths: list[str] = []
        self.peers: list[str] = []  #: the address that each request came from
        self.send_buffer_bytes: int | None = None  #: of new connections; None: as the system chooses
        self.connections_count = 0
        self.slow_starts: dict[int, float] = {}  #: first byte of a range -> bytes per second
        self.open_count = 0
        self.most_open_count = 0
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    """One connection to an origin."""

    one: ClassVar[Origin]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        if self.one.send_buffer_bytes is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.one.send_buffer_bytes)
        with self.one.lock:
            self.one.connections_count += 1

    def do_GET(self) -> None:
        with self.one.lock:
            self.one.requests.append(self.headers.get("Range", ""))
            self.one.paths.append(self.path)
            self.one.peers.append(self.client_address[0])
            status = self.one.statuses.pop(0) if self.one.statuses else 0
            self.one.open_count += 1
            self.one.most_open_count = max(self.one.most_open_count, self.one.open_count)
        self.is_open = True
        try:
            if status:
                self._is_over()
                self.send_response(status)
                if self.one.retry_after_seconds is not None:
                    self.send_header("Retry-After", str(self.one.retry_after_seconds))
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send_file()
        except OSError:
            self.close_connection = True
        finally:
            self._is_over()

    def _send_file(self) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        content = self.one.contents.get(self.path, self.one.content)
        start = int(first)
        stop = min(int(last or len(content)) + 1, len(content))
        self.send_response(206)
        self.send_header("ETag", self.one.etag)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        with self.one.lock:
            is_stalled = start in self.one.stalled_starts
            if is_stalled:
                self.one.stalled_starts.remove(start)
        if is_stalled or start < self.one.stalls_before:
            self.wfile.flush()
            self.connection.recv(1)  # until the client closes
            raise ConnectionResetError
        for offset in range(start, stop, _BLOCK_BYTES):
            block = content[offset : min(offset + _BLOCK_BYTES, stop)]
            bytes_per_second = self.one.slow_starts.get(start, self.one.bytes_per_second)
            if bytes_per_second:
                time.sleep(len(block) / bytes_per_second)
            if offset > start:
                self.one.gate.wait(60)
            if offset + len(block) == stop:
                # Before the client has it all, and may ask again on another connection.
                self._is_over()
            self.wfile.write(block)
            with self.one.lock:
                self.one.served_bytes += len(block)

    def _is_over(self) -> None:
        if self.is_open:
            self.is_open = False
            with self.one.lock:
                self.one.open_count -= 1


@contextmanager
def origin(content: bytes, *, address: str = "127.0.0.1") -> Iterator[Origin]:
    """Serve `content` on an address of this machine."""
    one = Origin(content)
    with serving(type("Handler", (_Handler,), {"one": one}), address=address) as port:
        one.url = f"http://{address}:{port}/big.bin"
        try:
            yield one
        finally:
            one.gate.set()
