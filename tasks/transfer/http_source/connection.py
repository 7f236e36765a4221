"""Connections that a watcher can shut down, in one pool for the whole process.

A blocked read cannot look at a clock, and requests offers no handle on the socket in use. So each
connection tells the attempt of its thread which socket it reads from. The pool outlives chunks:
the next chunk of the same origin finds a connection that is open already.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.contrib.socks import (
    SOCKSConnection,
    SOCKSHTTPConnectionPool,
    SOCKSHTTPSConnection,
    SOCKSHTTPSConnectionPool,
)
from urllib3.exceptions import (
    ConnectTimeoutError,
    HeaderParsingError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util.response import assert_header_parsing

from tasks.transfer.http_source.outgoing import NoWayOut, Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.transfer.attempt import Attempt

#: Hosts whose connections are kept, and connections kept for each; more are opened, and closed after use.
_KEPT_HOSTS = 32
_KEPT_CONNECTIONS = 64

_SOCKS_PORT = 1080

_INTERIM_STATUSES = frozenset({102, 103})

_of_thread = threading.local()

# Its debug lines and its warnings have the URL with its query, which may be a signed link.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@contextlib.contextmanager
def watched_by(attempt: Attempt) -> Iterator[None]:
    """Within, connections that this thread uses are known to `attempt`."""
    _of_thread.attempt = attempt
    try:
        yield
    finally:
        _of_thread.attempt = None


def _announce(connection: HTTPConnection) -> None:
    attempt: Attempt | None = getattr(_of_thread, "attempt", None)
    if attempt is not None:
        attempt.reads_from(connection.sock)


class _LineReader(io.BufferedReader):
    """Remembers the last line that was read."""

    last_line = b""

    def readline(self, size: int | None = -1, /) -> bytes:
        self.last_line = super().readline(-1 if size is None else size)
        return self.last_line


class _WholeHead(http.client.HTTPResponse):
    """A response whose head was read to its end.

    http.client takes the end of the connection for the end of the head, and drops the headers behind a line that is
    none. Without its Content-Length, whatever came of the body would then pass for the whole file.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = self._lines = _LineReader(self.fp.detach())

    def begin(self) -> None:
        super().begin()
        # Hints of what will be answered (RFC 9110, section 15.2): http.client knows 100 only.
        while self.status in _INTERIM_STATUSES:
            self.headers = None  # type: ignore[assignment]  # makes it read another head
            super().begin()
        if self._lines.last_line not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(self._lines.last_line)
        try:
            assert_header_parsing(self.headers)
        except HeaderParsingError as error:
            raise http.client.HTTPException("a line of the head is no header") from error


class _Watched(HTTPConnection):
    """Tells the attempt of its thread which socket it reads from, and takes whole heads only.

    It leaves this host from where its pool says, in place of a source address.
    """

    response_class = _WholeHead

    @property
    def _first_hop(self) -> str:
        """The host that it connects to; the setter changes that for the connect alone."""
        return self._dns_host

    @_first_hop.setter
    def _first_hop(self, host: str) -> None:
        self._dns_host = host

    @property
    def _first_port(self) -> int:
        return self.port

    def _new_conn(self) -> socket.socket:
        outgoing = self.source_address
        if not isinstance(outgoing, Outgoing):
            return super()._new_conn()
        before = self._first_hop, self.socket_options
        failed: Exception | None = None
        try:
            for hop, bound in outgoing.hops(self._first_hop, self._first_port):
                self._first_hop, self.source_address = hop, bound
                self.socket_options = [*(before[1] or ()), *outgoing.socket_options]
                try:
                    return super()._new_conn()
                except (NewConnectionError, ConnectTimeoutError) as error:
                    failed = error
        except socket.gaierror as error:
            raise NameResolutionError(before[0], self, error) from error
        except NoWayOut as error:
            raise NewConnectionError(self, error.strerror) from error
        finally:
            (self._first_hop, self.socket_options), self.source_address = before, outgoing
        raise failed or NewConnectionError(self, "no address")

    def connect(self) -> None:
        super().connect()
        _announce(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _announce(self)  # a kept connection does not connect again
        super().request(*args, **kwargs)


class _WatchedHTTPSConnection(_Watched, HTTPSConnection):
    pass


class _WatchedSOCKSConnection(_Watched, SOCKSConnection):
    @property
    def _first_hop(self) -> str:
        return str(self._socks_options["proxy_host"])

    @_first_hop.setter
    def _first_hop(self, host: str) -> None:
        # All connections of a pool have one dictionary.
        self._socks_options = {**self._socks_options, "proxy_host": host}

    @property
    def _first_port(self) -> int:
        return int(self._socks_options["proxy_port"] or _SOCKS_PORT)


class _WatchedSOCKSHTTPSConnection(_WatchedSOCKSConnection, SOCKSHTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection


class _SOCKSPool(SOCKSHTTPConnectionPool):
    ConnectionCls = _WatchedSOCKSConnection


class _SOCKSHTTPSPool(SOCKSHTTPSConnectionPool):
    ConnectionCls = _WatchedSOCKSHTTPSConnection


_POOLS: dict[str, Any] = {"http": _HTTPPool, "https": _HTTPSPool}
_SOCKS_POOLS = {"http": _SOCKSPool, "https": _SOCKSHTTPSPool}


class _WatchedAdapter(HTTPAdapter):
    """The pools of connections that leave from one place."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._source: dict[str, Any] = {} if outgoing == Outgoing() else {"source_address": outgoing}
        super().__init__(pool_connections=_KEPT_HOSTS, pool_maxsize=_KEPT_CONNECTIONS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **{**kwargs, **self._source})
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **{**kwargs, **self._source})
        is_socks = str(args[0] if args else kwargs["proxy"]).lower().startswith("socks")
        manager.pool_classes_by_scheme = _SOCKS_POOLS if is_socks else _POOLS
        return manager


_adapters: dict[Outgoing, _WatchedAdapter] = {}
_making = threading.Lock()


def new_session(outgoing: Outgoing) -> requests.Session:
    """A session with its own cookies on the connections that the process shares. Do not close it."""
    with _making:
        adapter = _adapters.get(outgoing)
        if adapter is None:
            adapter = _adapters[outgoing] = _WatchedAdapter(outgoing)
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
