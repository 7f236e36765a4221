"""Celery's events of a cluster, gathered by a real receiver."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.app import make_app
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.cluster import Cluster


class Gathered:
    """What was received; tasks are named by the events that carry a name."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def of(self, kind: str, task: str) -> list[dict[str, Any]]:
        """The events of one kind about one task."""
        ids = {event["uuid"] for event in self.events if event.get("name") == task}
        return [event for event in self.events if event["type"] == kind and event["uuid"] in ids]


@contextmanager
def gather_events(cluster: Cluster) -> Iterator[Gathered]:
    """Gather all task events that happen within."""
    app = make_app(Settings(redis_url=cluster.redis.url))
    gathered, ready, over = Gathered(), threading.Event(), threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": gathered.events.append})
            ready.set()
            while not over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield gathered
    finally:
        over.set()
        thread.join(10)
        app.close()
