"""The server behind `/healthz` and `/metrics`: as much of HTTP as they need, and bounds on all that an asker may do."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, TypeVar

from orchestrator.exposition import CONTENT_TYPE, Seen, text_of
from tasks import metrics
from tasks.app import CHUNKS_QUEUE, CONTROL_QUEUE, MERGE_QUEUE
from tasks.host import records_of
from tasks.records.queues import CHUNKS_LISTS
from tasks.settings import CONNECTIONS, CONNECTIONS_EACH_HOST
from tasks.transfer.errors import TransferError
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.board import Board
    from tasks.records import ClusterFigures
    from tasks.settings import Settings

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")

#: Askers at a time; the next ones are turned away. Each may take so long over its request, and over its answer.
_MOST_ASKERS = 256
_REQUEST_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_MOST_HEAD_BYTES = 16 * 1024
#: What is not asked anew in so short a time, whoever asks.
_FRESH_SECONDS = 1.0
#: What has not answered by then is away. Prometheus waits ten seconds for all of it.
_PATIENCE_SECONDS = 3.0

_LISTS = {CONTROL_QUEUE: (CONTROL_QUEUE,), MERGE_QUEUE: (MERGE_QUEUE,), CHUNKS_QUEUE: CHUNKS_LISTS}


class Asked(Generic[_Value]):
    """What may hang when it is asked for: one thread asks, and nobody waits longer than `_PATIENCE_SECONDS`."""

    def __init__(self, what: str, ask: Callable[[], _Value | None]) -> None:
        """Take what it is, and how to ask; None is its answer that it does not apply."""
        self._what, self._ask_for = what, ask
        self._is_away = False
        self._thread = ThreadPoolExecutor(1)
        self._asking: asyncio.Future[_Value | None] | None = None
        self._value: _Value | None = None
        self._fresh_until = 0.0

    async def get(self) -> _Value | None:
        """The answer, no older than `_FRESH_SECONDS`; None if there is none in time."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._fresh_until:
            return self._value
        if self._asking is None or self._asking.done():
            # What came when nobody waited any more may be old.
            self._asking = loop.run_in_executor(self._thread, self._ask)
        try:
            self._value = await asyncio.wait_for(asyncio.shield(self._asking), _PATIENCE_SECONDS)
        except TimeoutError:
            # It hangs, and is not asked a second time meanwhile.
            return None
        self._fresh_until = loop.time() + _FRESH_SECONDS
        return self._value

    def _ask(self) -> _Value | None:
        try:
            value = self._ask_for()
        except Exception as error:  # noqa: BLE001  (what Redis has may be damaged; the worker's own counts are shown)
            if not self._is_away:
                told = error if isinstance(error, TransferError) else type(error).__name__
                logger.warning("%s not measured error=%s", self._what, told)
            self._is_away = True
            return None
        self._is_away = False
        return value


class _Server:
    def __init__(self, board: Board, settings: Settings, *, serves_control: bool) -> None:
        self._board, self._settings, self._serves_control = board, settings, serves_control
        timeout_seconds = min(settings.redis_timeout_seconds, _PATIENCE_SECONDS)
        self._records = records_of(settings.model_copy(update={"redis_timeout_seconds": timeout_seconds}))
        self._volume = Volume(settings.volume.absolute())
        self._figures = Asked("cluster", self._ask_redis)
        self._space = Asked("volume", self._volume.space)
        self._version = importlib.metadata.version("manyhands")
        self._askers_count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, and close it."""
        self._askers_count += 1
        try:
            if self._askers_count <= _MOST_ASKERS:
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # an asker who says nothing that makes sense, or went away
        finally:
            self._askers_count -= 1
            # Not `close`: what an asker does not read would stay in memory for as long as it likes.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        try:
            status, kind, body = await self._page(method, path)
        except Exception:
            logger.exception("page not made path=%s", path)
            status, kind, body = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "text/plain",
                b"The worker's log says why.\n",
            )
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        writer.transport.set_write_buffer_limits(high=0)
        writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body))
        async with asyncio.timeout(_ANSWER_SECONDS):
            await writer.drain()  # until the kernel has it all

    async def _page(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"Only GET and HEAD.\n"
        if path == "/healthz":
            return self._health()
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE, await self._metrics()
        return HTTPStatus.NOT_FOUND, "text/plain", b"Here are /metrics and /healthz.\n"

    def _health(self) -> tuple[HTTPStatus, str, bytes]:
        vitals = self._board.vitals()
        problems = [
            f"{each.name} (process {each.pid or 'none'}) {each.problem}" for each in vitals if each.problem
        ]
        page = {
            "is_healthy": not problems,
            "problems": problems,
            "processes": [
                {
                    "name": each.name,
                    "pid": each.pid,
                    "is_well": each.is_well,
                    "still_seconds": round(each.still_seconds, 1),
                }
                for each in vitals
            ],
        }
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return status, "application/json", json.dumps(page, indent=2).encode() + b"\n"

    async def _metrics(self) -> bytes:
        space, figures = await asyncio.gather(self._space.get(), self._figures.get())
        return text_of(
            Seen(
                worker=self._settings.host_name or socket.gethostname(),
                version=self._version,
                tally=metrics.merged(self._board.texts()),
                vitals=self._board.vitals(),
                space=space,
                serves_control=self._serves_control,
                figures=figures,
                limits=self._limits(figures),
            )
        )

    def _limits(self, figures: ClusterFigures | None) -> dict[str, int]:
        """How many connections there may be to each origin, for jobs that do not say otherwise."""
        found: dict[str, int] = {}
        if figures is None:
            return found
        usual = self._settings.connections or max(CONNECTIONS, CONNECTIONS_EACH_HOST * figures.hosts_count)
        for origin, each in figures.origins.items():
            own = self._settings.origins.get(origin)
            limits = [own.connections if own else None, each.allowed_count]
            found[origin] = min([usual, *(one for one in limits if one is not None)])
        return found

    def _ask_redis(self) -> ClusterFigures | None:
        return self._records.cluster_figures(_LISTS) if self._serves_control else None


def serve(listener: socket.socket, board: Board, settings: Settings, *, serves_control: bool) -> None:
    """Serve until this process is ended."""
    server = _Server(board, settings, serves_control=serves_control)

    async def run() -> None:
        started = await asyncio.start_server(server.answer, sock=listener, limit=_MOST_HEAD_BYTES)
        with contextlib.suppress(asyncio.CancelledError):
            await started.serve_forever()

    asyncio.run(run())
