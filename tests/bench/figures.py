"""Figures: one number that a run is about, its spread, and the most that it is to be."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.rounds import Series

#: The stated targets. A figure that has none here is reported without.
AT_MOST = {
    "written": 1.02,  #: bytes written for each byte of the file
    "fetched again": 0.03,  #: of the file, after everything was killed half-way
    "digest": 1.25,  #: the time with a SHA-256 over that without
}


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    what: str
    median: float  #: of a ratio: the ratio of the medians
    least: float  #: of a ratio: of one round
    greatest: float
    at_most: float | None = None  #: None: no target is stated

    @property
    def target(self) -> str:
        """The target, and whether it is reached."""
        if self.at_most is None:
            return "none stated"
        return f"at most {self.at_most:g}: {'reached' if self.median <= self.at_most else 'MISSED'}"


def figure(what: str, values: Sequence[float], *, at_most: float | None = None) -> Figure:
    """A figure out of one value for each run."""
    return Figure(what, statistics.median(values), min(values), max(values), at_most)


def ratio(
    what: str, one: Series, other: Series, field: str = "wall_seconds", *, at_most: float | None = None
) -> Figure:
    """One series over another: the ratio of the medians, the least and the greatest ratio of one round."""
    ours, theirs = one.values(field), other.values(field)
    # A run may be too short for the kernel to have counted anything.
    rounds = [our / their for our, their in zip(ours, theirs, strict=True) if their]
    if not rounds or not statistics.median(theirs):
        return Figure(what, math.nan, math.nan, math.nan, at_most)
    median = statistics.median(ours) / statistics.median(theirs)
    return Figure(what, median, min(rounds), max(rounds), at_most)


def ratios_to_peers(
    own: Series, all_series: Sequence[Series], field: str = "wall_seconds", called: str = "time"
) -> list[Figure]:
    """This program over each peer."""
    return [
        ratio(f"{called}: {own.shown_as} / {peer.shown_as}", own, peer, field)
        for peer in all_series
        if not peer.is_own
    ]
