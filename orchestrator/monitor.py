"""The monitor: what a worker's host asks and Prometheus reads, `/healthz` and `/metrics`.

It has a process of its own beside the Celery processes: nobody who asks, however often or slowly, holds anything up but
other askers. The supervisor opens the port, so that one that is taken is told at the start.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from orchestrator.board import Board
from orchestrator.processes import Forked, Service
from tasks.transfer.errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.settings import Settings

_BACKLOG = 64


class Monitor:
    """What watches a worker's processes; made before they are."""

    def __init__(self, settings: Settings, *, serves_control: bool) -> None:
        """Listen.

        Args:
            settings: which say where.
            serves_control: whether the worker tells of the whole cluster, too.

        Raises:
            BadOption: the settings name no port, or one where nobody can listen.
        """
        self._settings = settings
        self._serves_control = serves_control
        self._listener = _listen(settings)
        self._board: Board | None = None

    def over(self, services: list[Service]) -> list[Service]:
        """The services to run: these, and the one that serves."""
        self._board = Board([service.name for service in services])
        return [*services, Service("monitor", lambda: Forked("monitor", self._serve))]

    def look(self, services: Sequence[Service]) -> None:
        """Take note of how the services are; called by their supervisor, which is known to live by that."""
        if self._board is not None:
            self._board.note(services)

    def enter(self, name: str) -> None:
        """Have the process of a service be watched; called in it, at its start."""
        # Who starts a worker again at once would find the port taken, for as long as this process takes to end.
        self._listener.close()
        if self._board is not None:
            self._board.enter(name)

    def _serve(self) -> None:
        # Here, in the process that needs them: they are some megabytes.
        from orchestrator.monitor_server import serve

        if self._board is not None:
            serve(self._listener, self._board, self._settings, serves_control=self._serves_control)


def _listen(settings: Settings) -> socket.socket:
    port, address = settings.metrics_port, settings.metrics_address
    if port is None:
        raise BadOption("ORCHESTRATOR_METRICS_PORT is not set: there is nothing to listen on.")
    try:
        family, _, _, _, where = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=_BACKLOG)
    except (socket.gaierror, UnicodeError):
        raise BadOption(f"ORCHESTRATOR_METRICS_ADDRESS is {address[:60]!r}, which is no address.") from None
    except OSError as error:
        hint = "ORCHESTRATOR_METRICS_ADDRESS is to be an address of this host."
        if error.errno == errno.EADDRINUSE:
            hint = (
                "Is another worker running on this host? Give each an ORCHESTRATOR_METRICS_PORT of its own."
            )
        reason = os.strerror(error.errno or 0).lower()
        raise BadOption(f"Metrics cannot be served on {address} port {port} ({reason}). {hint}") from None
