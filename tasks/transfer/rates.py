"""Rates: how many bytes may come a second, always the same or by the time of the week; and how sizes are written.

A timetable's times are those of a clock on the wall: when it is put forward or back, what holds is what the table says
of the time that it shows then.
"""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from datetime import datetime

#: How it is written that there is no limit.
NO_LIMIT = "off"

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_TIME = re.compile(r"(?:(mon|tue|wed|thu|fri|sat|sun)[a-z]*-)?(\d{1,2}):(\d\d)", re.IGNORECASE | re.ASCII)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_SEPARATORS = re.compile(r"[\s,;]+")


def parse_size(text: str) -> int:
    """A number of bytes from ``1048576``, ``512k``, ``32M`` or ``1.5GiB``; K, M, G and T are powers of 1024.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size such as 1048576, 512k or 32M")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


@dataclass(frozen=True, slots=True)
class Timetable:
    """What the limit is at each moment of a week; one that never changes has one entry."""

    #: Minute of the week, from Monday 00:00 on, and the bytes a second from then on, None for any; in order.
    changes: tuple[tuple[int, int | None], ...]

    def at(self, moment: datetime) -> int | None:
        """The bytes a second at a moment, by its wall clock; None: as many as come."""
        minute = moment.weekday() * _DAY_MINUTES + moment.hour * 60 + moment.minute
        # Before the first change of the week, the last one of the week before holds.
        return self.changes[bisect.bisect_right(self.changes, minute, key=lambda change: change[0]) - 1][1]


@functools.lru_cache(maxsize=256)
def parse_rate(text: str) -> Timetable:
    """A rate such as ``50M``, ``500k`` or ``off``, or a timetable such as ``08:00 50M, 18:00 off``.

    Each entry of a timetable holds until the next; a time may have a day before it: ``Sat-10:00 off``. Rates are bytes
    a second, with the suffixes of sizes; 0 and ``off`` are no limit.

    Raises:
        ValueError: it is none; the sentence says why.
    """
    words = [word for word in _SEPARATORS.split(text.strip()) if word]
    if not words:
        raise ValueError("an empty rate; give one such as 50M, 500k or off")
    if len(words) == 1:
        return Timetable(((0, _rate(words[0])),))
    if len(words) % 2:
        raise ValueError(
            f"a timetable has a time and a rate in turn, such as '08:00 50M, 18:00 off', and not {text[:80]!r}"
        )
    changes: dict[int, int | None] = {}
    entries = [(*_minutes(time), _rate(rate)) for time, rate in zip(words[::2], words[1::2], strict=True)]
    # What is said of a single day goes before what is said of all.
    for is_of_a_day in (False, True):
        for days, minute, rate in entries:
            if (len(days) == 1) is is_of_a_day:
                changes |= {day * _DAY_MINUTES + minute: rate for day in days}
    return Timetable(tuple(sorted(changes.items())))


def limiting(text: str | None) -> str | None:
    """A rate or a timetable that sets a limit at any time, else None; `ValueError` if it is neither."""
    is_limit = text is not None and any(rate is not None for _, rate in parse_rate(text).changes)
    return text if is_limit else None


#: A rate or a timetable as it was written, for each host asks its own clock what it says; None: no limit.
RateText = Annotated[str | None, Field(max_length=4000), AfterValidator(limiting)]


def _minutes(text: str) -> tuple[range, int]:
    """The days that a time of a timetable is for, and the minute of each."""
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:  # noqa: PLR2004  (a clock's)
        raise ValueError(f"{text[:40]!r} is not a time such as 08:00 or Mon-08:00")
    first = _DAYS.index(match[1].lower()) if match[1] else 0
    return range(first, first + 1 if match[1] else len(_DAYS)), int(match[2]) * 60 + int(match[3])


def _rate(text: str) -> int | None:
    if text.lower() == NO_LIMIT:
        return None
    try:
        return parse_size(text.removesuffix("/s")) or None
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a rate such as 50M, 500k or off") from None
