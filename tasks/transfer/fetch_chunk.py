"""Use case: bring one chunk onto the volume, from the byte where an earlier attempt left off."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.transfer.errors import TooLarge
from tasks.transfer.http_source import Identity
from tasks.transfer.manifest import Span
from tasks.transfer.ranges import ByteRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.transfer.attempt import Attempt
    from tasks.transfer.http_source import Body, Source
    from tasks.transfer.manifest import Chunk, Manifest, Proven
    from tasks.transfer.volume import JobFolder, PartWriter


@dataclass(frozen=True, slots=True)
class Brought:
    """What an attempt ended with."""

    proven: Proven  #: what is there of the chunk
    by_worker: dict[str, int]  #: bytes of the span by who brought them; empty: not known


def fetch_chunk(
    source: Source,
    folder: JobFolder,
    manifest: Manifest,
    chunk: Chunk,
    attempt: Attempt,
    worker: str,
    *,
    span: Span | None = None,
    opened: Body | None = None,
) -> Brought:
    """Bring one chunk, or a span of it.

    Whatever ends it early, what it brought is saved first: the next attempt, on any worker, goes on there.

    Args:
        source: the file at its origin.
        folder: the job's folder.
        manifest: the plan.
        chunk: which of its chunks.
        attempt: counts the bytes, and may be stopped from another thread.
        worker: who fetches, as the receipt names it.
        span: what of the chunk is wanted; None: all that its receipts do not prove.
        opened: the answer to the probe, where that has the chunk's first bytes.

    Returns:
        What is there of the chunk then, whoever brought it, and what the span's receipt says.

    Raises:
        TransferError: see its groups. AttemptStopped: the attempt was stopped.
    """
    proven = folder.proven(manifest, chunk)
    if proven.is_whole:
        # Of the span, not of the chunk: each span's bytes are counted once.
        start = span.start if span else 0
        own = [each for each in proven.receipts if each.start == start]
        attempt.begin_at(sum(each.length_bytes for each in own))
        # Told again: who brought it may have been fenced off before it could say so.
        return Brought(proven, own[0].brought_bytes if own else {})
    span = span or Span(chunk.number, proven.length_bytes)
    with folder.open_part(manifest, chunk, span, check_lease=attempt.check_lease) as part:
        if not manifest.honours_ranges or opened is not None:
            # The stream can only be had from its first byte.
            part.start_over()
        attempt.begin_at(part.done_bytes)
        try:
            while not part.is_whole:
                with opened or _open_rest(source, manifest, chunk, span, part, attempt) as body:
                    _write_body(body, part, attempt, manifest, worker)
                opened = None
                if chunk.length_bytes is None:
                    break
        except BaseException:
            if manifest.honours_ranges:
                part.save(worker)
            raise
        receipt = part.complete(worker)
    return Brought(folder.proven(manifest, chunk), receipt.brought_bytes)


def keep_beginning(
    folder: JobFolder,
    manifest: Manifest,
    chunk: Chunk,
    body: Body,
    attempt: Attempt,
    worker: str,
    *,
    most_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Save the answer to the probe as the beginning of the first chunk, and leave the rest to its task.

    What has not come within `most_seconds` is left too: the chunk's task waits for this.
    """
    ends_seconds = clock() + most_seconds
    with folder.open_part(manifest, chunk, check_lease=attempt.check_lease) as part:
        part.start_over()
        attempt.begin_at(0)
        try:
            with body:
                for block in body.blocks():
                    # The chunk may be smaller than what the probe asked for.
                    part.write(block[: (chunk.length_bytes or 0) - part.done_bytes])
                    attempt.done_bytes = part.done_bytes
                    if part.is_whole or clock() > ends_seconds:
                        break
        finally:
            part.save(worker)


def _write_body(body: Body, part: PartWriter, attempt: Attempt, manifest: Manifest, worker: str) -> None:
    # Only a stream of unknown length can exceed it; what states its length was refused by the plan.
    most_bytes = manifest.spec.max_size_bytes if manifest.size_bytes is None else None
    for block in body.blocks():
        if most_bytes is not None and part.done_bytes + len(block) > most_bytes:
            raise TooLarge(manifest.source_name, part.done_bytes + len(block), most_bytes)
        if attempt.cut_bytes is not None:
            part.cut_to(attempt.cut_bytes)
        left_bytes = part.left_bytes
        part.write(block if left_bytes is None else block[:left_bytes])
        attempt.done_bytes = part.done_bytes
        if manifest.honours_ranges:
            part.keep_pace(worker)
        if left_bytes is not None and len(block) > left_bytes:
            return  # cut short: what follows, another worker fetches


def _open_rest(
    source: Source, manifest: Manifest, chunk: Chunk, span: Span, part: PartWriter, attempt: Attempt
) -> Body:
    identity = Identity(manifest.size_bytes, manifest.validator, manifest.spec.strict)
    if not manifest.honours_ranges or chunk.range is None:
        return source.open_whole(identity, attempt, decodes=manifest.content_coding is not None)
    rest = ByteRange(
        chunk.start + span.start + part.done_bytes, chunk.start + span.start + (part.length_bytes or 0)
    )
    return source.open(rest, identity, attempt)
