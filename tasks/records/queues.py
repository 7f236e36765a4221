"""How many messages wait in Celery's lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The lists behind the queue of chunks. Workers take from each in turn: in one list, a chunk that was sent behind a
#: thousand others would wait for all of them.
CHUNKS_LISTS = ("chunks", *(f"chunks.{number}" for number in range(1, 8)))
#: What messages say of their priority, by its rank: there is a list for each of them, and that of 0 goes first.
MESSAGE_PRIORITIES = (0, 3, 6)

#: The header of messages that says when they were sent, in seconds since the epoch.
SENT_AT = "sent_at"

#: How kombu names the list of a queue's messages of a priority other than 0.
_SEPARATOR = "\x06\x16"


def list_key(prefix: str, queue: str, priority: int) -> str:
    """The key of a queue's list of one priority."""
    return f"{prefix}{queue}{_SEPARATOR}{priority}" if priority else f"{prefix}{queue}"


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
                    pipe.llen(list_key(self.prefix, queue, priority))
            pipe.hlen(f"{self.prefix}unacked")
            *counts, taken_count = pipe.execute()
        each = len(priorities)
        return [sum(counts[first : first + each]) for first in range(0, len(counts), each)], taken_count
