"""An origin in a process of its own that gets into trouble when it is told to, and keeps books of what it served.

``/<kind>/<size>/<seed>``: so many bytes that follow from the seed. Kinds:

    plain    ranges and a strong ETag
    dated    ranges and Last-Modified only
    bare     ranges, and nothing that tells two versions apart
    whole    a strong ETag, and no ranges
    unsized  a strong ETag, no ranges, and an end that is not told before

``POST /trouble/<kind>/<seconds>`` has it be in trouble for so long; ``GET /books`` says what it served so far.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from support.tools import end, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TROUBLES = ("reset", "truncate", "stall", "busy")
_BLOCK_BYTES = 16 * 1024
_DATE = "Wed, 01 Jul 2020 10:00:00 GMT"
#: Of the connections that are made while the origin is in trouble, so many feel it.
_TROUBLED_SHARE = 0.6


@lru_cache(maxsize=256)
def content_of(size_bytes: int, seed: int) -> bytes:
    """What is served under a path."""
    return random.Random(seed).randbytes(size_bytes)


def sha256_of(size_bytes: int, seed: int) -> str:
    return hashlib.sha256(content_of.__wrapped__(size_bytes, seed)).hexdigest()


class _Books:
    """What was served, and what trouble there is."""

    def __init__(self, bytes_per_second: float) -> None:
        self.lock = threading.Lock()
        self.bytes_per_second = bytes_per_second
        self.served_bytes: Counter[str] = Counter()  #: by path; bodies only
        self.requests_count = 0
        self.troubled_count = 0  #: answers that trouble broke
        self.trouble, self.trouble_ends_seconds, self.trouble_number = "", 0.0, 0

    def present_trouble(self) -> tuple[str, int]:
        with self.lock:
            is_over = time.monotonic() >= self.trouble_ends_seconds
            return ("", 0) if is_over else (self.trouble, self.trouble_number)

    def begin_trouble(self, kind: str, seconds: float) -> None:
        with self.lock:
            self.trouble, self.trouble_ends_seconds = kind, time.monotonic() + seconds
            self.trouble_number += 1

    def as_json(self) -> bytes:
        with self.lock:
            return json.dumps(
                {
                    "served_bytes": self.served_bytes,
                    "requests_count": self.requests_count,
                    "troubled_count": self.troubled_count,
                }
            ).encode()


class _Handler(BaseHTTPRequestHandler):
    books: ClassVar[_Books]
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        # What waits in a large buffer would be in the books though nobody ever read it.
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        _, _, kind, seconds = self.path.split("/")
        self.books.begin_trouble(kind, float(seconds))
        self._answer(b"")

    def do_GET(self) -> None:
        try:
            if self.path == "/books":
                self._answer(self.books.as_json())
            else:
                self._send_file()
        except OSError:
            self.close_connection = True

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self) -> None:
        with self.books.lock:
            self.books.requests_count += 1
        trouble, number = self.books.present_trouble()
        is_spared = trouble != "" and random.random() > _TROUBLED_SHARE
        if trouble == "busy" and not is_spared:
            self._note_trouble()
            self._answer(b"", 503)
            return
        _, kind, size, seed = self.path.split("/")
        content = content_of(int(size), int(seed))
        start, stop = self._send_head(kind, len(content))
        self.wfile.flush()
        self._send_body(content, start, stop, spared=number if is_spared else -1, chunked=kind == "unsized")

    def _send_head(self, kind: str, size_bytes: int) -> tuple[int, int]:
        asked = self.headers.get("Range", "")
        start, stop, status = 0, size_bytes, 200
        if asked and kind in ("plain", "dated", "bare"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last or size_bytes) + 1, size_bytes), 206
        if status == 206 and start >= size_bytes:
            start, stop, status = 0, 0, 416
        self.send_response(status)
        if kind in ("plain", "whole", "unsized"):
            self.send_header("ETag", f'"{self.path}"')
        elif kind == "dated":
            self.send_header("Last-Modified", _DATE)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size_bytes}")
        elif status == 416:
            self.send_header("Content-Range", f"bytes */{size_bytes}")
        if kind == "unsized":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        return start, stop

    def _send_body(self, content: bytes, start: int, stop: int, *, spared: int, chunked: bool) -> None:
        began_seconds, sent_bytes = time.monotonic(), 0
        for offset in range(start, stop, _BLOCK_BYTES):
            if self._is_broken_off(spared):
                return
            block = content[offset : min(offset + _BLOCK_BYTES, stop)]
            due_seconds = began_seconds + sent_bytes / self.books.bytes_per_second
            time.sleep(max(0.0, due_seconds - time.monotonic()))
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
            sent_bytes += len(block)
            with self.books.lock:
                self.books.served_bytes[self.path] += len(block)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _is_broken_off(self, spared: int) -> bool:
        trouble, number = self.books.present_trouble()
        if not trouble or number == spared or trouble == "busy":
            return False
        self._note_trouble()
        if trouble == "stall":
            while self.books.present_trouble() == (trouble, number):
                time.sleep(0.1)
            return False
        self.close_connection = True
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # A socket's own close() waits for the files made of it, and the server would send a FIN before.
            os.close(self.connection.detach())
        return True

    def _note_trouble(self) -> None:
        with self.books.lock:
            self.books.troubled_count += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class ChaosOrigin:
    """The origin, from outside."""

    address: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=20)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def get_into_trouble(self, kind: str, seconds: float) -> None:
        self.ask("POST", f"/trouble/{kind}/{seconds}")

    def served_bytes(self) -> dict[str, int]:
        """How many bytes of bodies went out, by path."""
        found: dict[str, int] = json.loads(self.ask("GET", "/books"))["served_bytes"]
        return found


@contextmanager
def chaos_origin(folder: Path, address: str, *, bytes_per_second: float) -> Iterator[ChaosOrigin]:
    """Run one on an address of this machine; each connection brings so many bytes per second."""
    port_file = folder / "origin.port"
    with (folder / "origin.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.chaos_origin", address, str(bytes_per_second), str(port_file)],
            cwd=Path(__file__).parent.parent,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, what="the origin listening")
        assert process.poll() is None, (folder / "origin.log").read_text()
        yield ChaosOrigin(address, int(port_file.read_text()))
    finally:
        end(process)


def main(address: str, bytes_per_second: str, port_file: str) -> None:
    """Serve until SIGTERM; the port is in the file when it listens."""
    handler = type("Handler", (_Handler,), {"books": _Books(float(bytes_per_second))})
    server = _Server((address, 0), handler)
    written = Path(port_file).with_suffix(".new")
    written.write_text(str(server.server_port))
    written.rename(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
