"""Celery's events of a cluster, gathered by a real receiver."""

from __future__ import annotations

import contextlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.tools import wait_until
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
    gathered, over = Gathered(), threading.Event()

    def receive() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": gathered.events.append})
            # One subscription for the whole time: what happens between two would be lost.
            with receiver.consumer_context(wakeup=False) as (own_connection, _, _):
                while not over.is_set():
                    with contextlib.suppress(TimeoutError):
                        own_connection.drain_events(timeout=0.2)

    def is_heard() -> bool:
        with app.connection_for_write() as connection:
            app.events.Dispatcher(connection).send("test-is-gathered")
        return bool(gathered.events)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        # Redis keeps no event for one who subscribes later.
        wait_until(is_heard, what="the events being heard")
        yield gathered
    finally:
        over.set()
        thread.join(10)
        app.close()
