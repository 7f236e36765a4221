"""Jobs that Redis has lost: recorded anew from what is on the volume."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tasks.jobs import JobState
from tasks.records import NewJob
from tasks.transfer.manifest import UnplannedJob
from tasks.transfer.volume import ENDED

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.host import Host
    from tasks.transfer.manifest import Chunk, Manifest, Receipt
    from tasks.transfer.volume import JobFolder

logger = logging.getLogger(__name__)

_UNPLANNED_STATES = frozenset({JobState.QUEUED, JobState.PLANNING})


def keep_unplanned(host: Host) -> None:
    """Store on the volume what was asked for of jobs that wait for their plan, and remove what has one."""
    unplanned = host.volume.unplanned_jobs
    job_ids = host.records.active()
    for job_id, state in zip(job_ids, host.records.states(job_ids), strict=True):
        if state in _UNPLANNED_STATES and host.volume.job(job_id).read_manifest() is None:
            asked, url = host.records.request(job_id), host.records.url(job_id)
            if asked is not None and url is not None:
                unplanned.keep(
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
    """Record anew the jobs without a plan that Redis does not know; which are to go on now. See `restore`."""
    restored = []
    kept = list(host.volume.unplanned_jobs)
    states = host.records.states([each.job_id for each in kept])
    for each, state in zip(kept, states, strict=True):
        if state is None and (clusters is None or each.cluster in clusters):
            new = NewJob(each.job_id, each.url, each.spec, each.sealed_request)
            if host.records.restore(new, JobState.QUEUED, created_at=each.created_at, fields={}):
                logger.warning("a job that Redis does not know is recorded anew job=%s", each.job_id)
                restored.append(each.job_id)
        elif state is not None and state not in _UNPLANNED_STATES:
            host.volume.unplanned_jobs.forget(each.job_id)
    return restored


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
    if not host.records.restore(new, state, created_at=manifest.created_at, fields=shown_of(host, manifest)):
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
