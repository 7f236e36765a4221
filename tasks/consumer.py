"""Celery's consumer, with one difference: what it tells Flower of tasks, it tells a little later and together."""

from __future__ import annotations

import time
from typing import Any

from tasks.reconnecting import ReconnectingConsumer

#: Celery publishes events each time its loop comes round, in the thread that takes messages. A chunk's task has three:
#: of 64 chunks that were sent at once, each began that much later.
_LATE_SECONDS = 0.1


class EventGatheringConsumer(ReconnectingConsumer):
    """Publishes the events of tasks ten times a second, or when there are 24."""

    hub: Any
    _flush_events: Any
    _due_seconds = 0.0  # when those that wait are published

    def on_send_event_buffered(self) -> Any:
        """Have the events published that wait; called by any thread."""
        # A time, not a flag: timers are forgotten when the connection breaks, and a flag would stand for ever.
        now = time.monotonic()
        if self.hub and now >= self._due_seconds:
            self._due_seconds = now + _LATE_SECONDS
            # Timers are the loop's own: other threads may not set them.
            self.hub.call_soon(self.hub.call_later, _LATE_SECONDS, self._flush_events)
