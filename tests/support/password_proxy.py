"""A forward proxy for plain HTTP that wants a password, as small as it can be."""

from __future__ import annotations

import base64
import http.client
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from support.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def password_proxy(user: str, password: str) -> Iterator[int]:
    """A proxy on loopback; yields its port."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Proxy-Authorization") != expected:
                self.send_error(407)
                return
            url = urlsplit(self.path)
            origin = http.client.HTTPConnection(url.netloc, timeout=30)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("proxy-authorization", "connection", "proxy-connection")
            }
            try:
                origin.request(
                    "GET",
                    urlunsplit(("", "", url.path, url.query, "")),
                    headers={**headers, "Connection": "close"},
                )
                # As it comes, faults included: the connection to the origin is read, not its answer.
                while data := origin.sock.recv(65536):
                    self.wfile.write(data)
            except OSError:
                pass
            finally:
                origin.close()

    with serving(Handler) as port:
        yield port
