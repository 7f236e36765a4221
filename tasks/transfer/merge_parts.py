"""Use case: check every receipt in order, join the parts in order, check the digest, publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.digests import combine_crc32c, sha256
from tasks.transfer.errors import DestinationExists, DigestMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tasks.transfer.manifest import Chunk, Manifest, Receipt
    from tasks.transfer.volume import JobFolder, Volume


@dataclass(frozen=True, slots=True)
class Merged:
    """A published file."""

    path: Path
    size_bytes: int
    crc32c: int
    sha256: str | None  #: only where it was asked for


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What a merge found missing: these chunks have to be sent again."""

    chunks: list[Chunk]


def merge_parts(
    volume: Volume, manifest: Manifest, *, may_publish: Callable[[], bool] = lambda: True
) -> Merged | Incomplete:
    """Merge what the volume proves to be there; what a chord's count says is not asked.

    Args:
        volume: where the parts are.
        manifest: the plan.
        may_publish: asked right before the file becomes visible: a job may be cancelled while parts are joined.

    Returns:
        The published file, or the chunks that are not there as a whole; then nothing was published.

    Raises:
        DigestMismatch: the file is not the one asked for; it was not published.
        VolumeError: the volume failed; the parts are kept.
        AttemptStopped: it may not be published any more.
    """
    folder = volume.job(manifest.job_id)
    receipts: list[Receipt] = []
    missing: list[Chunk] = []
    for chunk in manifest.chunks():
        proven = folder.proven(manifest, chunk)
        receipts += proven.receipts
        if not proven.is_whole:
            missing.append(chunk)
    # Not before all seem to be there: it may be all of the file that has to be read.
    missing = missing or folder.refuted(manifest)
    if missing:
        return Incomplete(missing)
    return publish_parts(volume, folder, manifest, receipts, may_publish=may_publish)


def publish_parts(
    volume: Volume,
    folder: JobFolder,
    manifest: Manifest,
    receipts: Sequence[Receipt],
    *,
    may_publish: Callable[[], bool] = lambda: True,
) -> Merged:
    """Join, check and publish parts whose receipts are all there, in order; errors as for `merge_parts`."""
    size_bytes = sum(receipt.length_bytes for receipt in receipts)
    path = volume.path_of(manifest.destination)
    digest = manifest.spec.sha256
    # A merge that died right after publishing is run again, and finds its file under both names.
    if not folder.holds(path):
        whole = folder.join(manifest, receipts)
        folder.check_size(whole, size_bytes)
        digest = _check_digest(folder, whole, manifest)
        if manifest.spec.sync:
            folder.sync_file(whole)
        if not may_publish():
            raise AttemptStopped(StopReason.JOB_ENDED)
        try:
            volume.publish(
                whole, manifest.destination, overwrite=manifest.spec.overwrite, sync=manifest.spec.sync
            )
        except DestinationExists:
            # By another delivery of the same message, which was quicker.
            if not folder.holds(path):
                raise
    return Merged(
        path=path,
        size_bytes=size_bytes,
        crc32c=combine_crc32c((receipt.crc32c, receipt.length_bytes) for receipt in receipts),
        sha256=digest,
    )


def _check_digest(folder: JobFolder, whole: Path, manifest: Manifest) -> str | None:
    expected = manifest.spec.sha256
    if expected is None:
        return None
    actual = sha256(folder.blocks_of(whole))
    if actual != expected:
        raise DigestMismatch(manifest.destination, "SHA-256", expected, actual)
    return actual
