"""Reading all parts once, in order: digests of the whole file, and each part held against its receipt."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from tasks.transfer.digests import CRC32C, Hasher, crc32c, strongest
from tasks.transfer.manifest import Followed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tasks.transfer.manifest import Manifest, Receipt
    from tasks.transfer.volume import JobFolder

#: A follower that stands still for so long is taken for dead. It tells how far it is several times a second.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 0.01


def expected_digests(manifest: Manifest) -> dict[str, str]:
    """What the whole file must have: algorithm -> hexadecimal.

    The user's word alone, if there is one: whatever the origin says besides, it decides. Else what the origin offers:
    CRC32C, which costs nothing, and the strongest of the others.
    """
    spec, offered = manifest.spec, manifest.offered_digests
    if spec.digests or not spec.verifies_offered:
        return dict(spec.digests)
    return {name: value for name, value in offered.items() if name in (CRC32C, strongest(offered))}


def algorithms_to_pass(manifest: Manifest) -> set[str]:
    """The expected digests that cannot be combined from those of the parts."""
    return set(expected_digests(manifest)) - {CRC32C}


class WholePass:
    """One pass over the parts of a plan."""

    def __init__(self, folder: JobFolder, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._hasher = Hasher(algorithms_to_pass(manifest))
        self._covered = hashlib.sha256()
        self.length_bytes = 0  #: what was read
        self.bad: list[tuple[Receipt, int]] = []  #: receipts whose bytes are others, with their CRC32C

    def read(self, receipt: Receipt) -> Iterator[None]:
        """Go on with the part of the next receipt; yields now and then, and is done when it ends."""
        seen_crc32c = seen_bytes = 0
        for block in self._folder.blocks_of(self._manifest, receipt):
            seen_crc32c = crc32c(block, seen_crc32c)
            self._hasher.update(block)
            seen_bytes += len(block)
            self.length_bytes += len(block)
            yield
        if (seen_bytes, seen_crc32c) != (receipt.length_bytes, receipt.crc32c):
            self.bad.append((receipt, seen_crc32c))
        self._covered.update(_line_of(receipt))

    def followed(self) -> Followed:
        """What is known so far."""
        return Followed(
            receipts_id=self._covered.hexdigest(),
            length_bytes=self.length_bytes,
            digests=self._hasher.digests(),
        )

    def digests(self) -> dict[str, str]:
        """Of all that was read."""
        return self._hasher.digests()


def digests_of_follower(
    folder: JobFolder,
    manifest: Manifest,
    receipts: Iterable[Receipt],
    *,
    check: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, str] | None:
    """What somebody has hashed while the parts were fetched, if that is exactly these parts.

    One that is still at it is waited for: it is ahead of whoever would begin now. What `check` raises, asked all the
    while, ends that.

    Returns:
        The digests, or None if there is nobody, or nobody who goes on.
    """
    wanted_id, algorithms = _id_of(receipts), algorithms_to_pass(manifest)
    seen_bytes, moved_seconds = -1, clock()
    while (followed := folder.read_followed(manifest)) is not None and algorithms <= followed.digests.keys():
        if followed.receipts_id == wanted_id:
            return followed.digests
        if followed.length_bytes != seen_bytes:
            seen_bytes, moved_seconds = followed.length_bytes, clock()
        elif clock() - moved_seconds > _PATIENCE_SECONDS:
            break
        check()
        sleep(_LOOK_SECONDS)
    return None


def hash_parts(
    folder: JobFolder,
    manifest: Manifest,
    receipts: Sequence[Receipt],
    *,
    check: Callable[[], object] = lambda: None,
) -> WholePass:
    """Read all parts now; what `check` raises, asked after each block, ends it."""
    whole_pass = WholePass(folder, manifest)
    for receipt in receipts:
        for _ in whole_pass.read(receipt):
            check()
        # Of a job that others have merged meanwhile, no block is there.
        check()
    return whole_pass


def _id_of(receipts: Iterable[Receipt]) -> str:
    covered = hashlib.sha256()
    for receipt in receipts:
        covered.update(_line_of(receipt))
    return covered.hexdigest()


def _line_of(receipt: Receipt) -> bytes:
    # All that says where the bytes are and what they are.
    fields = (receipt.number, receipt.start, receipt.length_bytes, receipt.crc32c, receipt.file_name)
    return f"{fields}\n".encode()
