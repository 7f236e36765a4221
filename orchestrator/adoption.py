"""Adoption: a new job goes on with what an unfinished one has left of the same file for the same destination."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tasks.jobs import JobState
from tasks.transfer.http_source import Identity
from tasks.transfer.manifest import LayoutName
from tasks.transfer.whole_pass import expected_digests

if TYPE_CHECKING:
    from tasks.host import Host
    from tasks.transfer.http_source import Probe
    from tasks.transfer.manifest import Manifest
    from tasks.transfer.volume import JobFolder

#: A job that no file was written for in this time, and that Redis does not know, is not at work.
_FORGOTTEN_SECONDS = 600.0
#: One that is at work leaves a checkpoint every two seconds while bytes come.
QUIET_SECONDS = 10.0


class MayBeActive(Exception):
    """Redis does not know a job whose files were written lately: look again when `QUIET_SECONDS` have passed."""

    def __init__(self, touched_at: float) -> None:
        super().__init__(touched_at)
        self.touched_at = touched_at


def is_active(host: Host, job_id: str, *, touched_before: float | None) -> bool:
    """Whether a job may still finish by itself.

    Args:
        host: whose records and volume.
        job_id: the job.
        touched_before: when its files had been written last, some seconds ago; None: nobody looked.

    Raises:
        MayBeActive: that cannot be told yet: another Redis may know of it.
    """
    state = host.records.state(job_id)
    if state is not None:
        return state.is_active or state is JobState.PAUSED
    folder = host.volume.job(job_id)
    touched_at = folder.touched_at()
    if folder.is_left or touched_at is None or touched_at < time.time() - _FORGOTTEN_SECONDS:
        return False
    if touched_before is None:
        raise MayBeActive(touched_at)
    # Held against each other, not against the time: the volume may have another clock.
    return touched_at != touched_before


def adopt(host: Host, wanted: Manifest, probe: Probe, before: str | None) -> Manifest | None:
    """Take over what is left for a destination, if it is of the file that the origin has now; else remove that.

    The job must have reserved the destination: of two that want it, one comes so far.

    Args:
        host: whose records and volume.
        wanted: the new job's manifest, as it is without anything to go on with.
        probe: what the origin said of the file.
        before: the job that had the destination.

    Returns:
        The manifest that the job goes on with, which is stored; None: there is nothing of use.
    """
    own = host.volume.job(wanted.job_id)
    folder, kept = own, own.read_manifest()
    if kept is None and before is not None:
        folder = host.volume.job(before)
        kept = folder.read_manifest()
        if kept is None and host.records.state(before) is None:
            # Nobody could ever make something of it.
            folder.remove()
    # A manifest in the own folder that is another's: an earlier delivery of the plan's message died in here.
    if kept is None or kept.job_id == wanted.job_id:
        return None
    if not can_be_gone_on_with(kept, wanted, probe):
        _remove(host, folder, own, kept, wanted)
        return None
    if folder is not own and not folder.move_to(own):
        return None
    adopted = wanted.model_copy(
        update={
            "plan_name": kept.plan_name,
            "chunk_size_bytes": kept.chunk_size_bytes,
            "layout": kept.layout,
            "validator": kept.validator,
            "refuted_digests": kept.refuted_digests,
        }
    )
    own.write_manifest(adopted)
    return adopted


def can_be_gone_on_with(kept: Manifest, wanted: Manifest, probe: Probe) -> bool:
    """Whether the parts of one plan can be those of another job."""
    return (
        (kept.source_name, kept.destination) == (wanted.source_name, wanted.destination)
        and kept.can_be_gone_on_with
        and wanted.can_be_gone_on_with
        and _is_same_file(kept, wanted, probe)
        and _is_as_asked(kept, wanted)
    )


def _is_same_file(kept: Manifest, wanted: Manifest, probe: Probe) -> bool:
    seen = probe.identity
    if not Identity(kept.size_bytes, kept.validator, wanted.spec.strict).is_same(
        seen.validator, seen.size_bytes
    ):
        return False
    if kept.validator.etag is not None and kept.validator.etag == seen.validator.etag:
        return True
    # A date says less. Two queries may name two files of one size and date; and a file that was young when it was
    # planned may have changed within the second.
    return not (kept.has_query or wanted.has_query or kept.validator.is_fresh)


def _is_as_asked(kept: Manifest, wanted: Manifest) -> bool:
    spec = wanted.spec
    return (
        spec.layout in (LayoutName.AUTO, kept.layout)
        and spec.chunk_size_bytes in (None, kept.chunk_size_bytes)
        and not expected_digests(wanted).items() & kept.refuted_digests.items()
    )


def _remove(host: Host, folder: JobFolder, own: JobFolder, kept: Manifest, wanted: Manifest) -> None:
    if folder is own:
        own.clear()
    elif kept.source_name == wanted.source_name or host.records.state(kept.job_id) is None:
        folder.remove()
    # Else another URL's job that failed, which somebody may resume under its own id.
