"""An origin that gives each connection a rate, and every so manieth a tenth of it; run as a script.

nginx limits a response, not a connection, and gives each a second's worth at once: 64 ranges of 4 MiB at
4 MB/s are there immediately. Here the kernel paces what a socket sends (SO_MAX_PACING_RATE), whatever is
asked over it.

SIGUSR1 closes all connections and counts from the first again, so that every run meets the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: From asm-generic/socket.h; Python's socket has no name for it.
_SO_MAX_PACING_RATE = 47
#: Which one of so many is slow. Not the first: that one is the probe of some clients.
_SLOW_NUMBER = 3
_SLOWER = 10
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, documents: Path, port: int, rate: int, slow_one_in: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.documents, self.rate, self.slow_one_in = documents, rate, slow_one_in
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._count = 0

    def take_in(self, connection: socket.socket) -> None:
        """Give a connection its number, and with that its rate."""
        with self._lock:
            number, self._count = self._count, self._count + 1
            self._sockets.add(connection)
        is_slow = self.slow_one_in and number % self.slow_one_in == _SLOW_NUMBER % self.slow_one_in
        rate = self.rate // _SLOWER if is_slow else self.rate
        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)

    def let_go(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(connection)

    def begin_again(self, *_: object) -> None:
        # Not under the lock: a signal's handler runs in the main thread, which never holds it, but others may.
        threading.Thread(target=self._begin_again, daemon=True).start()

    def _begin_again(self) -> None:
        with self._lock:
            self._count = 0
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _is_counted = False

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        # At the first request: whoever only looks whether the port listens has no number.
        if not self._is_counted:
            self._is_counted = True
            self.server.take_in(self.connection)
        path = self.server.documents / Path(self.path).name
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            start, stop = self._range(size_bytes)
            self._send_head(file.fileno(), start, stop, size_bytes)
            if with_body:
                self._send_body(file.fileno(), start, stop)

    def _range(self, size_bytes: int) -> tuple[int, int]:
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or not match[1]:
            return 0, size_bytes
        return int(match[1]), min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes

    def _send_head(self, file: int, start: int, stop: int, size_bytes: int) -> None:
        modified_seconds = os.fstat(file).st_mtime
        is_range = "Range" in self.headers
        self.send_response(206 if is_range else 200)
        if is_range:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size_bytes}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{modified_seconds:.0f}-{size_bytes:x}"')
        self.send_header("Last-Modified", formatdate(modified_seconds, usegmt=True))
        self.end_headers()

    def _send_body(self, file: int, start: int, stop: int) -> None:
        try:
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file, start, stop - start)
        except OSError:  # the client has what it wants, or the run is over
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True
        finally:
            self.server.let_go(self.connection)

    def log_message(self, *_: object) -> None:
        """Say nothing: the log is for errors."""


def _main(documents: str, port: str, rate: str, slow_one_in: str) -> None:
    server = _Server(Path(documents), int(port), int(rate), int(slow_one_in))
    signal.signal(signal.SIGUSR1, server.begin_again)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    _main(*sys.argv[1:])
