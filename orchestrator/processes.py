"""Child processes: started so that they end with their parent, kept running, and ended in order."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_SHORT_GRACE_SECONDS = 1.0
#: A child that ran this long is no longer taken to fail at its start.
_GOOD_RUN_SECONDS = 60.0


class Child(Protocol):
    """A running process; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Forked:
    """A function in a forked process: it shares the pages of what its parent has imported."""

    def __init__(self, name: str, target: Callable[[], object]) -> None:
        self._process = multiprocessing.get_context("fork").Process(
            target=_in_child, args=(target, os.getpid()), name=name
        )
        # Blocked around the fork: a signal that comes before the child has handlers of its own would be
        # swallowed by the parent's, and the child run on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel send this process SIGTERM when its parent is gone, however that came to be.

    Args:
        parent_pid: the parent's, taken before the fork: it may be gone already, and no signal would come then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            os._exit(1)


def _in_child(target: Callable[[], object], parent_pid: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    # A session of its own: Ctrl-C in a terminal goes to the parent, which ends its children in order.
    os.setsid()
    end_with_parent(parent_pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    target()


@dataclass
class Service:
    """A process that is to be kept running."""

    name: str
    start: Callable[[], Child]
    is_vital: bool = False  #: its end ends all the others; another service's end only restarts it
    hopeless_exit_code: int | None = None  #: with this it says that another start would end the same
    child: Child | None = field(default=None, init=False)
    began_seconds: float = field(default=0.0, init=False)
    pause_seconds: float = field(default=_FIRST_PAUSE_SECONDS, init=False)
    resumes_seconds: float = field(default=0.0, init=False)


class VitalServiceEnded(Exception):
    """A service that the others cannot do without has ended; the argument is its name."""


class GaveUp(VitalServiceEnded):
    """A service has ended and said that another start would end the same; the argument is its name."""


class Supervisor:
    """Starts services in order, restarts what dies, and ends them in the reverse order."""

    def __init__(
        self,
        services: list[Service],
        *,
        grace_seconds: float = 15.0,
        before_vital_end: Callable[[], object] = lambda: None,
        at_look: Callable[[list[Service]], object] = lambda _: None,
    ) -> None:
        """Take the services, how to end them, and what to do when all but the vital ones have ended.

        Args:
            services: in the order of their start.
            grace_seconds: how long they may take to end in order; 0: they are killed at once.
            before_vital_end: called when all but the vital services have ended.
            at_look: called with the services after each look at them, twice a second and when one has ended.
        """
        self._services = services
        self._grace_seconds = grace_seconds
        self._before_vital_end = before_vital_end
        self._at_look = at_look

    def run(self, *, parent_pipe: int | None = None) -> None:
        """Run until SIGTERM, SIGINT, or the end of `parent_pipe`.

        Raises:
            VitalServiceEnded: a service that is vital ended, or one gave up; the others were ended too.
        """
        with _signals_as_bytes() as signals:
            grace_seconds = self._grace_seconds
            try:
                is_to_end = False
                while not is_to_end:
                    self._keep_running()
                    self._at_look(self._services)
                    is_to_end = _wait(signals, parent_pipe, seconds=0.5)
            except VitalServiceEnded:
                # The others cannot end in order without it: a worker would go on telling a Redis that is gone.
                grace_seconds = _SHORT_GRACE_SECONDS
                raise
            finally:
                self._stop(signals, grace_seconds)

    def _keep_running(self) -> None:
        now = time.monotonic()
        for service in self._services:
            if service.child is None and now >= service.resumes_seconds:
                service.child, service.began_seconds = service.start(), now
            if service.child is None or service.child.poll() is None:
                continue
            if service.is_vital:
                raise VitalServiceEnded(service.name)
            if service.child.poll() == service.hopeless_exit_code:
                raise GaveUp(service.name)
            ran_seconds = now - service.began_seconds
            if ran_seconds > _GOOD_RUN_SECONDS:
                service.pause_seconds = _FIRST_PAUSE_SECONDS
            logger.warning(
                "process ended name=%s exit=%s, to be started again in %.0f s",
                service.name,
                service.child.poll(),
                service.pause_seconds,
            )
            service.child = None
            service.resumes_seconds = now + service.pause_seconds
            service.pause_seconds = min(service.pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _stop(self, signals: int, grace_seconds: float) -> None:
        # First what works, then what it works with: a worker gives its chunks back to Redis.
        for is_vital in (False, True):
            if is_vital:
                self._before_vital_end()
            children = [s.child for s in self._services if s.child is not None and s.is_vital is is_vital]
            if grace_seconds > 0:
                for child in children:
                    child.terminate()
            ends_seconds = time.monotonic() + grace_seconds
            while any(child.poll() is None for child in children) and time.monotonic() < ends_seconds:
                _wait(signals, None, seconds=0.2)
            for child in children:
                if child.poll() is None:
                    child.kill()
            while any(child.poll() is None for child in children):
                _wait(signals, None, seconds=0.2)


@contextlib.contextmanager
def _signals_as_bytes() -> Iterator[int]:
    """Within, SIGTERM, SIGINT and SIGCHLD are bytes on the file descriptor that is yielded."""
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in _FORWARDED}
    wakeup_before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(receiver)
        os.close(sender)


def _wait(signals: int, parent_pipe: int | None, *, seconds: float) -> bool:
    """Wait for a signal or the parent's end; whether that asks to end."""
    watched = [signals] if parent_pipe is None else [signals, parent_pipe]
    ready, _, _ = select.select(watched, [], [], seconds)
    if signals in ready and {signal.SIGTERM, signal.SIGINT}.intersection(os.read(signals, 256)):
        return True
    return parent_pipe in ready and parent_pipe is not None and not os.read(parent_pipe, 256)
