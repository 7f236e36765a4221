"""What a process has completed of late, so that it can say so again.

A Redis that is replaced by its replica, or that crashes, has lost its last writes. Of jobs that go on the volume has
all; of one that is complete there is only the file, and it would fail: its parts are gone, and its name is taken.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.records import NewJob

#: Seen: 10 s until a master that was replaced on demand lost its clients. What they had told it until then is gone.
_SECONDS = 120.0
_MOST_COUNT = 500


@dataclass(frozen=True, slots=True)
class Completion:
    """A job that is complete, and what its record says of that."""

    new: NewJob
    created_at: float
    destination: str
    fields: Mapping[str, str | int]
    at_seconds: float  #: by the clock


class Completions:
    """The last ones of a process; any thread may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: OrderedDict[str, Completion] = OrderedDict()

    def add(
        self, new: NewJob, *, created_at: float, destination: str, fields: Mapping[str, str | int]
    ) -> None:
        """Take note of a job that is complete."""
        now = self._clock()
        with self._lock:
            self._last.pop(new.job_id, None)
            self._last[new.job_id] = Completion(new, created_at, destination, dict(fields), now)
            while (
                len(self._last) > _MOST_COUNT or next(iter(self._last.values())).at_seconds < now - _SECONDS
            ):
                self._last.popitem(last=False)

    def recent(self) -> list[Completion]:
        """Those of late, the oldest first."""
        since = self._clock() - _SECONDS
        with self._lock:
            return [each for each in self._last.values() if each.at_seconds >= since]
