"""How many messages wait in Celery's lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How kombu names the list of a queue's messages of a priority other than 0.
_SEPARATOR = "\x06\x16"


class Queues(Client):
    """The lists of messages, and those that workers have and did not acknowledge."""

    def shortest(self, queues: Sequence[str], priorities: Sequence[int]) -> list[str]:
        """Of these queues those with the fewest messages."""
        lengths, _ = self._lengths(queues, priorities)
        least = min(lengths)
        return [queue for queue, length in zip(queues, lengths, strict=True) if length == least]

    def waiting_counts(self, queues: Sequence[str], priorities: Sequence[int]) -> tuple[int, int]:
        """How many messages of these queues wait, and how many are with workers: running, or to be looked at later."""
        lengths, taken_count = self._lengths(queues, priorities)
        return sum(lengths), taken_count

    def _lengths(self, queues: Sequence[str], priorities: Sequence[int]) -> tuple[list[int], int]:
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                for priority in priorities:
                    pipe.llen(
                        f"{self.prefix}{queue}{_SEPARATOR}{priority}" if priority else f"{self.prefix}{queue}"
                    )
            pipe.hlen(f"{self.prefix}unacked")
            *counts, taken_count = pipe.execute()
        each = len(priorities)
        return [sum(counts[first : first + each]) for first in range(0, len(counts), each)], taken_count
