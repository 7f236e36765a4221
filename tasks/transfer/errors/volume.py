"""Errors on which a person must act: the volume is the cause."""

from __future__ import annotations

from tasks.transfer.errors.base import Side
from tasks.transfer.errors.permanent import PermanentError


class VolumeError(PermanentError):
    """The volume is the cause; `path` is the place on it."""

    side = Side.VOLUME

    def __init__(self, path: str, *more: str | int) -> None:
        super().__init__(path, *more)
        self.path = path


class VolumeMissing(VolumeError):
    """The volume's directory is not there."""

    def __str__(self) -> str:
        """Say what is missing and what to do."""
        return (
            f"The volume {self.path} does not exist or is not mounted. Mount it, or set ORCHESTRATOR_VOLUME; then "
            f"resume the job (orchestrator resume), or submit it again."
        )


class VolumeReadOnly(VolumeError):
    """The volume may not be written by the worker."""

    def __str__(self) -> str:
        """Say what may not be written and what to do."""
        return (
            f"{self.path} is not writable by the worker. Check the mount's options and the folder's owner, then "
            f"resume the job (orchestrator resume), or submit it again."
        )


class VolumeFull(VolumeError):
    """No space is left on the volume, or a limit is reached: a quota, or the size that a file may have."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int, limit: str = "") -> None:
        super().__init__(path, needed_bytes, free_bytes, limit)
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes
        self.limit = limit  #: what the system says of it; empty: it is the space

    def __str__(self) -> str:
        """Say how much space is needed, or which limit is reached, and what to run next."""
        return f"The volume {self.path} {self._what}, then resume the job (orchestrator resume), or submit it again."

    @property
    def _what(self) -> str:
        if self.limit:
            return f"takes no more: {self.limit[0].lower()}{self.limit[1:]}. Raise the limit or make space"
        if self.needed_bytes > self.free_bytes:
            return f"is full: {self.needed_bytes} bytes are needed, {self.free_bytes} are free. Make space"
        # A thin disk has less than the filesystem on it, and some filesystems keep something back.
        return f"is full: it refused a write, though it counts {self.free_bytes} bytes as free. Make space"


class VolumeFailed(VolumeError):
    """The operating system refused a file operation for another reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        """Say what failed and what to run next."""
        return (
            f"{self.path}: {self.reason}. Mend the volume, then resume the job (orchestrator resume), or submit "
            f"it again."
        )


class FileUnreadable(VolumeError):
    """A finished file is not there, or cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        """Say why."""
        return f"{self.path} cannot be read: {self.reason}. Nothing was compared."


class DestinationExists(VolumeError):
    """Something has the destination's name already."""

    def __str__(self) -> str:
        """Say that nothing was touched, and the two ways on."""
        return f"{self.path} exists already and was left as it is. Give another name with -o, or --overwrite."


class DestinationIsFolder(VolumeError):
    """A folder has the destination's name."""

    def __str__(self) -> str:
        """Say that nothing was touched, and the way on."""
        return f"{self.path} is a folder and was left as it is. Give another name with -o."


class DestinationBlocked(VolumeError):
    """Something that is no folder stands where the destination's folder would be."""

    def __str__(self) -> str:
        """Say what is in the way, and the way on."""
        return f"{self.path} is not a folder and was left as it is. Give another name with -o."


class DestinationBusy(VolumeError):
    """Another unfinished job is writing to the same destination."""

    def __init__(self, path: str, job_id: str) -> None:
        super().__init__(path, job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        """Say who has it, and the ways on."""
        return (
            f"{self.path} is being downloaded by job {self.job_id}. Wait for it (orchestrator wait {self.job_id}), "
            f"cancel it, or give another name with -o."
        )
