"""Digests: CRC32C of each part while it streams, and of the whole file by combining."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from awscrt import checksums

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Algorithms by their names in HTTP (RFC 9530, section 7.2), with the length of a digest.
LENGTHS_BYTES = {"sha-512": 64, "sha-256": 32, "sha-1": 20, "md5": 16, "crc32c": 4}
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def crc32c(data: bytes | memoryview, previous: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720 appendix B.4) of `data`, going on from `previous`."""
    return int(checksums.crc32c(data, previous))


def combine_crc32c(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC32C of parts in order, each given as its CRC32C and its length in bytes."""
    whole = 0
    for crc, length_bytes in parts:
        whole = int(checksums.combine_crc32c(whole, crc, length_bytes))
    return whole


def parse_sha256(text: str) -> str:
    """A SHA-256 in hexadecimal, lower case.

    Raises:
        ValueError: `text` is not 64 hexadecimal digits.
    """
    if not _SHA256.fullmatch(text):
        raise ValueError(f"not a SHA-256 of 64 hexadecimal digits: {text[:80]!r}")
    return text.lower()


def sha256(blocks: Iterable[bytes]) -> str:
    """SHA-256 of blocks in order, in hexadecimal."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
