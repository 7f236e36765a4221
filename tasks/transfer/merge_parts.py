"""Use case: check every receipt in order, check the digests, join the parts in order, publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.digests import CRC32C, combine_crc32c
from tasks.transfer.errors import DestinationExists, DigestMismatch, VolumeMissing
from tasks.transfer.whole_pass import algorithms_to_pass, digests_of_follower, expected_digests, hash_parts

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
    digests: dict[str, str]  #: those that were compared: algorithm -> hexadecimal
    receipts: Sequence[Receipt]  #: of all that it is made of, in order
    was_followed: bool = False  #: they were computed while parts were still being fetched


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What a merge found missing: these chunks have to be sent again."""

    chunks: list[Chunk]  #: none: others have brought the last meanwhile


def merge_parts(
    volume: Volume,
    manifest: Manifest,
    *,
    check: Callable[[], object] = lambda: None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Merged | Incomplete:
    """Merge what the volume proves to be there; what a chord's count says is not asked.

    Args:
        volume: where the parts are.
        manifest: the plan.
        check: asked between blocks, as long as nothing is published; what it raises ends the merge, and what it had
            joined is removed.
        may_publish: asked right before the file becomes visible: a job may be cancelled while parts are joined.

    Returns:
        The published file, or the chunks that are not there as a whole; then nothing was published.

    Raises:
        DigestMismatch: the file is not the one asked for; it was not published.
        VolumeError: the volume failed; the parts are kept.
        AttemptStopped: it may not be published any more.
    """
    folder = volume.job(manifest.job_id)
    receipts, missing = _proven(folder, manifest)
    try:
        # Not before all seem to be there: it may be all of the file that has to be read.
        missing = missing or folder.refuted(manifest, check=check)
        if missing:
            return Incomplete(missing)
        return publish_parts(volume, folder, manifest, receipts, check=check, may_publish=may_publish)
    except VolumeMissing:
        # Who takes a part over in the moment in which it becomes whole removes the file that its receipt names.
        present, missing = _proven(folder, manifest)
        if present == receipts or folder.read_manifest() is None:
            raise
        return Incomplete(missing)


def _proven(folder: JobFolder, manifest: Manifest) -> tuple[list[Receipt], list[Chunk]]:
    """The receipts that stand, in order, and the chunks that they do not prove to be there as a whole."""
    receipts: list[Receipt] = []
    missing: list[Chunk] = []
    for chunk in manifest.chunks():
        proven = folder.proven(manifest, chunk)
        receipts += proven.receipts
        if not proven.is_whole:
            missing.append(chunk)
    return receipts, missing


def publish_parts(
    volume: Volume,
    folder: JobFolder,
    manifest: Manifest,
    receipts: Sequence[Receipt],
    *,
    check: Callable[[], object] = lambda: None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Merged | Incomplete:
    """Check, join and publish parts whose receipts are all there, in order; otherwise as `merge_parts`."""
    size_bytes = sum(receipt.length_bytes for receipt in receipts)
    whole_crc32c = combine_crc32c((receipt.crc32c, receipt.length_bytes) for receipt in receipts)
    path = volume.path_of(manifest.destination)
    was_followed = False
    # A merge that died right after publishing is run again, and finds its file under both names.
    if not folder.holds(path, manifest):
        bad, was_followed = _check_digests(folder, manifest, receipts, whole_crc32c, check)
        if bad:
            return Incomplete(bad)
        whole = folder.join(manifest, receipts, check=check)
        try:
            _make_ready(folder, manifest, whole, size_bytes)
            check()
            _ask(may_publish)
            _publish(volume, folder, manifest, whole, check)
        except (AttemptStopped, DestinationExists):
            folder.discard_joined(whole)
            raise
    return Merged(
        path=path,
        size_bytes=size_bytes,
        crc32c=whole_crc32c,
        digests=expected_digests(manifest),
        receipts=receipts,
        was_followed=was_followed,
    )


def _make_ready(folder: JobFolder, manifest: Manifest, whole: Path, size_bytes: int) -> None:
    folder.check_size(whole, size_bytes)
    if manifest.spec.sync:
        folder.sync_file(whole)


def _ask(may_publish: Callable[[], bool]) -> None:
    if not may_publish():
        raise AttemptStopped(StopReason.JOB_ENDED)


def _publish(
    volume: Volume, folder: JobFolder, manifest: Manifest, whole: Path, check: Callable[[], object]
) -> None:
    spec = manifest.spec
    try:
        volume.publish(whole, manifest.destination, overwrite=spec.overwrite, sync=spec.sync)
    except DestinationExists:
        # By another merge or plan of this job, which was quicker, or died right after.
        if not folder.holds(volume.path_of(manifest.destination), manifest) and not volume.has_same_content(
            manifest.destination, whole, check=check
        ):
            raise


def _check_digests(
    folder: JobFolder,
    manifest: Manifest,
    receipts: Sequence[Receipt],
    whole_crc32c: int,
    check: Callable[[], object],
) -> tuple[list[Chunk], bool]:
    """Compare the whole file's digests with what is expected.

    Returns:
        Chunks whose bytes on the volume are not those that came: they have to be fetched again. And whether the
        digests were there before.

    Raises:
        DigestMismatch: what came is not the file, or a chunk's bytes changed on the volume for the second time.
    """
    # First, because it needs no pass; and what the volume did to the bytes since does not change it.
    _compare(manifest, {CRC32C: f"{whole_crc32c:08x}"})
    if not algorithms_to_pass(manifest):
        return [], False
    followed = digests_of_follower(folder, manifest, receipts, check=check)
    if followed is not None:
        _compare(manifest, followed)
        return [], True
    whole_pass = hash_parts(folder, manifest, receipts, check=check)
    if whole_pass.bad:
        return _refuse(folder, manifest, whole_pass.bad), False
    _compare(manifest, whole_pass.digests())
    return [], False


def _compare(manifest: Manifest, digests: dict[str, str]) -> None:
    expected = expected_digests(manifest)
    for algorithm in expected.keys() & digests.keys():
        if digests[algorithm] != expected[algorithm]:
            raise DigestMismatch(
                manifest.destination,
                algorithm,
                expected[algorithm],
                digests[algorithm],
                "user" if manifest.spec.digests else "origin",
            )


def _refuse(folder: JobFolder, manifest: Manifest, bad: Sequence[tuple[Receipt, int]]) -> list[Chunk]:
    """Have bad chunks fetched again, but not again and again."""
    receipts = [receipt for receipt, _ in bad]
    if folder.refuse(manifest, receipts):
        receipt, seen_crc32c = bad[0]
        begin = manifest.chunk(receipt.number).start + receipt.start
        where = f"{manifest.destination}, bytes {begin}-{begin + receipt.length_bytes - 1} on the volume,"
        raise DigestMismatch(where, CRC32C, f"{receipt.crc32c:08x}", f"{seen_crc32c:08x}", "receipt")
    return [manifest.chunk(number) for number in sorted({receipt.number for receipt in receipts})]
