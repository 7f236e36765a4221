"""How jobs end: complete, failed, or removed; on the volume and in the records."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import traceback
from typing import TYPE_CHECKING

from tasks import metrics
from tasks.jobs import ACTIVE_STATES, JobError, JobState
from tasks.records import NewJob, RedisError
from tasks.transfer.errors import TransferError, VolumeMissing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tasks.host import Host
    from tasks.transfer.manifest import Manifest
    from tasks.transfer.merge_parts import Merged

logger = logging.getLogger(__name__)

#: What a complete job may be in where Redis has lost that it is.
_UNDONE_STATES = ACTIVE_STATES | {JobState.FAILED}


def is_still(host: Host, job_id: str, state: JobState) -> bool:
    """Whether a job is in a state that it was in; without Redis, which is a view, it is."""
    try:
        return host.records.state(job_id) is state
    except RedisError as error:
        logger.warning("state not known job=%s error=%s", job_id, error)
        return True


def complete(host: Host, manifest: Manifest, merged: Merged) -> None:
    """Say that the file is under its name, then clean up; harmless if done before."""
    fields: dict[str, str | int] = {
        "path": str(merged.path),
        "size_bytes": merged.size_bytes,
        "crc32c": f"{merged.crc32c:08x}",
        "finished_at": repr(time.time()),
        "destination": manifest.destination,
        "digests": json.dumps(merged.digests),
    }
    new = NewJob(manifest.job_id, manifest.source_name, manifest.spec, manifest.sealed_request)
    host.completions.add(new, created_at=manifest.created_at, destination=manifest.destination, fields=fields)
    host.records.settle_shares(manifest.job_id, merged.receipts)
    # Paused while it was published: the file is there, and with a `resume` the job would fail for that.
    allowed = ACTIVE_STATES | {JobState.PAUSED}
    if not host.records.transition(manifest.job_id, JobState.COMPLETE, allowed=allowed, fields=fields):
        # Redis may have been emptied while it was published, and whoever waits for the job would never hear of it.
        host.records.restore(new, JobState.COMPLETE, created_at=manifest.created_at, fields=fields)
    metrics.job_completed()
    logger.info("job complete job=%s bytes=%d", manifest.job_id, merged.size_bytes)
    remove(host, manifest.job_id, manifest.destination)


def complete_again(host: Host) -> None:
    """Say once more what this process has completed of late, where Redis has lost that."""
    completions = host.completions.recent()
    states = host.records.states([each.new.job_id for each in completions])
    for each, state in zip(completions, states, strict=True):
        job_id = each.new.job_id
        if state is None:
            is_changed = host.records.restore(
                each.new, JobState.COMPLETE, created_at=each.created_at, fields=each.fields
            )
        else:
            # Somebody may have met what is there: its parts gone, and its name taken. With `--overwrite` an id may be
            # that of another job by now.
            asked = host.records.request(job_id) if state in _UNDONE_STATES else None
            is_changed = asked is not None and asked.created_at == each.created_at
            is_changed = is_changed and host.records.transition(
                job_id, JobState.COMPLETE, allowed=_UNDONE_STATES, fields=each.fields
            )
        if is_changed:
            logger.warning("a job is complete that Redis does not know it of job=%s", job_id)
            remove(host, job_id, each.destination)


def found_there(
    host: Host, job_id: str, destination: str, *, size_bytes: int, digests: Mapping[str, str]
) -> None:
    """Say that the file was under its name already, with these digests if they were compared."""
    metrics.job_completed()
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


def fail(host: Host, job_id: str, error: Exception, *, allowed: Collection[JobState] = ACTIVE_STATES) -> None:
    """Say why a job failed, if it is in an allowed state.

    Its parts stay, for ``resume`` or for another submit, which may have its destination.
    """
    told = shown(job_id, error)
    logger.warning("job failed job=%s code=%s", job_id, told.code)
    if host.records.fail(job_id, told, allowed=allowed):
        metrics.job_failed(told.code)


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
    if destination is None:
        # Of a job without a manifest: its plan may have died with a destination reserved.
        host.volume.remove_job(job_id)
        return
    host.volume.release(destination, job_id)
    host.volume.job(job_id).remove()
    host.volume.unplanned_jobs.forget(job_id)


def remove_if_over(host: Host, job_id: str, destination: str | None = None) -> None:
    """Remove what a job has on the volume that was cancelled, or is complete; another job keeps what it has.

    Of one that was cancelled and keeps its parts, say on the volume that nobody is at them. One look-up in Redis
    where there is nothing to do; harmless whenever it is called, and however often.

    Args:
        host: whose records and volume.
        job_id: which.
        destination: where it was to be published; None: that is looked up.
    """
    (ending,) = host.records.endings([job_id])
    if ending.leaves_nothing:
        manifest = host.volume.job(job_id).read_manifest() if destination is None else None
        remove(host, job_id, manifest.destination if manifest else destination)
    elif ending.state is JobState.CANCELLED:
        _leave(host, job_id)


def _leave(host: Host, job_id: str) -> None:
    folder = host.volume.job(job_id)
    # Removed, or another job has it by now.
    with contextlib.suppress(VolumeMissing):
        if folder.is_left:
            return
        folder.mark_left(JobState.CANCELLED)
    # Resumed meanwhile: its plan may have taken the mark away before this one was made.
    if host.records.state(job_id) is not JobState.CANCELLED:
        folder.unmark_left()
