"""Use case: check every receipt in order, join the parts in order, check the digest, publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.transfer.digests import combine_crc32c, sha256
from tasks.transfer.errors import DigestMismatch

if TYPE_CHECKING:
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
    brought_bytes: dict[str, int]  #: by worker host


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What a merge found missing: these chunks have to be sent again."""

    chunks: list[Chunk]


def merge_parts(volume: Volume, manifest: Manifest, attempt_name: str) -> Merged | Incomplete:
    """Merge what the volume proves to be there; what a chord's count says is not asked.

    Args:
        volume: where the parts are.
        manifest: the plan.
        attempt_name: unique to this attempt, for a temporary name.

    Returns:
        The published file, or the chunks that have no receipt; then nothing was changed.

    Raises:
        DigestMismatch: the file is not the one asked for; it was not published.
        VolumeError: the volume failed; the parts are kept.
    """
    folder = volume.job(manifest.job_id)
    receipts: list[Receipt] = []
    missing: list[Chunk] = []
    for chunk in manifest.chunks():
        receipt = folder.receipt(manifest, chunk)
        if receipt is None:
            missing.append(chunk)
        else:
            receipts.append(receipt)
    if missing:
        return Incomplete(missing)
    return publish_parts(volume, folder, manifest, receipts, attempt_name)


def publish_parts(
    volume: Volume, folder: JobFolder, manifest: Manifest, receipts: list[Receipt], attempt_name: str
) -> Merged:
    """Join, check and publish parts whose receipts are all there, in order; errors as for `merge_parts`."""
    whole = folder.join(manifest, receipts, attempt_name)
    digest = _check_digest(folder, whole, manifest)
    if manifest.spec.sync:
        folder.sync_file(whole)
    path = volume.publish(
        whole, manifest.destination, overwrite=manifest.spec.overwrite, sync=manifest.spec.sync
    )
    brought: dict[str, int] = {}
    for receipt in receipts:
        for worker, count_bytes in receipt.brought_bytes.items():
            brought[worker] = brought.get(worker, 0) + count_bytes
    return Merged(
        path=path,
        size_bytes=sum(receipt.length_bytes for receipt in receipts),
        crc32c=combine_crc32c((receipt.crc32c, receipt.length_bytes) for receipt in receipts),
        sha256=digest,
        brought_bytes=brought,
    )


def _check_digest(folder: JobFolder, whole: Path, manifest: Manifest) -> str | None:
    expected = manifest.spec.sha256
    if expected is None:
        return None
    actual = sha256(folder.blocks_of(whole))
    if actual != expected:
        raise DigestMismatch(manifest.destination, "SHA-256", expected, actual)
    return actual
