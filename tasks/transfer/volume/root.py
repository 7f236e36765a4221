"""The volume's root: destinations, who writes to them, and publishing a finished file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.transfer.errors import (
    BadName,
    DestinationBlocked,
    DestinationBusy,
    DestinationExists,
    DestinationIsFolder,
    VolumeFull,
    VolumeMissing,
    VolumeReadOnly,
)
from tasks.transfer.volume.files import (
    NO_LINKS,
    free_bytes,
    has_same_bytes,
    is_same_file,
    make_folder,
    read_whole,
    sync_folder,
    volume_errors,
    write_first,
)
from tasks.transfer.volume.job_folder import JobFolder, finish_removals
from tasks.transfer.volume.joining import can_clone
from tasks.transfer.volume.unplanned import UnplannedJobs

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER_NAME = ".orchestrator"
_RESERVED = "reserved"
_RESERVATION = re.compile(r"[0-9a-f]{32}", re.ASCII)
_JOB_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


class Volume:
    """The directory that all workers share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Unmounted, there is an empty folder in its place, which the host's own disk would be filled through.
        self._is_mount_point = root.is_mount()

    @property
    def unplanned_jobs(self) -> UnplannedJobs:
        """What was asked for of jobs that have no plan yet."""
        return UnplannedJobs(self.root / FOLDER_NAME / "unplanned")

    def check(self) -> None:
        """Make sure that the volume is there and may be written.

        Raises:
            VolumeMissing, VolumeReadOnly: it is not. Missing is also what was mounted once and is not any more.
        """
        if not self.root.is_dir() or (self._is_mount_point and not self.root.is_mount()):
            raise VolumeMissing(str(self.root))
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise VolumeReadOnly(str(self.root))

    def space(self) -> tuple[int, int]:
        """Bytes that may still be written, and bytes in all; `VolumeMissing` or `VolumeReadOnly` if it is not there."""
        self.check()
        with volume_errors(self.root):
            usage = shutil.disk_usage(self.root)
        return usage.free, usage.total

    def check_space(self, needed_bytes: int) -> None:
        """Make sure that so many bytes can be written; `VolumeFull` if not."""
        free = free_bytes(self.root)
        if needed_bytes > free:
            raise VolumeFull(str(self.root), needed_bytes, free)

    def clones(self, job_id: str) -> bool:
        """Whether files here can share extents, found by trying it in the job's folder."""
        folder = self.job(job_id).path
        with volume_errors(folder):
            return can_clone(folder)

    def job(self, job_id: str) -> JobFolder:
        """The folder of a job. The id comes from a message: it is checked before it becomes a path."""
        if not _JOB_ID.fullmatch(job_id):
            raise BadName(f"{job_id[:40]!r} is not a job id.")
        return JobFolder(self.root / FOLDER_NAME / job_id)

    def job_ids(self) -> list[str]:
        """The jobs that have a folder."""
        with volume_errors(self.root), contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.root / FOLDER_NAME)  # noqa: PTH208  (names alone: there may be thousands)
            return sorted(name for name in names if _JOB_ID.fullmatch(name))
        return []

    def path_of(self, destination: str) -> Path:
        """The absolute path of a destination.

        Raises:
            BadName: it leaves the volume, also through a symbolic link, or is the volume's own folder.
        """
        root = self.root.resolve()
        path = root / destination
        inside = path.parent.resolve().is_relative_to(root) and path.name not in ("", ".", "..")
        if not inside or ".." in Path(destination).parts or FOLDER_NAME in Path(destination).parts[:1]:
            raise BadName(f"{destination!r} is not a name inside the volume.")
        return path

    def check_destination(self, destination: str, *, overwrite: bool) -> None:
        """Make sure that the destination may be published to; `DestinationExists` if not."""
        path = self.path_of(destination)
        with volume_errors(path):
            if path.is_dir():
                raise DestinationIsFolder(str(path))
            for parent in path.parents:
                if parent.exists() and not parent.is_dir():
                    raise DestinationBlocked(str(parent))
            if not overwrite and os.path.lexists(path):
                raise DestinationExists(str(path))

    def size_bytes_of(self, destination: str) -> int | None:
        """The size of the file that has the destination's name; None if there is none, or it is no file."""
        path = self.path_of(destination)
        with volume_errors(path):
            return path.stat().st_size if path.is_file() else None

    def reserve(self, destination: str, job_id: str, *, is_active: Callable[[str], bool]) -> str | None:
        """Let one unfinished job alone write to a destination.

        Args:
            destination: relative to the volume.
            job_id: who wants it.
            is_active: whether the job that has it, if any, may still finish.

        Returns:
            The job that had it before and will not finish, if there was one. Also when this is asked a second time.

        Raises:
            DestinationBusy: another active job has it.
        """
        path = self._reservation(destination)
        before: str | None = None
        for _ in range(3):
            with volume_errors(path):
                # Suppressed: the last job to end may remove the empty folder in between.
                with contextlib.suppress(FileNotFoundError):
                    make_folder(path.parent)
                    if write_first(path, f"{job_id} {before}" if before else job_id, sync=False):
                        return before
                holder, had_it = self._holders(path)
            if holder == job_id:
                return had_it
            if holder is not None and is_active(holder):
                raise DestinationBusy(str(self.path_of(destination)), holder)
            self._break(path, holder)
            before = holder
        raise DestinationBusy(str(self.path_of(destination)), "unknown")

    def _break(self, path: Path, holder: str | None) -> None:
        """Take a stale reservation away, unless somebody else took it over meanwhile."""
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with volume_errors(path), contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            if self._holder(aside) != holder:
                with contextlib.suppress(FileExistsError):
                    if not _link(aside, path):
                        aside.rename(path)
            aside.unlink()

    def release(self, destination: str, job_id: str) -> None:
        """Give a destination back; harmless if the job does not have it."""
        path = self._reservation(destination)
        with contextlib.suppress(OSError):
            if self._holder(path) == job_id:
                path.unlink(missing_ok=True)

    def reservations(self) -> dict[str, str | None]:
        """Who has each destination that is reserved, by the reservation's name; None: that cannot be read."""
        found = {}
        with volume_errors(self.root), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in (self.root / FOLDER_NAME / _RESERVED).iterdir():
                if _RESERVATION.fullmatch(path.name):
                    found[path.name] = self._holder(path)
        return found

    def end_reservation(self, name: str, job_id: str) -> None:
        """Have nobody have a destination that this job, which is gone, has; harmless if another one has it by now."""
        self._break(self.root / FOLDER_NAME / _RESERVED / name, job_id)

    def remove_job(self, job_id: str) -> None:
        """Remove all that a job has on the volume, whatever its destination is; harmless if it is gone."""
        with contextlib.suppress(OSError):
            for path in (self.root / FOLDER_NAME / _RESERVED).iterdir():
                if self._holder(path) == job_id:
                    path.unlink(missing_ok=True)
        self.job(job_id).remove()
        self.unplanned_jobs.forget(job_id)

    def finish_removals(self) -> None:
        """Remove what is left of jobs that were removed while another host had something of theirs open."""
        finish_removals(self.root / FOLDER_NAME)

    def leave(self, job_id: str) -> bool:
        """Keep what an unfinished job has for a later submit, and say that nobody is at it any more.

        Returns:
            False if there is nothing of use: what was there is removed.
        """
        folder = self.job(job_id)
        if not self.is_worth_keeping(job_id):
            self.remove_job(job_id)
            return False
        # There is if its sweep was ended between keeping what was asked for and seeing that there is a plan by now.
        self.unplanned_jobs.forget(job_id)
        folder.mark_left()
        return True

    def is_worth_keeping(self, job_id: str) -> bool:
        """Whether a later submit can go on with what a job has."""
        folder = self.job(job_id)
        manifest = folder.read_manifest()
        return (
            manifest is not None
            and manifest.can_be_gone_on_with
            and not folder.holds(self.path_of(manifest.destination))
        )

    def has_same_content(self, destination: str, whole: Path, *, check: Callable[[], object]) -> bool:
        """Whether a file has the destination's name that is byte for byte the same; reads both.

        A symbolic link is no such file: it may lead to the job's own folder, which is going to be removed. What `check`
        raises, asked all the while, ends it.
        """
        path = self.path_of(destination)
        with volume_errors(whole), contextlib.suppress(FileNotFoundError):
            return not path.is_symlink() and path.is_file() and has_same_bytes(path, whole, check=check)
        return False

    def publish(self, merged: Path, destination: str, *, overwrite: bool, sync: bool) -> None:
        """Make a complete, checked file visible under its name, by one rename or link; harmless if done before.

        Raises:
            DestinationExists: something took the name in the meantime; it was not touched.
        """
        path = self.path_of(destination)
        with volume_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise DestinationIsFolder(str(path))
            # Linked first: the job's folder keeps the file until the job is known to be complete, so a
            # merge that died right after publishing can be run again.
            named = merged.with_name(f"{merged.name}.{secrets.token_hex(4)}")
            if not _link(merged, named):
                if not overwrite and os.path.lexists(path):
                    raise DestinationExists(str(path))
                merged.replace(path)
            elif overwrite:
                named.replace(path)
            else:
                named.unlink()
                _link_to_free_name(merged, path)
            if sync:
                sync_folder(path.parent)

    def _reservation(self, destination: str) -> Path:
        # Below the root: that may be called otherwise on other hosts.
        path = self.path_of(destination).relative_to(self.root.resolve())
        name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
        return self.root / FOLDER_NAME / _RESERVED / name

    def _holder(self, path: Path) -> str | None:
        return self._holders(path)[0]

    @staticmethod
    def _holders(path: Path) -> tuple[str | None, str | None]:
        """Who has a reservation, and who had it before."""
        try:
            ids = read_whole(path).decode().split()
        except (FileNotFoundError, ValueError):
            return None, None
        present, before, *_ = [*(each if _JOB_ID.fullmatch(each) else None for each in ids), None, None]
        return present, before


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, which must be free; False where the filesystem has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


def _link_to_free_name(merged: Path, path: Path) -> None:
    try:
        # rename() would replace what came to have the name meanwhile; link() refuses.
        path.hardlink_to(merged)
    except FileExistsError:
        if not is_same_file(path, merged):
            raise DestinationExists(str(path)) from None
