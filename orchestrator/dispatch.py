"""Sending a plan: one Celery task for each chunk as a chord's header, the merge as its body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from orchestrator.planner import MIB
from tasks.app import app
from tasks.fetch import fetch_chunk
from tasks.merge import merge_parts
from tasks.messages import shown_as

if TYPE_CHECKING:
    from tasks.transfer.manifest import Chunk, Manifest


def send(manifest: Manifest, chunks: list[Chunk]) -> None:
    """Send these chunks of a plan, and the merge to follow; with no chunks, the merge alone.

    Messages carry the job's id, the generation and a number. What Flower shows of them is made here.
    """
    merge = merge_parts.si(manifest.job_id, manifest.generation).set(
        **shown_as(f"{manifest.destination}, {manifest.chunks_count} parts")
    )
    if not chunks:
        merge.apply_async()
        return
    # What `chord(header)(merge)` does, less one thing: that makes a result object for each header task, and
    # each of these subscribes to a channel that nobody here reads. A process that plans for days would
    # collect them: 338 after a job of 300 chunks.
    group_id = uuid()
    app.backend.set_chord_size(group_id, len(chunks))
    with app.producer_or_acquire() as producer:
        for index, chunk in enumerate(chunks):
            of_chord: dict[str, Any] = {"group_id": group_id, "group_index": index, "chord": merge}
            fetch_chunk.apply_async(
                (manifest.job_id, manifest.generation, chunk.number),
                producer=producer,
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
