"""Use case: read a finished file once more, and compare it with what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.transfer.digests import Hasher
from tasks.transfer.errors import FileUnreadable
from tasks.transfer.volume import read_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Compared(BaseModel):
    """One value that was known, and the one that the file has."""

    model_config = ConfigDict(frozen=True)

    what: str  #: ``size_bytes``, or an algorithm
    expected: str
    actual: str


class Verification(BaseModel):
    """What came of it, as ``verify --json`` prints it."""

    model_config = ConfigDict(frozen=True)

    path: str
    is_same: bool
    compared: tuple[Compared, ...]


def verify_file(
    path: Path,
    digests: Mapping[str, str],
    *,
    size_bytes: int | None = None,
    check: Callable[[], object] = lambda: None,
) -> Verification:
    """Read a file, and compare its digests, and its size if that is known.

    Args:
        path: of the file.
        digests: algorithm -> hexadecimal, lower case; names as in `digests.LENGTHS_BYTES`.
        size_bytes: None: not known.
        check: asked after each block; what it raises ends the reading.

    Raises:
        FileUnreadable: it is not there, or cannot be read.
    """
    hasher = Hasher(digests)
    seen_bytes = 0
    try:
        for block in read_blocks(path):
            check()
            hasher.update(block)
            seen_bytes += len(block)
    except OSError as error:
        raise FileUnreadable(str(path), error.strerror or type(error).__name__) from None
    actual = hasher.digests()
    compared = [Compared(what=name, expected=digests[name], actual=actual[name]) for name in sorted(digests)]
    if size_bytes is not None:
        compared.insert(0, Compared(what="size_bytes", expected=str(size_bytes), actual=str(seen_bytes)))
    is_same = all(each.expected == each.actual for each in compared)
    return Verification(path=str(path), is_same=is_same, compared=tuple(compared))
