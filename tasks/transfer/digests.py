"""Digests: CRC32C of each part while it streams, and of the whole file by combining; others in one pass."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from awscrt import checksums

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CRC32C = "crc32c"
#: Algorithms by their names in HTTP (RFC 9530, section 7.2), with the length of a digest; the strongest first.
LENGTHS_BYTES = {"sha-512": 64, "sha-256": 32, "sha-1": 20, "md5": 16, CRC32C: 4}
#: What people, coreutils, BSD and OpenSSL call them, lower case.
_ALIASES = {
    "sha512": "sha-512", "sha2-512": "sha-512", "sha256": "sha-256", "sha2-256": "sha-256", "sha": "sha-1",
    "sha1": "sha-1",
}  # fmt: skip
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)


def crc32c(data: bytes | memoryview, previous: int = 0) -> int:
    """CRC32C (Castagnoli, RFC 3720 appendix B.4) of `data`, going on from `previous`."""
    return int(checksums.crc32c(data, previous))


def combine_crc32c(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC32C of parts in order, each given as its CRC32C and its length in bytes."""
    whole = 0
    for crc, length_bytes in parts:
        whole = int(checksums.combine_crc32c(whole, crc, length_bytes))
    return whole


def algorithm_of(name: str) -> str | None:
    """The algorithm of `LENGTHS_BYTES` that somebody calls by this name, or None."""
    name = _ALIASES.get(name.lower(), name.lower())
    return name if name in LENGTHS_BYTES else None


def parse_hex(algorithm: str, text: str) -> str:
    """A digest in hexadecimal, lower case.

    Raises:
        ValueError: `text` is not as many hexadecimal digits as a digest of this algorithm has.
    """
    digits = 2 * LENGTHS_BYTES[algorithm]
    if len(text) != digits or not _HEX.fullmatch(text):
        raise ValueError(
            f"not a digest of {algorithm}, which has {digits} hexadecimal digits: {text[:150]!r}"
        )
    return text.lower()


def parse_checksum(text: str) -> tuple[str, str]:
    """Read ``ALGO:HEX``, such as ``sha-512:1f2e...``, as the algorithm and the digest in lower case.

    Raises:
        ValueError: it is none, or of an algorithm that is not in `LENGTHS_BYTES`.
    """
    name, colon, digits = text.partition(":")
    algorithm = algorithm_of(name)
    if algorithm is None or not colon:
        raise ValueError(f"not ALGO:HEX with one of {', '.join(LENGTHS_BYTES)}: {text[:150]!r}")
    return algorithm, parse_hex(algorithm, digits)


def agree(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Digests by algorithm.

    Raises:
        ValueError: there are two different ones of one algorithm.
    """
    digests: dict[str, str] = {}
    for algorithm, value in pairs:
        if digests.setdefault(algorithm, value) != value:
            raise ValueError(f"{algorithm} twice: {digests[algorithm]} and {value}")
    return digests


class Hasher:
    """Digests of several algorithms over the same bytes, block by block."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        """Begin; the names are those of `LENGTHS_BYTES`."""
        names = set(algorithms)
        self._crc32c = 0 if CRC32C in names else None
        # Not for security: whoever states an MD5 has nothing better.
        self._others = {
            name: hashlib.new(name.replace("-", ""), usedforsecurity=False) for name in names - {CRC32C}
        }

    def update(self, block: bytes | memoryview) -> None:
        """Go on with a block."""
        if self._crc32c is not None:
            self._crc32c = crc32c(block, self._crc32c)
        for digest in self._others.values():
            digest.update(block)

    def digests(self) -> dict[str, str]:
        """Of all blocks so far: algorithm -> hexadecimal."""
        digests = {name: digest.hexdigest() for name, digest in self._others.items()}
        if self._crc32c is not None:
            digests[CRC32C] = f"{self._crc32c:08x}"
        return digests


def strongest(digests: Mapping[str, str]) -> str | None:
    """The strongest algorithm among these that cannot be combined from parts; None if there is none."""
    return next((name for name in LENGTHS_BYTES if name in digests and name != CRC32C), None)
