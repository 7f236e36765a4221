"""Jobs that Redis has lost: recorded anew from what is on the volume."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from tasks.jobs import JobState
from tasks.records import NewJob, RedisAway
from tasks.transfer.errors import TransferError
from tasks.transfer.manifest import UnplannedJob
from tasks.transfer.volume import ENDED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tasks.host import Host
    from tasks.records import Asked
    from tasks.transfer.manifest import Chunk, Manifest, Receipt
    from tasks.transfer.volume import JobFolder

logger = logging.getLogger(__name__)

_UNPLANNED_STATES = frozenset({JobState.QUEUED, JobState.PLANNING})


@contextlib.contextmanager
def apart(job_id: str) -> Iterator[None]:
    """Within, what is wrong with one job keeps nobody from the others; that Redis is away is wrong with all."""
    try:
        yield
    except RedisAway:
        raise
    except TransferError as error:
        logger.warning("job not looked at job=%s error=%s", job_id, error)


def keep_unplanned(host: Host) -> None:
    """Store on the volume what was asked for of jobs that wait for their plan."""
    kept = set(host.volume.unplanned_jobs.job_ids())
    job_ids = [job_id for job_id in host.records.active() if job_id not in kept]
    for job_id, state in zip(job_ids, host.records.states(job_ids), strict=True):
        if state in _UNPLANNED_STATES:
            with apart(job_id):
                _keep(host, job_id)


def _keep(host: Host, job_id: str) -> None:
    asked, url = host.records.request(job_id), host.records.url(job_id)
    if asked is None or url is None or host.volume.job(job_id).read_manifest() is not None:
        return
    keep(host, job_id, asked, url)
    # Planned or over since: who removes what is kept may have looked before it was there.
    is_waiting = host.records.state(job_id) in _UNPLANNED_STATES
    if not is_waiting or host.volume.job(job_id).read_manifest() is not None:
        host.volume.unplanned_jobs.forget(job_id)


def keep(host: Host, job_id: str, asked: Asked, url: str) -> None:
    """Store on the volume what was asked for of a job without a plan; harmless if it is there."""
    host.volume.unplanned_jobs.keep(
        UnplannedJob(
            job_id=job_id,
            url=url,
            spec=asked.spec,
            sealed_request=asked.sealed_request,
            created_at=asked.created_at,
            cluster=host.cluster,
        )
    )


def restore_unplanned(host: Host, *, clusters: Collection[str] | None) -> list[str]:
    """Record anew the jobs without a plan that Redis does not know; which are to go on now. See `restore`.

    What is kept of jobs that have one, or have ended, is removed.
    """
    unplanned = host.volume.unplanned_jobs
    job_ids = unplanned.job_ids()
    restored = []
    for job_id, state in zip(job_ids, host.records.states(job_ids), strict=True):
        with apart(job_id):
            if state is None and _restore_unplanned(host, unplanned.read(job_id), clusters):
                restored.append(job_id)
        if state is not None and state not in _UNPLANNED_STATES:
            unplanned.forget(job_id)
    return restored


def _restore_unplanned(host: Host, kept: UnplannedJob | None, clusters: Collection[str] | None) -> bool:
    if kept is None or (clusters is not None and kept.cluster not in clusters):
        return False
    new = NewJob(kept.job_id, kept.url, kept.spec, kept.sealed_request)
    fields = host.records.deadline(kept.spec)
    if not host.records.restore(new, JobState.QUEUED, created_at=kept.created_at, fields=fields):
        return False
    logger.warning("a job that Redis does not know is recorded anew job=%s", kept.job_id)
    return True


def restore(host: Host, job_id: str, *, clusters: Collection[str] | None) -> bool:
    """Record a job anew that Redis does not know; whether it is one that is to go on now.

    Args:
        host: whose volume and records.
        job_id: which.
        clusters: it must be of one of these, by its manifest; None: it may be anybody's.
    """
    folder = host.volume.job(job_id)
    manifest = folder.read_manifest()
    if manifest is None or manifest.job_id != job_id:
        return False
    if clusters is not None and manifest.cluster not in clusters:
        return False
    left = folder.left_as
    # One whose Redis ended goes on where somebody asks for it: another submit may go on with it as well.
    goes_on = left is None or (left == ENDED and clusters is None)
    if not goes_on and left != JobState.PAUSED:
        return False
    state = JobState.PLANNING if goes_on else JobState.PAUSED
    new = NewJob(job_id, manifest.source_name, manifest.spec, manifest.sealed_request)
    # The time that it was given begins anew: it may have been resumed since it was submitted.
    fields = {**shown_of(host, manifest), **host.records.deadline(manifest.spec)}
    if not host.records.restore(new, state, created_at=manifest.created_at, fields=fields):
        return False
    receipts, _ = sort_chunks(folder, manifest)
    host.records.adopt(job_id, receipts)
    logger.warning("a job that Redis does not know is recorded anew job=%s state=%s", job_id, state)
    return goes_on


def shown_of(host: Host, manifest: Manifest) -> dict[str, str | int]:
    """What a record shows of a plan."""
    fields: dict[str, str | int] = {
        "path": str(host.volume.path_of(manifest.destination)),
        "chunks_count": manifest.chunks_count,
        "generation": manifest.generation,
    }
    if manifest.size_bytes is not None:
        fields["size_bytes"] = manifest.size_bytes
    return fields


def sort_chunks(folder: JobFolder, manifest: Manifest) -> tuple[list[Receipt], list[Chunk]]:
    """The receipts of the chunks that are there as a whole; and the chunks that are not, in order."""
    receipts: list[Receipt] = []
    missing: list[Chunk] = []
    for chunk in manifest.chunks():
        proven = folder.proven(manifest, chunk)
        if proven.is_whole:
            receipts += proven.receipts
        else:
            missing.append(chunk)
    return receipts, missing
