"""The destination of a job that is planned: whether it is free, and having it for this job alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import adoption
from tasks import outcomes
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import DestinationExists
from tasks.transfer.verify_file import verify_file

if TYPE_CHECKING:
    from tasks.host import Host
    from tasks.transfer.manifest import JobSpec


class AlreadyPublished(AttemptStopped):
    """The job's own file has the destination's name."""


class Destination:
    """What a job may do to a destination."""

    def __init__(self, here: Host, job_id: str, touched_before: float | None) -> None:
        """Take the job, and when a job that has the destination was seen to write last."""
        self._host = here
        self._job_id = job_id
        self._touched_before = touched_before
        self.reserved: str | None = None  #: the name that this job alone may write to

    def check(self, name: str, spec: JobSpec) -> None:
        """Make sure that a destination is free.

        Raises:
            DestinationExists: it is not.
            AlreadyPublished: what is there is this job's own file, published by another delivery of a message.
        """
        volume = self._host.volume
        try:
            volume.check_destination(name, overwrite=spec.overwrite)
        except DestinationExists:
            if volume.job(self._job_id).holds(volume.path_of(name)):
                raise AlreadyPublished(StopReason.JOB_ENDED) from None
            raise

    def make_sure_it_is_missing(self, name: str, spec: JobSpec, size_bytes: int | None) -> None:
        """Make sure that a destination is free; if it has the file already, and that is welcome, the job is complete.

        Raises:
            DestinationExists: it is not.
            AlreadyPublished: as for `check`.
            AttemptStopped: the job is complete.
        """
        try:
            self.check(name, spec)
        except DestinationExists:
            volume = self._host.volume
            if not spec.skip_existing or size_bytes is None or volume.size_bytes_of(name) != size_bytes:
                raise
            if spec.digests and not verify_file(volume.path_of(name), spec.digests).is_same:
                raise
            outcomes.found_there(self._host, self._job_id, name, size_bytes=size_bytes, digests=spec.digests)
            raise AttemptStopped(StopReason.JOB_ENDED) from None

    def reserve(self, name: str) -> str | None:
        """Have a destination for this job alone.

        Returns:
            The job that had it before and will not finish, if there was one.

        Raises:
            DestinationBusy: another active job has it.
            MayBeActive: that cannot be told yet.
        """
        before = self._host.volume.reserve(name, self._job_id, is_active=self._is_active)
        self.reserved = name
        return before

    def _is_active(self, job_id: str) -> bool:
        return adoption.is_active(self._host, job_id, touched_before=self._touched_before)
