"""The board: memory that a worker's processes share, where each says that it runs and what it has counted.

It belongs to no file and is gone with the processes. The supervisor has a line on it and so has each of its children;
who serves `/healthz` and `/metrics` reads them. Nobody waits for anybody: a process that is killed while it writes
leaves what it wrote before.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.processes import Service

logger = logging.getLogger(__name__)

SUPERVISOR = "supervisor"

_BEAT_SECONDS = 1.0
#: A process that has not beaten for so long is stopped, or hangs. Much longer than a busy machine has anybody wait.
STILL_SECONDS = 20.0
#: A process that ended is started again; one that is not back, and stays, for so long is not well.
_AWAY_SECONDS = 30.0
#: So long it has to stay.
_SETTLED_SECONDS = 10.0

#: Threads without which a process does not do its work, and which never end before it does.
_VITAL_THREADS = ("watch", "sweep")

# One line: numbers of 8 bytes, then two texts, of which one is the present one while the other is written.
_HEAD_BYTES = 64
TEXT_BYTES = 512 * 1024  #: room for all that may be counted; pages that nobody writes to take no memory
_LINE_BYTES = _HEAD_BYTES + 2 * TEXT_BYTES
_BEAT, _BEGAN, _AWAY_SINCE = range(3)  # times of the machine's clock; 0: never
# The length: of the present text, and in its last bit which it is.
_PID, _STARTS, _LOST_THREADS, _LENGTH = range(3, 7)


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a process is."""

    name: str
    pid: int | None  #: None: it does not run
    still_seconds: float  #: since its last beat
    starts_count: int
    problem: str | None  #: why it is not well, as a sentence's end

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.problem is None


class Board:
    """Lines of several processes; made before they are forked."""

    def __init__(self, names: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the names of the supervisor's children, and a clock that all processes share."""
        self._names = [SUPERVISOR, *names]
        self._clock = clock
        self._memory = mmap.mmap(-1, _LINE_BYTES * len(self._names))
        view = memoryview(self._memory)
        # One store each: nobody reads half a number.
        self._floats, self._ints = view.cast("d"), view.cast("q")

    def note(self, services: Sequence[Service]) -> None:
        """Say how the children are; the supervisor does, at each look at them. It beats by that."""
        now = self._clock()
        self._set_float(0, _BEAT, now)
        self._set_int(0, _PID, os.getpid())
        for service in services:
            if service.name in self._names:
                self._note(self._names.index(service.name), service.child.pid if service.child else 0, now)

    def _note(self, line: int, pid: int, now: float) -> None:
        if pid != self._int(line, _PID):
            self._set_int(line, _PID, pid)
            if pid:
                self._set_float(line, _BEGAN, now)
                self._set_float(line, _BEAT, now)
                self._set_int(line, _LOST_THREADS, 0)
                self._set_int(line, _STARTS, self._int(line, _STARTS) + 1)
            elif not self._float(line, _AWAY_SINCE):
                self._set_float(line, _AWAY_SINCE, now)
        # One that ends again at once was away all the time.
        if pid and now - self._float(line, _BEGAN) >= _SETTLED_SECONDS:
            self._set_float(line, _AWAY_SINCE, 0.0)

    def enter(self, name: str) -> None:
        """Beat from now on, and go on counting where the last process of this name was: a child does, at its start."""
        line = self._names.index(name)
        metrics.begin(self._text(line))
        threading.Thread(target=self._run, args=(line,), name="beat", daemon=True).start()

    def _run(self, line: int) -> None:
        seen = dict.fromkeys(_VITAL_THREADS, 0)
        while True:
            self._beat(line, seen)
            time.sleep(_BEAT_SECONDS)

    def _beat(self, line: int, seen: dict[str, int]) -> None:
        running = [thread.name for thread in threading.enumerate()]
        is_whole = threading.main_thread().is_alive()
        for name, most in seen.items():
            seen[name] = max(most, running.count(name))
            is_whole = is_whole and running.count(name) == seen[name]
        self._set_int(line, _LOST_THREADS, not is_whole)
        self._set_float(line, _BEAT, self._clock())
        text = metrics.take()
        if text is not None:
            self._put_text(line, text)

    def texts(self) -> list[bytes]:
        """What all processes have counted."""
        return [self._text(line) for line in range(len(self._names))]

    def vitals(self) -> list[Vitals]:
        """How all processes are, the supervisor first."""
        now = self._clock()
        return [self._vitals(line, now) for line in range(len(self._names))]

    def _vitals(self, line: int, now: float) -> Vitals:
        pid, still_seconds = self._int(line, _PID), max(0.0, now - self._float(line, _BEAT))
        away_since = self._float(line, _AWAY_SINCE)
        away_seconds = now - away_since if away_since else 0.0
        problem = None
        if away_seconds > _AWAY_SECONDS:
            problem = f"ends again and again, for {away_seconds:.0f} s"
        elif pid and still_seconds > STILL_SECONDS:
            problem = f"has stood still for {still_seconds:.0f} s"
        elif pid and self._int(line, _LOST_THREADS):
            problem = "has lost a thread"
        starts_count = self._int(line, _STARTS)
        return Vitals(self._names[line], pid or None, still_seconds, starts_count, problem)

    def _text(self, line: int) -> bytes:
        while True:
            which = self._int(line, _LENGTH)
            length, half = divmod(which, 2)
            begin = self._text_begin(line, half)
            text = self._memory[begin : begin + length]
            # Who is stopped for seconds in between finds the half written anew.
            if which == self._int(line, _LENGTH):
                return text

    def _put_text(self, line: int, text: bytes) -> None:
        if len(text) > TEXT_BYTES:
            logger.error("counts not shown bytes=%d", len(text))
            return
        half = 1 - self._int(line, _LENGTH) % 2
        begin = self._text_begin(line, half)
        self._memory[begin : begin + len(text)] = text
        self._set_int(line, _LENGTH, 2 * len(text) + half)

    @staticmethod
    def _text_begin(line: int, half: int) -> int:
        return line * _LINE_BYTES + _HEAD_BYTES + half * TEXT_BYTES

    def _float(self, line: int, field: int) -> float:
        return self._floats[line * _LINE_BYTES // 8 + field]

    def _set_float(self, line: int, field: int, value: float) -> None:
        self._floats[line * _LINE_BYTES // 8 + field] = value

    def _int(self, line: int, field: int) -> int:
        return self._ints[line * _LINE_BYTES // 8 + field]

    def _set_int(self, line: int, field: int, value: int) -> None:
        self._ints[line * _LINE_BYTES // 8 + field] = value
