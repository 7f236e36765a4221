"""Byte ranges: the arithmetic of splitting a file, and its HTTP spelling.

Inside the program a range is half-open, like a slice. HTTP writes both ends
inclusive. This module is the one place where the two meet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CONTENT_RANGE = re.compile(r"bytes[ \t]+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)
_UNSATISFIED = re.compile(r"bytes[ \t]+\*/(\d{1,19})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """The bytes ``start <= offset < stop`` of a file; never empty."""

    start: int  #: offset of the first byte, from 0
    stop: int  #: offset one past the last byte

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"not a byte range: start={self.start} stop={self.stop}")

    @property
    def length_bytes(self) -> int:
        """How many bytes the range has."""
        return self.stop - self.start

    def to_header(self) -> str:
        """The value of a ``Range`` header that asks for it (RFC 9110, section 14.2)."""
        return f"bytes={self.start}-{self.stop - 1}"

    def __str__(self) -> str:
        return f"bytes {self.start}-{self.stop - 1}"


def nth(number: int, size_bytes: int, each_bytes: int) -> ByteRange:
    """The range with this number, from 0, when a file is split into ranges of `each_bytes` but the last.

    Raises:
        ValueError: the file has no such range.
    """
    start = number * each_bytes
    return ByteRange(start, min(start + each_bytes, size_bytes))


def parse_content_range(value: str) -> tuple[ByteRange, int | None]:
    """Read the range a 206 response says it carries.

    Args:
        value: a ``Content-Range`` header, such as ``bytes 0-499/1234``.

    Returns:
        The range in the body, and the size of the whole file in bytes, or None
        where the server sent ``*`` because it does not know the size.

    Raises:
        ValueError: `value` is not a satisfied byte range. That includes
            ``bytes */1234``, which belongs to a 416 and carries no body, and a
            range that runs past the size it states.

    Source: RFC 9110, section 14.4.
    """
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"not a satisfied byte range: {value[:80]!r}")
    carried = ByteRange(int(match[1]), int(match[2]) + 1)
    if match[3] == "*":
        return carried, None
    size_bytes = int(match[3])
    if carried.stop > size_bytes:
        raise ValueError(f"a range past the size it states: {value[:80]!r}")
    return carried, size_bytes


def parse_unsatisfied_range(value: str) -> int | None:
    """The file's size that a 416 response states (``bytes */1234``), or None where it states none.

    Source: RFC 9110, section 15.5.17.
    """
    match = _UNSATISFIED.fullmatch(value.strip())
    return int(match[1]) if match else None
