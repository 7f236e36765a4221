"""Sending a plan: one Celery task for each chunk as a chord's header, the merge as its body."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from orchestrator.planner import MIB
from tasks.app import app, lists_for
from tasks.fetch import fetch_chunk
from tasks.merge import merge_parts
from tasks.messages import sending_errors, shown_as, urgency
from tasks.records.queues import CHUNKS_LISTS, MESSAGE_PRIORITIES

if TYPE_CHECKING:
    from tasks.records import Records
    from tasks.transfer.manifest import Chunk, Manifest, Priority


#: A plan of many chunks is not sent while more messages than this wait, of its priority or a higher one: Redis would
#: have to keep those of all jobs.
_MOST_WAITING_COUNT = 2_000
#: Nor while workers have more than this, for each priority that the plan's is not below: they look at those that found
#: all connections taken from time to time.
_MOST_TAKEN_COUNT = 2_000


def has_room(records: Records, priority: Priority) -> bool:
    """Whether there is room for many messages of this priority; `RedisError` if that cannot be asked."""
    waiting_count, taken_count = records.waiting_counts(CHUNKS_LISTS, MESSAGE_PRIORITIES[: priority.rank + 1])
    most_taken_count = _MOST_TAKEN_COUNT * (len(MESSAGE_PRIORITIES) - priority.rank)
    return waiting_count <= _MOST_WAITING_COUNT and taken_count <= most_taken_count


def send(records: Records, manifest: Manifest, chunks: list[Chunk]) -> None:
    """Send these chunks of a plan, and the merge to follow; with no chunks, the merge alone.

    Messages carry the job's id, the generation and a number. What Flower shows of them is made here.

    Raises:
        RedisError: something of that could not be sent.
    """
    # Celery's own count of the chord is written with redis-py, its messages are sent with kombu.
    with records.translated(), sending_errors():
        _send(records, manifest, chunks)


def _send(records: Records, manifest: Manifest, chunks: list[Chunk]) -> None:
    urgent = urgency(manifest.spec.priority)
    merge = merge_parts.si(manifest.job_id, manifest.generation).set(
        **urgent, **shown_as(f"{manifest.destination}, {manifest.chunks_count} parts")
    )
    if not chunks:
        merge.apply_async()
        return
    # What `chord(header)(merge)` does, less one thing: that makes a result object for each header task, and
    # each of these subscribes to a channel that nobody here reads. A process that plans for days would
    # collect them: 338 after a job of 300 chunks.
    group_id = uuid()
    app.backend.set_chord_size(group_id, len(chunks))
    queue = random.choice(records.shortest(lists_for(len(chunks)), MESSAGE_PRIORITIES))
    # Before they are: who begins one says so, and that must not be said before.
    records.sent(manifest.job_id, manifest.spec.priority, manifest.origin)
    with app.producer_or_acquire() as producer:
        for index, chunk in enumerate(chunks):
            of_chord: dict[str, Any] = {"group_id": group_id, "group_index": index, "chord": merge}
            fetch_chunk.apply_async(
                (manifest.job_id, manifest.generation, chunk.number),
                producer=producer,
                queue=queue,
                **urgent,
                **of_chord,
                **shown_as(describe(manifest, chunk)),
            )


def describe(manifest: Manifest, chunk: Chunk) -> str:
    """A chunk for people, such as ``debian.iso 17/64, 544-576 MiB``; numbered from 0 as everywhere."""
    whole = f"{manifest.destination} {chunk.number}/{manifest.chunks_count}"
    if chunk.range is None:
        return f"{whole}, all of it"
    return f"{whole}, {_mib(chunk.range.start)}-{_mib(chunk.range.stop)} MiB"


def _mib(offset: int) -> str:
    return f"{offset / MIB:.2f}".rstrip("0").rstrip(".")
