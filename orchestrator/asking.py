"""Asking a worker something that is about no state, and waiting for its answer."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from tasks.jobs import Answer
from tasks.transfer.errors import JobTimedOut, PermanentError, side_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster import Cluster

_Value = TypeVar("_Value", bound=BaseModel)

#: How long one call of Redis waits for an answer.
_LOOK_SECONDS = 1.0


class NotAnswered(PermanentError):
    """What a worker was asked for could not be done: the code of an error, and its sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.sentence = sentence
        self.side = side_of(code)

    def __str__(self) -> str:
        """Say why."""
        return self.sentence


def ask(
    cluster: Cluster,
    task: str,
    subject: str,
    *more: str | float,
    kind: type[_Value],
    late: str,
    timeout_seconds: float | None,
    on_look: Callable[[], object],
) -> _Value:
    """Ask a worker, and wait for its answer.

    Args:
        cluster: who is asked.
        task: that answers; it takes the subject, a token, and what is in `more`.
        subject: what it is about.
        more: arguments besides.
        kind: what the answer is.
        late: what to say if there is none in time, after "within so many seconds".
        timeout_seconds: how long to wait at most; None: as long as it takes.
        on_look: called about once a second.

    Raises:
        NotAnswered: it could not be done, or not in time.
        RedisError: Redis cannot be reached.
    """
    token = secrets.token_hex(16)
    cluster.send(task, subject, subject, token, *more)
    began_seconds = time.monotonic()
    while (text := cluster.records.take_answer(token, _LOOK_SECONDS)) is None:
        if timeout_seconds is not None and time.monotonic() - began_seconds > timeout_seconds:
            raise NotAnswered(
                JobTimedOut.__name__, f"{late} within {timeout_seconds:g} seconds. Is there a worker?"
            )
        cluster.check_stack()
        on_look()
    answer = Answer[kind].model_validate_json(text)  # type: ignore[valid-type]
    if answer.error is not None:
        raise NotAnswered(answer.error.code, answer.error.message)
    if answer.value is None:
        raise AssertionError("an answer is a value or an error")
    return answer.value
