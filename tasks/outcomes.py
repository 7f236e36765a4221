"""How jobs end: complete, failed, or removed; on the volume and in the records."""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import TYPE_CHECKING

from tasks.jobs import ACTIVE_STATES, JobError, JobState
from tasks.transfer.errors import TransferError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.host import Host
    from tasks.transfer.manifest import Manifest
    from tasks.transfer.merge_parts import Merged

logger = logging.getLogger(__name__)


def complete(host: Host, manifest: Manifest, merged: Merged) -> None:
    """Say that the file is under its name, then clean up; harmless if done before."""
    host.records.transition(
        manifest.job_id,
        JobState.COMPLETE,
        # Paused while it was published: the file is there, and with a `resume` the job would fail for that.
        allowed=ACTIVE_STATES | {JobState.PAUSED},
        fields={
            "path": str(merged.path),
            "size_bytes": merged.size_bytes,
            "crc32c": f"{merged.crc32c:08x}",
            "finished_at": repr(time.time()),
            "destination": manifest.destination,
            "digests": json.dumps(merged.digests),
        },
    )
    logger.info("job complete job=%s bytes=%d", manifest.job_id, merged.size_bytes)
    remove(host, manifest.job_id, manifest.destination)


def found_there(
    host: Host, job_id: str, destination: str, *, size_bytes: int, digests: Mapping[str, str]
) -> None:
    """Say that the file was under its name already, with these digests if they were compared."""
    host.records.transition(
        job_id,
        JobState.COMPLETE,
        fields={
            "path": str(host.volume.path_of(destination)),
            "size_bytes": size_bytes,
            "finished_at": repr(time.time()),
            "destination": destination,
            "digests": json.dumps(dict(digests)),
            "was_there": 1,
        },
    )
    logger.info("file was there job=%s", job_id)


def fail(host: Host, job_id: str, error: Exception) -> None:
    """Say why a job failed. Its parts stay, for ``resume`` or for another submit, which may have its destination."""
    told = shown(job_id, error)
    logger.warning("job failed job=%s code=%s", job_id, told.code)
    host.records.fail(job_id, told)


def shown(job_id: str, error: Exception) -> JobError:
    """An error as everybody may see it; of a bug, the log says where it is."""
    if isinstance(error, TransferError):
        return JobError(code=error.code, message=str(error))
    # Where, not what: the text of an unknown exception and of those behind it may carry a URL with its query.
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("bug met job=%s kind=%s\n%s", job_id, type(error).__name__, where)
    return JobError(
        code="InternalError",
        message=f"A bug in Manyhands ({type(error).__name__}); the worker's log has the details.",
    )


def remove(host: Host, job_id: str, destination: str | None) -> None:
    """Remove what a job has on the volume; harmless if it is gone."""
    if destination is not None:
        host.volume.release(destination, job_id)
    host.volume.job(job_id).remove()


def remove_if_cancelled(host: Host, job_id: str, destination: str | None) -> None:
    """Remove what a cancelled job has on the volume; another job keeps what it has."""
    if host.records.state(job_id) is JobState.CANCELLED:
        remove(host, job_id, destination)
