"""What was asked for of jobs that have no plan yet: kept on the volume in case Redis loses it."""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING

from tasks.transfer.manifest import UnplannedJob
from tasks.transfer.volume.files import make_folder, read_whole, volume_errors, write_whole

if TYPE_CHECKING:
    from pathlib import Path

_JOB_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)


class UnplannedJobs:
    """The jobs without a plan that a volume keeps, in a folder of their own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, job: UnplannedJob) -> None:
        """Store one; harmless if it is there."""
        path = self._of(job.job_id)
        with volume_errors(path):
            if not path.exists():
                make_folder(self._path)
                write_whole(path, job.model_dump_json(), sync=False)

    def forget(self, job_id: str) -> None:
        """Remove one, because its job has a plan or has ended; harmless if it is gone."""
        with contextlib.suppress(OSError):
            self._of(job_id).unlink(missing_ok=True)
            for folder in (self._path, self._path.parent):
                folder.rmdir()

    def job_ids(self) -> list[str]:
        """The jobs that are kept."""
        with volume_errors(self._path):
            return sorted(path.stem for path in self._path.glob("*.json") if _JOB_ID.fullmatch(path.stem))

    def kept_at(self, job_id: str) -> float:
        """When one was stored, in seconds since the epoch by the volume's clock; infinity if it is gone."""
        with contextlib.suppress(OSError):
            return self._of(job_id).lstat().st_mtime
        return math.inf

    def read(self, job_id: str) -> UnplannedJob | None:
        """One of these; None if it is gone, or what is there is none of this job."""
        path = self._of(job_id)
        with volume_errors(path), contextlib.suppress(FileNotFoundError, ValueError):
            found = UnplannedJob.model_validate_json(read_whole(path))
            return found if found.job_id == job_id else None
        return None

    def _of(self, job_id: str) -> Path:
        return self._path / f"{job_id}.json"
