"""An origin that counts what it serves, slowly if asked; for tests that look at a job while it runs."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

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
        self.statuses: list[int] = []  #: the next answers, instead of the file
        self.lock = threading.Lock()
        self.served_bytes = 0
        self.requests: list[str] = []
        self.paths: list[str] = []
        self.connections_count = 0
        self.slow_starts: dict[int, float] = {}  #: first byte of a range -> bytes per second
        self.open_count = 0
        self.most_open_count = 0
        self.url = ""


@contextmanager
def origin(content: bytes) -> Iterator[Origin]:
    """Serve `content` on loopback."""
    one = Origin(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with one.lock:
                one.connections_count += 1

        def do_GET(self) -> None:
            with one.lock:
                one.requests.append(self.headers.get("Range", ""))
                one.paths.append(self.path)
                status = one.statuses.pop(0) if one.statuses else 0
                one.open_count += 1
                one.most_open_count = max(one.most_open_count, one.open_count)
            try:
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self._send_file()
            except OSError:
                self.close_connection = True
            finally:
                with one.lock:
                    one.open_count -= 1

        def _send_file(self) -> None:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            content = one.contents.get(self.path, one.content)
            start = int(first)
            stop = min(int(last or len(content)) + 1, len(content))
            self.send_response(206)
            self.send_header("ETag", one.etag)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            with one.lock:
                is_stalled = start in one.stalled_starts
                if is_stalled:
                    one.stalled_starts.remove(start)
            if is_stalled:
                self.wfile.flush()
                self.connection.recv(1)  # until the client closes
                raise ConnectionResetError
            for offset in range(start, stop, _BLOCK_BYTES):
                block = content[offset : min(offset + _BLOCK_BYTES, stop)]
                self.wfile.write(block)
                with one.lock:
                    one.served_bytes += len(block)
                bytes_per_second = one.slow_starts.get(start, one.bytes_per_second)
                if bytes_per_second:
                    time.sleep(len(block) / bytes_per_second)
                one.gate.wait(60)

    with serving(Handler) as port:
        one.url = f"http://127.0.0.1:{port}/big.bin"
        try:
            yield one
        finally:
            one.gate.set()
