"""One attempt writing one part: into the shared file at its offset, or into a file of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from tasks.transfer.digests import crc32c
from tasks.transfer.manifest import Checkpoint, LayoutName, PartState, Proven, Receipt, Span
from tasks.transfer.volume.files import volume_errors, write_all, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from tasks.transfer.manifest import Chunk, Manifest

SHARED_FILE_NAME = "shared"


class PartWriter:
    """Writes a span of a part from where an earlier attempt's checkpoint ends; a context manager.

    Two attempts at one chunk never harm each other: in the shared file both write the same bytes at the
    same offsets (a strong validator says so), and a part's own file is nobody else's. Each
    receipt names its file, so whichever receipt is written last is true.
    """

    def __init__(self, folder: Path, manifest: Manifest, chunk: Chunk, span: Span | None = None) -> None:
        """Open the span, all of the chunk if none is given, and take over what its last checkpoint vouches for."""
        self._folder = folder
        self._span = span or Span(chunk.number)
        stop = self._span.stop if self._span.stop is not None else chunk.length_bytes
        #: How much the span has when it is whole; None: it is not known before its end.
        self.length_bytes = None if stop is None else stop - self._span.start
        self._sync = manifest.spec.sync
        self._is_shared = manifest.layout is LayoutName.SHARED
        # Of chance: an attempt may come back to a span that it left, and a receipt may vouch for what it wrote then.
        self._own_name = f"{self._stem}.{secrets.token_hex(6)}"
        self._file_name = SHARED_FILE_NAME if self._is_shared else self._own_name
        self._is_vouched_for = False  # whether a checkpoint or a receipt names the part's own file
        with volume_errors(folder, needed_bytes=chunk.length_bytes or 0):
            checkpoint = self._take_over(read_checkpoint(folder, self._stem))
            flags = os.O_RDWR if self._is_shared else os.O_RDWR | os.O_CREAT
            self._fd = os.open(folder / self._file_name, flags | os.O_CLOEXEC, 0o666)
        self._base_offset = chunk.start + self._span.start if self._is_shared else 0
        self.done_bytes = checkpoint.length_bytes if checkpoint else 0
        self._resumed_bytes = self.done_bytes
        self._crc32c = checkpoint.crc32c if checkpoint else 0
        self._brought_before = checkpoint.brought_bytes if checkpoint else {}

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._is_shared and not self._is_vouched_for:
            # Nothing refers to it, and failed attempts at a long stream would fill the volume with copies.
            with contextlib.suppress(OSError):
                (self._folder / self._own_name).unlink()

    @property
    def is_whole(self) -> bool:
        """Whether the span has all its bytes; never known beforehand for a file of unknown length."""
        return self.left_bytes == 0

    @property
    def left_bytes(self) -> int | None:
        """What is missing yet; None: it is not known."""
        return None if self.length_bytes is None else max(0, self.length_bytes - self.done_bytes)

    def cut_to(self, length_bytes: int) -> None:
        """End the span there, because another worker fetches what follows; too late, it is left as it is."""
        if self.length_bytes is not None and self.done_bytes < length_bytes < self.length_bytes:
            self.length_bytes = length_bytes

    def write(self, block: bytes | memoryview) -> None:
        """Append a block to the part.

        Raises:
            VolumeError: it could not be written; the part ends where it did before.
        """
        try:
            write_all(self._fd, block, self._base_offset + self.done_bytes)
        except OSError:
            with volume_errors(self._folder, needed_bytes=len(block)):
                raise
        self._crc32c = crc32c(block, self._crc32c)
        self.done_bytes += len(block)

    def start_over(self) -> None:
        """Forget what is there: the next block is the part's first (an origin that cannot resume)."""
        self.done_bytes = self._resumed_bytes = self._crc32c = 0
        self._brought_before = {}
        self._is_vouched_for = False

    def save(self, worker: str) -> None:
        """Leave a checkpoint, so that any worker goes on at this byte; nothing if there is no new one."""
        if self.done_bytes == self._resumed_bytes:
            return
        with volume_errors(self._folder):
            if self._sync:
                os.fdatasync(self._fd)
            self._write_checkpoint(Checkpoint(**self._state(worker)))

    def complete(self, worker: str) -> Receipt:
        """Leave a receipt: the part is whole and, unless sync is off, on disk."""
        with volume_errors(self._folder):
            if not self._is_shared:
                os.ftruncate(self._fd, self.done_bytes)  # an attempt that started over may leave a tail
            if self._sync:
                os.fdatasync(self._fd)
            receipt = Receipt(**self._state(worker))
            write_whole(self._path("receipt"), receipt.model_dump_json(), sync=self._sync)
            self._is_vouched_for = True
            self._path("checkpoint").unlink(missing_ok=True)
        return receipt

    def _state(self, worker: str) -> dict[str, object]:
        brought = dict(self._brought_before)
        brought[worker] = brought.get(worker, 0) + self.done_bytes - self._resumed_bytes
        state = PartState(
            number=self._span.number,
            start=self._span.start,
            length_bytes=self.done_bytes,
            crc32c=self._crc32c,
            file_name=self._file_name,
            brought_bytes=brought,
        )
        return state.model_dump()

    def _take_over(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        if checkpoint is None or self._is_shared:
            return checkpoint
        try:
            # A rename has one winner: two attempts never append to one file.
            (self._folder / checkpoint.file_name).rename(self._folder / self._own_name)
        except FileNotFoundError:
            return None
        # At once: killed before its next checkpoint, this attempt would leave one that names no file.
        checkpoint = checkpoint.model_copy(update={"file_name": self._own_name})
        self._write_checkpoint(checkpoint)
        return checkpoint

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        write_whole(self._path("checkpoint"), checkpoint.model_dump_json(), sync=self._sync)
        self._is_vouched_for = True

    @property
    def _stem(self) -> str:
        return _stem(self._span.number, self._span.start)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._stem}.{kind}"


def prove(folder: Path, chunk: Chunk) -> Proven:
    """What the receipts of a chunk prove; one that does not fit the plan proves nothing."""
    receipts: list[Receipt] = []
    done_bytes = 0
    while done_bytes != chunk.length_bytes:
        receipt = _read_receipt(folder, _stem(chunk.number, done_bytes))
        if receipt is None or receipt.start != done_bytes:
            return Proven(tuple(receipts), is_whole=False)
        if chunk.length_bytes is None:
            return Proven((receipt,), is_whole=True)
        if not 0 < receipt.length_bytes <= chunk.length_bytes - done_bytes:
            return Proven(tuple(receipts), is_whole=False)
        receipts.append(receipt)
        done_bytes += receipt.length_bytes
    return Proven(tuple(receipts), is_whole=True)


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
        stem = _stem(receipt.number, receipt.start)
        with contextlib.suppress(FileNotFoundError):
            (folder / f"{stem}.receipt").replace(folder / f"{stem}{ending}")
    return was_refused


def read_checkpoint(folder: Path, stem: str) -> Checkpoint | None:
    """The last checkpoint of a span, or None if there is none that can be read."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Checkpoint.model_validate_json((folder / f"{stem}.checkpoint").read_bytes())
    return None


def _read_receipt(folder: Path, stem: str) -> Receipt | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return Receipt.model_validate_json((folder / f"{stem}.receipt").read_bytes())
    return None


def _stem(number: int, start: int) -> str:
    return f"{number:05d}.{start}" if start else f"{number:05d}"
