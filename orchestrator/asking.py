"""Asking a worker something that is about no state, and waiting for its answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tasks.transfer.errors import PermanentError, side_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.cluster import Cluster

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


def wait_for_answer(
    cluster: Cluster, token: str, timeout_seconds: float | None, *, on_look: Callable[[], object]
) -> str | None:
    """Wait for the answer to the question of this name; None: it did not come in time.

    Args:
        cluster: who was asked.
        token: names the question.
        timeout_seconds: how long to wait at most; None: as long as it takes.
        on_look: called about once a second.

    Raises:
        RedisError: Redis cannot be reached.
    """
    began_seconds = time.monotonic()
    while (text := cluster.records.take_answer(token, _LOOK_SECONDS)) is None:
        if timeout_seconds is not None and time.monotonic() - began_seconds > timeout_seconds:
            return None
        cluster.check_stack()
        on_look()
    return text
