"""Proof: what receipts and checkpoints vouch for, and whether the bytes are still what they say.

A host that crashes loses what was not synced, and a file may then have its length and zeros in it. So what was not
synced is read, and its CRC32C decides. Receipts that this host wrote since its start are believed without: reading
them all would be reading the file. A checkpoint is of one chunk at most, and is always read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.transfer.digests import crc32c
from tasks.transfer.manifest import Checkpoint, LayoutName, Proven, Receipt, Span
from tasks.transfer.volume.files import read_blocks, read_whole, size_bytes_now, this_boot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tasks.transfer.manifest import Chunk, Manifest, PartState


SHARED_FILE_NAME = "shared"


def prove(folder: Path, manifest: Manifest, chunk: Chunk) -> Proven:
    """What the receipts of a chunk prove; one that does not fit the plan, or whose file is not so long, nothing."""
    receipts: list[Receipt] = []
    done_bytes = 0
    while done_bytes != chunk.length_bytes:
        receipt = standing_receipt(folder, manifest, Span(chunk.number, done_bytes))
        if receipt is None:
            return Proven(tuple(receipts), is_whole=False)
        if chunk.length_bytes is None:
            return Proven((receipt,), is_whole=True)
        if not 0 < receipt.length_bytes <= chunk.length_bytes - done_bytes:
            return Proven(tuple(receipts), is_whole=False)
        receipts.append(receipt)
        done_bytes += receipt.length_bytes
    return Proven(tuple(receipts), is_whole=True)


def standing_receipt(folder: Path, manifest: Manifest, span: Span) -> Receipt | None:
    """The receipt of what begins where a span does, if the file that it names is there; None: there is no such."""
    receipt = _read_receipt(folder, stem_of(span.number, span.start))
    if receipt is None or receipt.start != span.start or not _is_there(folder, manifest, receipt):
        return None
    return receipt


def has_receipt(folder: Path, number: int, start: int, file_name: str) -> bool:
    """Whether the receipt of what begins there is of this file."""
    receipt = _read_receipt(folder, stem_of(number, start))
    return receipt is not None and receipt.file_name == file_name


def refute(
    folder: Path, manifest: Manifest, chunk: Chunk, *, check: Callable[[], object] = lambda: None
) -> bool:
    """Remove the receipts of a chunk that the bytes on the volume do not bear out; whether there were any.

    What `check` raises, asked now and then, ends it.
    """
    is_refuted = False
    for receipt in prove(folder, manifest, chunk).receipts:
        is_shared = manifest.layout is LayoutName.SHARED
        offset = chunk.start + receipt.start if is_shared else 0
        if not vouches_truly(receipt, folder / receipt.file_name, offset, check=check):
            (folder / f"{stem_of(chunk.number, receipt.start)}.receipt").unlink(missing_ok=True)
            is_refuted = True
    return is_refuted


def refuse(folder: Path, receipts: Iterable[Receipt], *, generation: int) -> bool:
    """Take back receipts whose bytes are not on the volume any more; their chunks are missing then.

    Returns:
        Whether one of these chunks was refused in an earlier generation too.
    """
    was_refused = False
    for receipt in receipts:
        ending = f".{generation}.refused"
        # Not those of this generation: a merge whose message came twice may be at the same.
        was_refused |= any(
            not path.name.endswith(ending) for path in folder.glob(f"{receipt.number:05d}.*refused")
        )
        stem = stem_of(receipt.number, receipt.start)
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{stem}.receipt").replace(folder / f"{stem}{ending}")
    return was_refused


def vouches_truly(
    state: PartState, path: Path, offset: int, *, check: Callable[[], object] = lambda: None
) -> bool:
    """Whether the bytes at `offset` of a file are those that a state vouches for; read only where they may be lost."""
    if path.stat().st_size < offset + state.length_bytes:
        return False
    if state.is_synced or (
        isinstance(state, Receipt) and state.boot is not None and state.boot == this_boot()
    ):
        return True
    crc = 0
    for block in read_blocks(path, offset, state.length_bytes, from_disk=True):
        check()
        crc = crc32c(block, crc)
    return crc == state.crc32c


def kept_bytes(folder: Path, manifest: Manifest, chunk: Chunk) -> int:
    """How much of a chunk need not be fetched, by what receipts and checkpoints say."""
    proven = prove(folder, manifest, chunk)
    if proven.is_whole:
        return proven.length_bytes
    checkpoint = read_checkpoint(folder, stem_of(chunk.number, proven.length_bytes))
    return proven.length_bytes + (checkpoint.length_bytes if checkpoint else 0)


def read_checkpoint(folder: Path, stem: str) -> Checkpoint | None:
    """The last checkpoint of a span, or None if there is none that can be read."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Checkpoint.model_validate_json(read_whole(folder / f"{stem}.checkpoint"))
    return None


def stem_of(number: int, start: int) -> str:
    """What the names of a span's files begin with."""
    return f"{number:05d}.{start}" if start else f"{number:05d}"


def _read_receipt(folder: Path, stem: str) -> Receipt | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Receipt.model_validate_json(read_whole(folder / f"{stem}.receipt"))
    return None


def _is_there(folder: Path, manifest: Manifest, receipt: Receipt) -> bool:
    if manifest.layout is LayoutName.SHARED:
        return receipt.file_name == SHARED_FILE_NAME
    try:
        return size_bytes_now(folder / receipt.file_name) == receipt.length_bytes
    except FileNotFoundError:
        return False
