"""Identity: whether a response carries the version of the file that a plan was made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.transfer.manifest import Validator


@dataclass(frozen=True, slots=True)
class Identity:
    """The version of the file that a plan was made for; every response is held against it."""

    size_bytes: int | None
    validator: Validator
    is_strict: bool = False  #: another ETag is another file, though size and date agree

    def is_same(self, seen: Validator, size_bytes: int | None) -> bool:
        """Whether a response is of this version.

        A validator that was planned must be there: a 206 carries what the 200 would have carried (RFC 9110, section
        15.3.7), also when its ``If-Range`` held.

        Args:
            seen: the response's validator.
            size_bytes: the whole file's size as the response has it; None if it does not say.
        """
        if size_bytes is not None and size_bytes != self.size_bytes:
            return False
        planned = self.validator
        if planned.etag is not None and seen.etag == planned.etag:
            return True
        same_date = planned.last_modified is not None and seen.last_modified == planned.last_modified
        if planned.etag is not None and seen.etag is not None:
            # Some content networks have a tag for each edge: the same file, by its size and date. Not by the date of a
            # file that was changed in the same minute: it may have been changed once more.
            return same_date and size_bytes is not None and not (planned.is_fresh or self.is_strict)
        if planned.etag is not None:
            # The tag is gone; the date is what is left to go by.
            return same_date and not self.is_strict
        if planned.last_modified is not None:
            return same_date
        # An equal weak tag proves nothing, another one proves a change.
        return planned.weak_etag is None or seen.weak_etag in (None, planned.weak_etag)

    def __str__(self) -> str:
        return f"{self.validator}, {self.size_bytes} bytes"
