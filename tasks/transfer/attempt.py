"""An attempt: what the thread that reads a chunk and whoever watches it know of each other.

The reading thread is blocked in a read most of the time, so it cannot watch a clock. A watcher
reads `done_bytes` from outside and ends the attempt by shutting its connection down.
"""

from __future__ import annotations

import contextlib
import enum
import math
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.transfer.errors import TransferError
    from tasks.transfer.pacing import Pace


def uptime_seconds() -> float:
    """A clock that goes on while the host is suspended, where there is one; `time.monotonic` stands still then."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Pulse:
    """Whether this process ran on: somebody beats it, and where the beats stood still for too long, leases are lost.

    Others may be at the same chunk by then, or have published the file.
    """

    def __init__(self, most_seconds: float, *, clock: Callable[[], float] = uptime_seconds) -> None:
        """Take how long the process may stand still, and a clock; without any beat it is never asked."""
        self._most_seconds = most_seconds
        self._clock = clock
        self._beat_seconds = math.inf
        self.stops_count = 0  #: how often the process stood still for too long

    def beat(self) -> None:
        """Say that the process runs."""
        now = self._clock()
        if now - self._beat_seconds > self._most_seconds:
            # Before the beat is noted: whoever goes by that must see this too.
            self.stops_count += 1
        self._beat_seconds = now

    def has_stopped_since(self, stops_count: int) -> bool:
        """Whether the process stood still for too long since `stops_count` was read, up to now."""
        # In this order, see `beat`.
        return self._clock() - self._beat_seconds > self._most_seconds or self.stops_count != stops_count


#: Of a process that holds no lease.
_STEADY = Pulse(math.inf)


class StopReason(enum.StrEnum):
    """Why an attempt was ended from outside."""

    JOB_ENDED = "job ended"  #: cancelled, paused, failed or fenced by a newer generation
    DRAIN = "drain"  #: this worker is going away
    DONE = "done"  #: another worker was quicker
    TAKEN = "taken"  #: another attempt goes on with a copy of what this one had, and has removed that
    SLICE = "slice"  #: the time slice is over: somebody else's turn
    LEASE_LOST = "lease lost"  #: the process stood still for longer than a lease lasts: others may be at it


class AttemptStopped(Exception):
    """The attempt was ended from outside; what it had brought is saved."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Attempt:
    """One try at bringing one chunk; the reader counts, the watcher stops."""

    def __init__(self, name: str, pulse: Pulse = _STEADY) -> None:
        self._pulse = pulse
        self._stops_count = pulse.stops_count
        self.name = name  #: unique to whoever holds a lease: one after the other may have it
        self.done_bytes = 0  #: bytes of the part that are written, what earlier attempts left included
        self.resumed_bytes = 0  #: of these, what earlier attempts left
        self.has_begun = False  #: whether it is known what earlier attempts left
        self.bytes_per_second: float | None = None  #: of late, as the watcher measured it
        self.cut_bytes: int | None = None  #: what follows these bytes of the span, another worker fetches
        self.pace: Pace | None = None  #: holds its reads back; None: nothing does
        self.held_seconds = 0.0  #: for how long it was held back, in all; see `count_held`
        self.held_by_job_seconds = 0.0  #: of these, for how long its job's limit did
        self.stopped_by: AttemptStopped | TransferError | None = None
        # It is held back now, and by its job's limit or not.
        self._held_since: tuple[float, bool] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()

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
            self._stopped.set()
            if self._socket is not None:
                # The plain socket's shutdown: SSLSocket's own drops the TLS layer, and a reader in
                # another thread would then be handed ciphertext as if it were the file.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def hold(
        self,
        seconds: float,
        by_job: bool,  # noqa: FBT001  (a pace calls it)
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have the reading thread wait, because of its job's limit or its host's; raises as `check` does."""
        self._held_since = clock(), by_job
        self._stopped.wait(seconds)
        self.count_held(clock)
        with self._lock:  # see `count_held`: another thread may be at it
            self._held_since = None
        self.check()

    def count_held(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count what has passed of a wait that goes on: until it is over, who is held back looks like who is slow."""
        with self._lock:
            if self._held_since is None:
                return
            now = clock()
            since_seconds, by_job = self._held_since
            self._held_since = now, by_job
            self.held_seconds += now - since_seconds
            if by_job:
                self.held_by_job_seconds += now - since_seconds

    def check(self) -> None:
        """Raise what it was stopped by, if it was stopped."""
        if self.stopped_by is not None:
            raise self.stopped_by
        self.check_lease()

    def check_lease(self) -> None:
        """Ask this right before something is written: `AttemptStopped` if the process stood still for too long."""
        if self.has_lost_lease:
            raise AttemptStopped(StopReason.LEASE_LOST)

    @property
    def has_lost_lease(self) -> bool:
        """Whether the process stood still for longer than a lease lasts since the attempt began."""
        return self._pulse.has_stopped_since(self._stops_count)
