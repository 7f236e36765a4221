"""Comparing a file of this host with digests that the user has; no worker and no Redis are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import checksums as checksum_lists
from orchestrator.access import Access, request_for
from tasks.transfer.attempt import Attempt
from tasks.transfer.errors import BadOption
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.verify_file import Verification, verify_file

if TYPE_CHECKING:
    from collections.abc import Mapping


def verify_here(
    path: Path, *, sha256: str | None, digests: Mapping[str, str], checksums: str | None
) -> Verification:
    """Read a file and compare.

    Args:
        path: of the file.
        sha256: in hexadecimal.
        digests: others, by algorithm.
        checksums: a list of checksums, by its URL or its path.

    Raises:
        UsageError: the digests make no sense, or there are none. TransferError: something could not be read.
    """
    found: Mapping[str, str] = {}
    if checksums is not None and checksum_lists.is_url(checksums):
        source = Source(request_for(checksums, Access()), HttpLimits())
        text = source.read_text(checksum_lists.MOST_BYTES, Attempt("verify"))
        found = checksum_lists.choose(text, [str(path)], source=source.name)
    elif checksums is not None:
        found = checksum_lists.read_list(Path(checksums)).choose([str(path)])
    expected = checksum_lists.given(sha256, digests, found)
    if not expected:
        raise BadOption(f"What is {path} to be compared with? Give --sha256, --checksum or --checksums.")
    return verify_file(path, expected)
