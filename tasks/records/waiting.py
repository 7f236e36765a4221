"""Which jobs a message of Celery's is for: protocol 2, as kombu's Redis transport stores it."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

#: So long after its time a message may still be on its way: the worker that has it is busy, or its clock is another.
_LATE_SECONDS = 5


def jobs_of(text: str, tasks: Collection[str]) -> list[str]:
    """The jobs that a message in a queue is for, if it is of one of these tasks; none in what makes no sense."""
    return _jobs_of(_parsed(text), tasks)


def later_jobs_of(text: str, tasks: Collection[str], now: float) -> list[str]:
    """The same of a message that a worker has, if its time comes, or came just before `now` (since the epoch)."""
    delivery = _parsed(text)  # the message, its exchange, its routing key
    message: Any = delivery[0] if isinstance(delivery, list) and delivery else None
    try:
        eta = message["headers"]["eta"]
        since = now - _LATE_SECONDS
        is_later = isinstance(eta, str) and datetime.fromisoformat(eta).astimezone(UTC).timestamp() > since
    except (KeyError, TypeError, ValueError, OverflowError):
        return []
    return _jobs_of(message, tasks) if is_later else []


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _jobs_of(message: Any, tasks: Collection[str]) -> list[str]:
    try:
        if message["headers"]["task"] not in tasks:
            return []
        first = json.loads(base64.b64decode(message["body"]))[0][0]
        return [each for each in (first if isinstance(first, list) else [first]) if isinstance(each, str)]
    except (binascii.Error, ValueError, KeyError, IndexError, TypeError):
        return []
