"""What the tests' own HTTP servers have in common: a port, a thread for each connection, and silence."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], *, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve on an address of this machine; yields the port."""

    class Quiet(handler):
        def log_message(self, *_: object) -> None:
            pass

    server = _Server((address, 0), Quiet)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
