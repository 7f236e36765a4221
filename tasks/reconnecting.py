"""Celery's consumer, made to outlive its connection to Redis.

Celery's own (5.7) ends the whole worker process when Redis goes away while messages are unacknowledged: closing the
broken connection tries to put them back, on a channel that is half closed, and what that raises is not caught. So does
an acknowledgement that comes later, on the channel that its message came by. And what waited for its time in the
worker is forgotten, until the visibility timeout is over.

A message's tag means the same on every connection. So what a thread still works on is acknowledged on the connection
that there is by then, and what no thread works on goes back to its queue as soon as there is one.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerShutdown
from celery.signals import worker_shutting_down
from celery.utils.dispatch import Signal
from celery.worker import state
from celery.worker.consumer import Consumer

from tasks.records.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Sent when a connection stands again, before messages are taken: the Redis behind it may be another one, or have lost
#: its last writes.
reconnected = Signal()

#: The exit code of a worker that Redis refuses: another attempt with the same settings would end the same.
REFUSED_EXIT_CODE = 5

#: How long a worker waits between attempts to reach Redis. Celery's own pause grows to half a minute, in which a Redis
#: that is back has nobody to work for it.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1, 5
#: How long a worker is back before it takes messages. Those that are at work have reported by then what they brought
#: meanwhile, and have their leases again: their spans look left to whoever comes before, and are fetched twice.
_REPORTS_SECONDS = 2.0
#: How long an acknowledgement waits that Redis did not take.
_SETTLE_AGAIN_SECONDS = 1.0


class ReconnectingConsumer(Consumer):
    """Goes on with what its threads are at while Redis is away, and takes up the rest when it is back."""

    hub: Any
    connection: Any
    task_consumer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Tags of messages that are done with, and that Redis does not know it of.
        self._settling: set[str] = set()
        self._orphaned: set[str] = set()  #: tags of messages that came by a connection that broke
        super().__init__(*args, **kwargs)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give up a connection that broke, without putting back into the queue what threads are at."""
        _end_if_refused(exc)
        if self.task_consumer is not None:
            channel = self.task_consumer.channel
            channel.do_restore = False
            self._orphaned.update(channel.qos._delivered)  # noqa: SLF001
        try:
            super().on_connection_error_after_connected(exc)
        except Exception:
            # It would end the process, and with it what its threads are fetching.
            logger.exception("broken connection not closed")

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, for as long as it takes."""

        def tell(error: Exception, seconds: float) -> None:
            _end_if_refused(error)
            # By way of another Sentinel it is tried at once.
            if seconds > 0:
                logger.warning(
                    "Redis not reached cause=%s, next attempt in %.0f s", type(error).__name__, seconds
                )

        conn.ensure_connection(
            tell,
            interval_start=_FIRST_PAUSE_SECONDS,
            interval_step=1,
            interval_max=_LONGEST_PAUSE_SECONDS,
            callback=state.maybe_shutdown,
        )
        self.first_connection_attempt = False
        return conn

    def connect(self) -> Any:
        """Connect, and when it is not for the first time, let those at work report first."""
        connection = super().connect()
        if self.restart_count > 0:
            reconnected.send(sender=self)
            time.sleep(_REPORTS_SECONDS)
        return connection

    def on_ready(self) -> None:
        """Put back what the last connection left, when a new one stands."""
        super().on_ready()
        qos = self.task_consumer.channel.qos
        running = {request.message.delivery_tag for request in tuple(state.active_requests)}
        while self._orphaned:
            tag = next(iter(self._orphaned))
            # Nothing happens with one that was acknowledged, or that Redis has lost or given back meanwhile.
            if tag not in running and tag not in self._settling:
                qos.restore_by_tag(tag)
            self._orphaned.discard(tag)

    def call_soon_ack(self, p: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        """Have a message acknowledged or rejected by the loop; called by any thread.

        Args:
            p: a method of the message.
            args: of the method.
            kwargs: of the method.
        """
        message: Any = p.__self__  # type: ignore[attr-defined]
        self._settling.add(message.delivery_tag)
        settle = functools.partial(p, *args, **kwargs)
        return self.hub.call_soon(self._settle, message, settle)

    def _settle(self, message: Any, settle: Callable[[], object]) -> None:
        """Acknowledge or reject on the connection that there is now; later, if there is none."""
        if self.connection is not None:
            message.channel = self.task_consumer.channel
            try:
                settle()
            except Exception as error:  # noqa: BLE001  (the loop would end, and the process with it)
                logger.warning("message not settled cause=%s", type(error).__name__)
        if message.acknowledged:
            self._settling.discard(message.delivery_tag)
        else:
            self.hub.call_later(_SETTLE_AGAIN_SECONDS, self._settle, message, settle)


def _end_if_refused(error: Exception) -> None:
    """End the worker in order if Redis refuses it: it would ask for ever, and nobody would see why nothing is done.

    Who has changed a password starts it again with the new one: the settings of a process do not change.
    """
    refused = refusal(error)
    if refused:
        logger.critical("Redis %s This worker ends.", refused)
        worker_shutting_down.send(sender=None, sig=None, how="Warm", exitcode=REFUSED_EXIT_CODE)
        raise WorkerShutdown(REFUSED_EXIT_CODE)
