"""Messages: what is shown of them, how one comes back, and what it means that one cannot be sent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from tasks.records import RedisAway, RedisError
from tasks.records.queues import MESSAGE_PRIORITIES
from tasks.records.refusals import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.transfer.manifest import Priority

#: A message must come back before the visibility timeout; longer waits are made of several.
LONGEST_COUNTDOWN_SECONDS = 60.0


def urgency(priority: Priority) -> dict[str, Any]:
    """What a message of a job of this priority is sent with."""
    return {"priority": MESSAGE_PRIORITIES[priority.rank]}


def shown_as(text: str) -> dict[str, Any]:
    """What Flower shows of a message in place of its arguments, which say little to a person."""
    return {"argsrepr": f"({text})", "kwargsrepr": "{}"}


@contextmanager
def sending_errors() -> Iterator[None]:
    """Within, a message that cannot be sent is a `RedisAway`, or, if Redis refuses it, a `RedisError`."""
    try:
        yield
    except OperationalError as error:
        refused = refusal(error)
        if refused:
            raise RedisError(f"The job could not be sent: Redis {refused}") from None
        # Not its text: that may carry the URL of Redis with its password.
        raise RedisAway(f"The job could not be sent through Redis ({type(error).__name__}).") from None


def is_redelivered(task: Any) -> bool:
    """Whether the message of a running task was delivered before: that worker may have died, or may be at it."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def again(task: Any, args: tuple[Any, ...], seconds: float, cause: Exception | None = None) -> Exception:
    """Send the message of a running task again; what to raise then, which tells Celery what became of it.

    If it cannot be sent, the old one is given back, and comes at once when Redis is there again.

    Args:
        task: the task, bound.
        args: its arguments from now on.
        seconds: when it is to come back.
        cause: why.
    """
    # Celery does not hand the readable arguments on to a retry by itself.
    shown = {"argsrepr": task.request.argsrepr, "kwargsrepr": task.request.kwargsrepr}
    try:
        retry: Exception = task.retry(
            args=args, kwargs={}, exc=cause, countdown=seconds, throw=False, **shown
        )
    except Reject:
        # What Celery raises if it could not be sent, and that one would drop the message.
        return Reject("not sent again", requeue=True)
    return retry
