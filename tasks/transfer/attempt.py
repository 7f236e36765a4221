"""An attempt: what the thread that reads a chunk and whoever watches it know of each other.

The reading thread is blocked in a read most of the time, so it cannot watch a clock. A watcher
reads `done_bytes` from outside and ends the attempt by shutting its connection down.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.transfer.errors import TransferError


class StopReason(enum.StrEnum):
    """Why an attempt was ended from outside."""

    JOB_ENDED = "job ended"  #: cancelled, paused, failed or fenced by a newer generation
    DRAIN = "drain"  #: this worker is going away
    DONE = "done"  #: another worker was quicker
    SLICE = "slice"  #: the time slice is over: somebody else's turn


class AttemptStopped(Exception):
    """The attempt was ended from outside; what it had brought is saved."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Attempt:
    """One try at bringing one chunk; the reader counts, the watcher stops."""

    def __init__(self, name: str) -> None:
        self.name = name  #: unique to whoever holds a lease: one after the other may have it
        self.done_bytes = 0  #: bytes of the part that are written, what earlier attempts left included
        self.resumed_bytes = 0  #: of these, what earlier attempts left
        self.has_begun = False  #: whether it is known what earlier attempts left
        self.bytes_per_second: float | None = None  #: of late, as the watcher measured it
        self.cut_bytes: int | None = None  #: what follows these bytes of the span, another worker fetches
        self.stopped_by: AttemptStopped | TransferError | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def brought_bytes(self) -> int:
        """Bytes that this attempt added."""
        return self.done_bytes - self.resumed_bytes

    def begin_at(self, done_bytes: int) -> None:
        """Count from what earlier attempts left."""
        self.done_bytes = self.resumed_bytes = done_bytes
        self.has_begun = True

    def reads_from(self, connection: socket.socket | None) -> None:
        """Tell the watcher which connection to shut down; `AttemptStopped` if it was stopped before."""
        with self._lock:
            self._socket = connection
        self.check()

    def hand_connection_to(self, other: Attempt) -> None:
        """Let another attempt read the connection on; this one can no longer shut it down."""
        with self._lock:
            connection, self._socket = self._socket, None
        other.reads_from(connection)

    def let_go(self) -> None:
        """The connection is read to its end: another attempt may get it, and must not be shut down with this."""
        with self._lock:
            self._socket = None

    def stop(self, cause: AttemptStopped | TransferError) -> None:
        """End the attempt from another thread: its blocked read returns at once. The first cause stays."""
        with self._lock:
            if self.stopped_by is None:
                self.stopped_by = cause
            if self._socket is not None:
                # The plain socket's shutdown: SSLSocket's own drops the TLS layer, and a reader in
                # another thread would then be handed ciphertext as if it were the file.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise what it was stopped by, if it was stopped."""
        if self.stopped_by is not None:
            raise self.stopped_by
