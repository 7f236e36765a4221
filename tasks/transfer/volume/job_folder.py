"""A job's folder on the volume: its manifest, and the parts of its plan."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from tasks.transfer.errors import VolumeFailed
from tasks.transfer.manifest import Followed, LayoutName, Manifest
from tasks.transfer.volume.files import (
    is_same_file,
    make_folder,
    read_blocks,
    read_whole,
    volume_errors,
    write_first,
    write_whole,
)
from tasks.transfer.volume.joining import join
from tasks.transfer.volume.part_writer import PartWriter
from tasks.transfer.volume.proof import SHARED_FILE_NAME, kept_bytes, prove, refuse, refute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tasks.transfer.manifest import Chunk, Proven, Receipt, Span

_FOLLOWED_NAME = "followed.json"
_MERGED = "merged."
_REMOVED = "removed."
_LEFT = "left"
#: Why nobody is at a job any more: its Redis ended.
ENDED = "ended"
#: What rename() says where it would have to replace something.
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


class JobFolder:
    """What the volume knows of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder; harmless if it is there."""
        with volume_errors(self.path):
            make_folder(self.path)

    def read_manifest(self) -> Manifest | None:
        """The manifest, or None if the job has none that can be read."""
        with volume_errors(self.path), contextlib.suppress(FileNotFoundError, ValueError):
            return Manifest.model_validate_json(read_whole(self.path / "manifest.json"))
        return None

    def write_first_manifest(self, manifest: Manifest) -> bool:
        """Store a job's first manifest and make its plan's folder.

        Returns:
            False if there is a manifest already: a second plan of the job, at the same time, was quicker. Its
            parts may be of another version of the file, so there must be one plan.
        """
        self.make_plan_folder(manifest)
        with volume_errors(self.path):
            return write_first(
                self.path / "manifest.json", manifest.model_dump_json(), sync=manifest.spec.sync
            )

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest by a later one of the same plan."""
        self.make_plan_folder(manifest)
        with volume_errors(self.path):
            write_whole(self.path / "manifest.json", manifest.model_dump_json(), sync=manifest.spec.sync)

    def replace_plan(self, manifest: Manifest) -> None:
        """Replace the manifest by that of another plan, and remove the parts of the plans before it."""
        self.write_manifest(manifest)
        kept = self._plan_folder(manifest)
        for folder in self.path.glob("plan-*"):
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)

    def make_plan_folder(self, manifest: Manifest) -> None:
        """Make the folder that the plan's parts go to; harmless if it is there."""
        folder = self._plan_folder(manifest)
        with volume_errors(self.path):
            folder.mkdir(mode=0o700, exist_ok=True)
            shared = folder / SHARED_FILE_NAME
            if manifest.layout is LayoutName.SHARED and not _is_of_size(shared, manifest.size_bytes or 0):
                # Receipts of a file that is gone or was cut would vouch for the zeros that take the place of its bytes.
                for pattern in ("*.receipt", "*.checkpoint"):
                    for stale in folder.glob(pattern):
                        stale.unlink()
                self._make_shared_file(shared, manifest.size_bytes or 0)

    def open_part(
        self,
        manifest: Manifest,
        chunk: Chunk,
        span: Span | None = None,
        *,
        check_lease: Callable[[], object] = lambda: None,
    ) -> PartWriter:
        """Open a part, or a span of it, for writing where its last checkpoint ends; see `PartWriter`."""
        return PartWriter(self._plan_folder(manifest), manifest, chunk, span, check_lease=check_lease)

    def proven(self, manifest: Manifest, chunk: Chunk) -> Proven:
        """What is there of a chunk for certain."""
        with volume_errors(self.path):
            return prove(self._plan_folder(manifest), manifest, chunk)

    def missing(self, manifest: Manifest) -> list[Chunk]:
        """The chunks that are not there as a whole, in order."""
        return [chunk for chunk in manifest.chunks() if not self.proven(manifest, chunk).is_whole]

    def refuted(self, manifest: Manifest, *, check: Callable[[], object] = lambda: None) -> list[Chunk]:
        """The chunks with receipts that the bytes do not bear out, in order; these receipts are removed.

        What `check` raises, asked now and then, ends it.
        """
        folder = self._plan_folder(manifest)
        with volume_errors(folder):
            return [chunk for chunk in manifest.chunks() if refute(folder, manifest, chunk, check=check)]

    def kept_bytes(self, manifest: Manifest) -> int:
        """How much of the file need not be fetched, by what receipts and checkpoints say."""
        folder = self._plan_folder(manifest)
        with volume_errors(folder):
            return sum(kept_bytes(folder, manifest, chunk) for chunk in manifest.chunks())

    def holds(self, published: Path, manifest: Manifest | None = None) -> bool:
        """Whether a published file is one of this job's: it keeps its name in the job's folder for a while.

        With a manifest: one of that plan's; two plans may be of two versions.
        """
        plan = "plan-*" if manifest is None else self._plan_folder(manifest).name
        with volume_errors(self.path):
            return os.path.lexists(published) and any(
                is_same_file(path, published) for path in self.path.glob(f"{plan}/*")
            )

    def join(
        self, manifest: Manifest, receipts: Sequence[Receipt], *, check: Callable[[], object] = lambda: None
    ) -> Path:
        """Join the parts in order.

        What `check` raises, asked now and then, ends it, and nothing of it is left.

        Returns:
            The whole file, still inside the job's folder. In the shared layout and for a single part
            that is the file they were written to; nothing is copied.
        """
        folder = self._plan_folder(manifest)
        with volume_errors(folder, needed_bytes=manifest.size_bytes or 0):
            if manifest.layout is LayoutName.SHARED:
                return folder / SHARED_FILE_NAME
            if len(receipts) == 1:
                return folder / receipts[0].file_name
            check()
            self._remove_merged_before(manifest)
            merged = folder / f"{_MERGED}{manifest.generation}.{secrets.token_hex(6)}"
            parts = [(folder / receipt.file_name, receipt.length_bytes) for receipt in receipts]
            join(parts, merged, check=check)
            return merged

    def discard_joined(self, whole: Path) -> None:
        """Remove a joined file that is not published; the file of a part, or of all, is kept."""
        if whole.name.startswith(_MERGED):
            with volume_errors(whole):
                whole.unlink(missing_ok=True)

    def _remove_merged_before(self, manifest: Manifest) -> None:
        """Remove what merges of earlier sendings had joined when they died: twice the file may be more than fits."""
        for path in self._plan_folder(manifest).glob(f"{_MERGED}*"):
            generation = path.name.removeprefix(_MERGED).partition(".")[0]
            # Not those of this one: a merge whose message came twice may be at it. Nor those of a later one, if this
            # process stood still.
            if generation.isdecimal() and int(generation) < manifest.generation:
                path.unlink(missing_ok=True)

    def blocks_of(self, manifest: Manifest, receipt: Receipt) -> Iterator[memoryview]:
        """The bytes that a receipt vouches for, in order; fewer if they are not all there.

        Each block is good until the next is asked for.
        """
        path = self._plan_folder(manifest) / receipt.file_name
        is_shared = manifest.layout is LayoutName.SHARED
        offset = manifest.chunk(receipt.number).start + receipt.start if is_shared else 0
        with volume_errors(path), contextlib.suppress(FileNotFoundError):
            yield from read_blocks(path, offset, receipt.length_bytes)

    def refuse(self, manifest: Manifest, receipts: Sequence[Receipt]) -> bool:
        """Take back receipts whose bytes are not there any more; whether one of their chunks was refused before."""
        folder = self._plan_folder(manifest)
        with volume_errors(folder):
            return refuse(folder, receipts, generation=manifest.generation)

    def write_followed(self, manifest: Manifest, followed: Followed) -> None:
        """Store how far the parts are hashed; `VolumeMissing` if the plan is gone."""
        path = self._plan_folder(manifest) / _FOLLOWED_NAME
        with volume_errors(path):
            write_whole(path, followed.model_dump_json(), sync=False)

    def read_followed(self, manifest: Manifest) -> Followed | None:
        """How far somebody has hashed the parts, or None if nobody has."""
        path = self._plan_folder(manifest) / _FOLLOWED_NAME
        with volume_errors(path), contextlib.suppress(FileNotFoundError, ValueError):
            return Followed.model_validate_json(read_whole(path))
        return None

    def forget_followed(self, manifest: Manifest) -> None:
        """Remove what was stored of that; harmless if it is gone."""
        path = self._plan_folder(manifest) / _FOLLOWED_NAME
        with volume_errors(path):
            path.unlink(missing_ok=True)

    def check_size(self, path: Path, size_bytes: int) -> None:
        """Make sure that a file is as long as its receipts say; `VolumeFailed` if not."""
        with volume_errors(path):
            if path.stat().st_size != size_bytes:
                raise VolumeFailed(str(path), f"it is not as long as its receipts say, {size_bytes} bytes")

    def sync_file(self, path: Path) -> None:
        """Put a file's data on disk."""
        with volume_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def touched_at(self) -> float | None:
        """When a file of the job was last written, in seconds since the epoch; None: there is none."""
        latest: float | None = None
        with contextlib.suppress(OSError):
            for path in (self.path, *self.path.rglob("*")):
                with contextlib.suppress(FileNotFoundError):
                    latest = max(latest or 0.0, path.stat().st_mtime)
        return latest

    def touch(self) -> None:
        """Have the folder look written to; what cannot be touched is left as it is."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def mark_left(self, why: str = ENDED) -> None:
        """Say that nobody is at the job any more, so that another may go on with it at once; and in a word why."""
        with volume_errors(self.path):
            write_whole(self.path / _LEFT, why, sync=False)

    def unmark_left(self) -> None:
        """Say that the job goes on; harmless if nobody said anything else."""
        with volume_errors(self.path):
            (self.path / _LEFT).unlink(missing_ok=True)

    @property
    def left_as(self) -> str | None:
        """Why nobody is at the job any more; None: somebody may be."""
        with volume_errors(self.path), contextlib.suppress(FileNotFoundError):
            return read_whole(self.path / _LEFT).decode(errors="replace")
        return None

    @property
    def is_left(self) -> bool:
        """Whether nobody is at the job any more."""
        return self.left_as is not None

    def move_to(self, other: JobFolder) -> bool:
        """Hand all of it to another job, which has an empty folder; False if somebody else was quicker.

        Nothing is copied: a rename, which has one winner.
        """
        with volume_errors(self.path):
            try:
                self.path.rename(other.path)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                return False
            (other.path / _LEFT).unlink(missing_ok=True)
        return True

    def clear(self) -> None:
        """Remove the manifest, then the parts: the job is planned anew."""
        with volume_errors(self.path):
            (self.path / "manifest.json").unlink(missing_ok=True)
        for folder in self.path.glob("plan-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> bool:
        """Remove the folder with all in it; whether it is gone then, also if it was before."""
        aside = self.path.with_name(f"{_REMOVED}{self.path.name}.{secrets.token_hex(4)}")
        # Renamed first: half removed, receipts might outlive the parts that they vouch for.
        with contextlib.suppress(OSError):
            self.path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        return not os.path.lexists(self.path) and not os.path.lexists(aside)

    def remove(self) -> None:
        """Remove the folder with all in it, and the empty parents; harmless if it is gone."""
        self.discard()
        finish_removals(self.path.parent)

    def _plan_folder(self, manifest: Manifest) -> Path:
        return self.path / f"plan-{manifest.plan_name}"

    @staticmethod
    def _make_shared_file(path: Path, size_bytes: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # Sparse. Preallocation hangs or writes zeros on NFS, SMB and FAT.
            os.ftruncate(fd, size_bytes)
        finally:
            os.close(fd)


def finish_removals(folder: Path) -> None:
    """Remove what is left of discarded folders, and the folder of all jobs if that is empty then."""
    for removed in folder.glob(f"{_REMOVED}*"):
        shutil.rmtree(removed, ignore_errors=True)
    for parent in (folder / "reserved", folder):
        with contextlib.suppress(OSError):
            parent.rmdir()


def _is_of_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False
