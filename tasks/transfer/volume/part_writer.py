"""One attempt writing one part: into the shared file at its offset, or into a file of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import TYPE_CHECKING

from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.digests import crc32c
from tasks.transfer.errors import VolumeError, VolumeMissing
from tasks.transfer.manifest import Checkpoint, LayoutName, PartState, Receipt, Span
from tasks.transfer.volume.files import (
    blocks_of,
    is_gone,
    this_boot,
    volume_errors,
    write_all,
    write_whole,
)
from tasks.transfer.volume.proof import (
    SHARED_FILE_NAME,
    read_checkpoint,
    standing_receipt,
    stem_of,
    vouches_truly,
)
from tasks.transfer.volume.taking_over import take_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from tasks.transfer.manifest import Chunk, Manifest

#: What a killed worker loses of each connection: with 16 of them, less than 2 % of 2 GiB.
_PACE_BYTES = 2 * 1024 * 1024
#: On a slow connection a checkpoint is left after this, however little came.
_PACE_SECONDS = 2.0
#: Of an attempt's time, checkpoints on a slow volume take no more than one part in so many.
_LEAST_INTERVAL_COSTS = 10


class PartWriter:
    """Writes a span of a part from where an earlier attempt's checkpoint ends; a context manager.

    Two attempts at one chunk never harm each other: in the shared file both write the same bytes at the
    same offsets (a strong validator says so), and a part's own file is nobody else's. Each
    receipt names its file, and one that proves as much as the later one would is not replaced.
    An attempt of which another has taken a copy ends by `AttemptStopped`, as soon as it would leave something.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        chunk: Chunk,
        span: Span | None = None,
        *,
        check_lease: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the span, all of the chunk if none is given, and take over what its last checkpoint vouches for.

        Args:
            folder: of the plan.
            manifest: the plan.
            chunk: which of its chunks.
            span: what of it.
            check_lease: asked right before anything is written; what it raises, every method may raise.
            clock: for checkpoints now and then.
        """
        self._folder = folder
        self._manifest = manifest
        self._check_lease = check_lease
        self._clock = clock
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
        self._base_offset = chunk.start + self._span.start if self._is_shared else 0
        with volume_errors(folder, needed_bytes=chunk.length_bytes or 0):
            self._found = read_checkpoint(folder, self._stem)
            checkpoint = self._open(self._found)
        self.done_bytes = checkpoint.length_bytes if checkpoint else 0
        self._resumed_bytes = self._kept_bytes = self.done_bytes
        self._kept_seconds = clock()
        self._cost_seconds: float | None = None  # of the quickest checkpoint
        self._crc32c = checkpoint.crc32c if checkpoint else 0
        self._brought_before = checkpoint.brought_bytes if checkpoint else {}

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._errors():
                os.close(self._fd)
        except (VolumeError, AttemptStopped):
            # NFS tells here what it could not write. What ended the attempt before that goes first.
            if kind is None:
                raise
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
        """End the span there, because another worker fetches what follows.

        Too late, what was written beyond that is given up: who waited for the rest of the span would wait for a slow
        one. What an earlier attempt has left is not given up.

        Raises:
            VolumeError: what was written could not be read again.
        """
        if self.length_bytes is None or not self._resumed_bytes < length_bytes < self.length_bytes:
            return
        if self.done_bytes > length_bytes:
            crc = read_bytes = 0
            with self._errors():
                for block in blocks_of(self._fd, self._base_offset, length_bytes):
                    crc = crc32c(block, crc)
                    read_bytes += len(block)
            if read_bytes < length_bytes:
                return
            self._crc32c, self.done_bytes = crc, length_bytes
        self.length_bytes = length_bytes

    def write(self, block: bytes | memoryview) -> None:
        """Append a block to the part.

        Raises:
            VolumeError: it could not be written; the part ends where it did before.
        """
        self._check_lease()
        try:
            write_all(self._fd, block, self._base_offset + self.done_bytes)
        except OSError:
            with self._errors(needed_bytes=len(block)):
                raise
        self._crc32c = crc32c(block, self._crc32c)
        self.done_bytes += len(block)

    def start_over(self) -> None:
        """Forget what is there: the next block is the part's first (an origin that cannot resume)."""
        self.done_bytes = self._resumed_bytes = self._kept_bytes = self._crc32c = 0
        self._brought_before = {}
        self._is_vouched_for = False

    def keep_pace(self, worker: str) -> None:
        """Leave a checkpoint now and then, for the case that this process is killed.

        It costs no sync: what it vouches for may be lost when the host crashes, and is read again before it is
        believed.
        """
        fresh_bytes, now = self.done_bytes - self._kept_bytes, self._clock()
        seconds = now - self._kept_seconds
        is_time = fresh_bytes >= _PACE_BYTES or (fresh_bytes > 0 and seconds >= _PACE_SECONDS)
        if not is_time or seconds < _LEAST_INTERVAL_COSTS * (self._cost_seconds or 0):
            return
        self._check_lease()
        with self._errors():
            self._check_taken()
            self._write_checkpoint(Checkpoint(**self._state(worker)))
        self._kept_bytes, self._kept_seconds = self.done_bytes, self._clock()
        # The quickest counts: a host with other work, or a disk that is busy for a moment, is no slow volume.
        cost_seconds = self._kept_seconds - now
        if self._cost_seconds is None or cost_seconds < self._cost_seconds:
            self._cost_seconds = cost_seconds

    def save(self, worker: str) -> None:
        """Leave a checkpoint at the attempt's end, so that any worker goes on at this byte."""
        is_told = self._is_shared and self.done_bytes == self._resumed_bytes
        if self.done_bytes == 0 or is_told:
            return
        self._check_lease()
        with self._errors():
            if self._is_behind() or self._was_taken():
                return
            if self._sync:
                if self.done_bytes != self._kept_bytes:
                    # A sync may hang, and the process be ended under it.
                    self._write_checkpoint(Checkpoint(**self._state(worker)))
                os.fdatasync(self._fd)
            checkpoint = Checkpoint(**self._state(worker, is_synced=self._sync), is_left=True)
            self._check_lease()  # the sync may have taken long
            self._write_checkpoint(checkpoint, sync=self._sync)

    def _is_behind(self) -> bool:
        """Whether another attempt has left more since this one began: going on here would fetch that again."""
        left = read_checkpoint(self._folder, self._stem)
        if left is None or left == self._found or left.file_name == self._own_name:
            return False
        return left.length_bytes > self.done_bytes

    def complete(self, worker: str) -> Receipt:
        """Leave a receipt: the part is whole and, unless sync is off, on disk.

        Returns:
            It, or the one of another attempt that was quicker, and has brought as much at least.
        """
        self._check_lease()
        with self._errors():
            if receipt := self._quicker_receipt():
                self._path("checkpoint").unlink(missing_ok=True)
                self._is_vouched_for = False
                return receipt
            self._check_taken()
            if not self._is_shared:
                os.ftruncate(self._fd, self.done_bytes)  # an attempt that started over may leave a tail
            if self._sync:
                os.fdatasync(self._fd)
            else:
                # NFS tells when a file is closed what it could not write: after the receipt it would be too late.
                os.close(os.dup(self._fd))
            receipt = Receipt(**self._state(worker, is_synced=self._sync), boot=this_boot())
            self._check_lease()  # the sync may have taken long
            write_whole(self._path("receipt"), receipt.model_dump_json(), sync=self._sync)
            self._is_vouched_for = True
            self._path("checkpoint").unlink(missing_ok=True)
        return receipt

    def _quicker_receipt(self) -> Receipt | None:
        """What another attempt has left that proves as much; None: nobody has.

        It has copied what there was of this one's own file and removed that, or has not heard of the cut: a receipt in
        its place would prove nothing, or less.
        """
        receipt = standing_receipt(self._folder, self._manifest, self._span)
        # Of a stream of unknown length the later attempt may have more.
        if receipt is None or self.length_bytes is None or receipt.length_bytes < self.done_bytes:
            return None
        return receipt

    @contextlib.contextmanager
    def _errors(self, *, needed_bytes: int = 0) -> Iterator[None]:
        """Within, what the volume fails with is a `VolumeError`, unless it is only that another took this part over."""
        try:
            with volume_errors(self._folder, needed_bytes=needed_bytes):
                yield
        except VolumeMissing:
            # NFS ends an open file that another host has removed.
            self._check_taken()
            raise

    def _was_taken(self) -> bool:
        """Whether another attempt has copied this one's file and removed it: see `take_over`."""
        if self._is_shared or not is_gone(self._folder / self._own_name):
            return False
        # Not Path.exists: that raises where NFS says ESTALE.
        return os.access(self._folder, os.F_OK)

    def _check_taken(self) -> None:
        """End the attempt if it was: its checkpoint or receipt would name no file, in the place of one that does."""
        if self._was_taken():
            raise AttemptStopped(StopReason.TAKEN)

    def _state(self, worker: str, *, is_synced: bool = False) -> dict[str, object]:
        brought = dict(self._brought_before)
        brought[worker] = brought.get(worker, 0) + self.done_bytes - self._resumed_bytes
        state = PartState(
            number=self._span.number,
            start=self._span.start,
            length_bytes=self.done_bytes,
            crc32c=self._crc32c,
            file_name=self._file_name,
            brought_bytes=brought,
            is_synced=is_synced,
        )
        return state.model_dump()

    def _open(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Open the file to write to; the checkpoint to go on from, if it is true."""
        self._check_lease()
        path = self._folder / self._file_name
        if not self._is_shared:
            if checkpoint is not None:
                checkpoint = take_over(
                    checkpoint, self._folder, self._own_name, check_lease=self._check_lease, sync=self._sync
                )
                self._is_vouched_for = checkpoint is not None
                self._check_lease()  # that may have taken long
            # What was taken over, another may have taken from this one by now: made anew, it would begin with zeros.
            made = os.O_CREAT if checkpoint is None else 0
            with self._errors():
                self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | made, 0o666)
            return checkpoint
        # Opened before the checkpoint is read: what the disk fails to take from now on, this file's sync tells,
        # though others may sync it first.
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if checkpoint and vouches_truly(checkpoint, path, self._base_offset):
                return checkpoint
        except BaseException:
            os.close(self._fd)
            raise
        return None

    def _write_checkpoint(self, checkpoint: Checkpoint, *, sync: bool = False) -> None:
        write_whole(self._path("checkpoint"), checkpoint.model_dump_json(), sync=sync)
        self._is_vouched_for = True

    @property
    def _stem(self) -> str:
        return stem_of(self._span.number, self._span.start)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._stem}.{kind}"
