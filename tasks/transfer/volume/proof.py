"""Proof: what receipts and checkpoints vouch for, and whether the bytes are still what they say.

A host that crashes loses what was not synced, and a file may then have its length and zeros in it. So what was not
synced is read, and its CRC32C decides. Receipts that this host wrote since its start are believed without: reading
them all would be reading the file. A checkpoint is of one chunk at most, and is always read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.transfer.digests import crc32c
from tasks.transfer.manifest import Checkpoint, LayoutName, Proven, Receipt
from tasks.transfer.volume.files import this_boot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.transfer.manifest import Chunk, Manifest, PartState

_READ_BYTES = 1024 * 1024


def prove(folder: Path, manifest: Manifest, chunk: Chunk) -> Proven:
    """What the receipts of a chunk prove; one that does not fit the plan, or whose file is not so long, nothing."""
    receipts: list[Receipt] = []
    done_bytes = 0
    while done_bytes != chunk.length_bytes:
        receipt = _read_receipt(folder, stem_of(chunk.number, done_bytes))
        if receipt is None or receipt.start != done_bytes:
            return Proven(tuple(receipts), is_whole=False)
        if manifest.layout is LayoutName.PARTS and not _is_there(folder, receipt):
            return Proven(tuple(receipts), is_whole=False)
        if chunk.length_bytes is None:
            return Proven((receipt,), is_whole=True)
        if not 0 < receipt.length_bytes <= chunk.length_bytes - done_bytes:
            return Proven(tuple(receipts), is_whole=False)
        receipts.append(receipt)
        done_bytes += receipt.length_bytes
    return Proven(tuple(receipts), is_whole=True)


def refute(folder: Path, manifest: Manifest, chunk: Chunk) -> bool:
    """Remove the receipts of a chunk that the bytes on the volume do not bear out; whether there were any."""
    is_refuted = False
    for receipt in prove(folder, manifest, chunk).receipts:
        is_shared = manifest.layout is LayoutName.SHARED
        offset = chunk.start + receipt.start if is_shared else 0
        if not vouches_truly(receipt, folder / receipt.file_name, offset):
            (folder / f"{stem_of(chunk.number, receipt.start)}.receipt").unlink(missing_ok=True)
            is_refuted = True
    return is_refuted


def vouches_truly(state: PartState, path: Path, offset: int) -> bool:
    """Whether the bytes at `offset` of a file are those that a state vouches for; read only where they may be lost."""
    if path.stat().st_size < offset + state.length_bytes:
        return False
    if state.is_synced or (
        isinstance(state, Receipt) and state.boot is not None and state.boot == this_boot()
    ):
        return True
    crc = 0
    for block in blocks_of(path, offset, state.length_bytes):
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
        return Checkpoint.model_validate_json((folder / f"{stem}.checkpoint").read_bytes())
    return None


def stem_of(number: int, start: int) -> str:
    """What the names of a span's files begin with."""
    return f"{number:05d}.{start}" if start else f"{number:05d}"


def blocks_of(path: Path, offset: int, length_bytes: int) -> Iterator[bytes]:
    """So many bytes of a file in order, fewer if it ends before."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while length_bytes and (block := file.read(min(_READ_BYTES, length_bytes))):
            yield block
            length_bytes -= len(block)


def _read_receipt(folder: Path, stem: str) -> Receipt | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Receipt.model_validate_json((folder / f"{stem}.receipt").read_bytes())
    return None


def _is_there(folder: Path, receipt: Receipt) -> bool:
    try:
        return (folder / receipt.file_name).stat().st_size == receipt.length_bytes
    except FileNotFoundError:
        return False
