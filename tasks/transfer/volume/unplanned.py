"""What was asked for of jobs that have no plan yet: kept on the volume in case Redis loses it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.transfer.manifest import UnplannedJob
from tasks.transfer.volume.files import make_folder, volume_errors, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
            self._of(job_id).unlink()
            for folder in (self._path, self._path.parent):
                folder.rmdir()

    def __iter__(self) -> Iterator[UnplannedJob]:
        """All that can be read."""
        with volume_errors(self._path):
            for path in sorted(self._path.glob("*.json")):
                with contextlib.suppress(FileNotFoundError, ValueError):
                    yield UnplannedJob.model_validate_json(path.read_bytes())

    def _of(self, job_id: str) -> Path:
        return self._path / f"{job_id}.json"
