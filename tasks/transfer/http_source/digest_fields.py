"""Digests of the whole file that a server offers in the head of its answer."""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import TYPE_CHECKING

import http_sf

from tasks.transfer.digests import LENGTHS_BYTES, algorithm_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_AMAZON = "x-amz-checksum-"


def offered_digests(headers: Mapping[str, str], *, is_whole: bool) -> dict[str, str]:
    """What the file's digests are, as the server says: algorithm -> hexadecimal.

    Algorithms are named as in `LENGTHS_BYTES`; others, and values that make no sense, are left out: a digest is an
    offer, and one that cannot be read is none. So is one that is given twice with two values.

    Args:
        headers: of a 200 or 206 whose content coding is not undone.
        is_whole: the body is the whole file: fields that are about the body alone count too.
    """
    found: dict[str, str] = {}
    contradicted: set[str] = set()
    for name, value in _all(headers, is_whole=is_whole):
        algorithm = algorithm_of(name)
        if algorithm is None or LENGTHS_BYTES[algorithm] != len(value):
            continue
        if found.setdefault(algorithm, value.hex()) != value.hex():
            contradicted.add(algorithm)
    return {algorithm: value for algorithm, value in found.items() if algorithm not in contradicted}


def _all(headers: Mapping[str, str], *, is_whole: bool) -> Iterator[tuple[str, bytes]]:
    yield from _structured(headers.get("Repr-Digest", ""))
    # Of the representation too, in the form before RFC 9530 (RFC 3230, section 4.3.2).
    yield from _listed(headers.get("Digest", ""))
    if _is_as_stored(headers):
        yield from _listed(headers.get("x-goog-hash", ""))
    if is_whole:
        yield from _structured(headers.get("Content-Digest", ""))
        yield from _decoded("md5", headers.get("Content-MD5", ""))
        for field, value in headers.items():
            if field.lower().startswith(_AMAZON) and "COMPOSITE" not in headers.get(f"{_AMAZON}type", ""):
                yield from _decoded(field.lower().removeprefix(_AMAZON), value)


def _structured(value: str) -> Iterator[tuple[str, bytes]]:
    """A dictionary of byte sequences (RFC 9530, section 2; RFC 8941, section 3.2)."""
    with contextlib.suppress(ValueError):
        members = http_sf.parse(value.encode("ascii"), tltype="dictionary")
        for name, member in members.items() if isinstance(members, dict) else ():
            if isinstance(member, tuple) and isinstance(member[0], bytes):
                yield name, member[0]


def _listed(value: str) -> Iterator[tuple[str, bytes]]:
    """``SHA-256=<base64>,MD5=<base64>``."""
    for item in value.split(","):
        name, _, encoded = item.strip().partition("=")
        yield from _decoded(name, encoded)


def _decoded(name: str, encoded: str) -> Iterator[tuple[str, bytes]]:
    # A checksum of checksums (``...-5`` on S3) is no base64.
    with contextlib.suppress(binascii.Error, ValueError):
        yield name, base64.b64decode(encoded.strip(), validate=True)


def _is_as_stored(headers: Mapping[str, str]) -> bool:
    """Whether an answer of Google Cloud Storage is the stored object: its digests are of that."""
    stored = headers.get("x-goog-stored-content-encoding", "identity")
    return stored == headers.get("Content-Encoding", "identity")
