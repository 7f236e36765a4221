"""Figures: one number that a run is about, its spread, and what it is to be."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.rounds import Series


@dataclass(frozen=True)
class Target:
    """What a figure's median is to be."""

    bound: Literal["at most", "under", "at least"]
    value: float

    def is_reached_by(self, value: float) -> bool:
        """Whether a value is within the bound; one that is not a number never is."""
        if self.bound == "at least":
            return value >= self.value
        return value < self.value if self.bound == "under" else value <= self.value


#: The stated targets. A figure that has none here is reported without.
TARGETS = {
    "written": Target("at most", 1.02),  #: bytes written for each byte of the file
    "CPU": Target("at most", 1.0),  #: CPU seconds for each GiB, of aria2's
    "fetched again": Target("at most", 0.03),  #: of the file, after everything was killed half-way
    "digest": Target("at most", 1.25),  #: the time with a SHA-256 over that without
    "tail": Target("at most", 1.3),  #: the time with one connection in eight slow over that with none
    "latency": Target("under", 25.0),  #: milliseconds for 1 MiB on the warm cluster
    "polite": Target("at least", 0.9),  #: of four connections, where the origin allows four
}

#: The most that this program is to take of the time of each peer, by where or how it is measured.
_OF_PEERS_TIME = {
    "tmpfs": {"floor": 1.15, "hf8": 1.0, "hf16": 1.0, "aria2c": 0.6, "curl": 0.75, "axel": 0.5},
    "loop ext4": {"aria2c": 0.5, "curl": 0.8},
    "TLS": {"aria2c": 0.6, "curl": 0.95},
    "throttled": {"aria2c": 0.3, "aria2c-k1M": 0.3},
    "batch": {"aria2c -j16 -i": 0.8},
}


def of_peers_time(where: str) -> dict[str, Target]:
    """The targets of the ratios to the peers, by their names; empty if none are stated for this."""
    return {name: Target("at most", value) for name, value in _OF_PEERS_TIME.get(where, {}).items()}


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    what: str
    median: float  #: of a ratio: the ratio of the medians
    least: float  #: of a ratio: of one round
    greatest: float
    aim: Target | None = None  #: None: no target is stated

    @property
    def target(self) -> str:
        """The target, and whether it is reached."""
        if self.aim is None:
            return "none stated"
        outcome = "reached" if self.aim.is_reached_by(self.median) else "MISSED"
        return f"{self.aim.bound} {self.aim.value:g}: {outcome}"


def figure(what: str, values: Sequence[float], *, aim: Target | None = None) -> Figure:
    """A figure out of one value for each run."""
    return Figure(what, statistics.median(values), min(values), max(values), aim)


def ratio(
    what: str, one: Series, other: Series, field: str = "wall_seconds", *, aim: Target | None = None
) -> Figure:
    """One series over another: the ratio of the medians, the least and the greatest ratio of one round."""
    ours, theirs = one.values(field), other.values(field)
    # A run may be too short for the kernel to have counted anything.
    rounds = [our / their for our, their in zip(ours, theirs, strict=True) if their]
    if not rounds or not statistics.median(theirs):
        return Figure(what, math.nan, math.nan, math.nan, aim)
    median = statistics.median(ours) / statistics.median(theirs)
    return Figure(what, median, min(rounds), max(rounds), aim)


def ratios_to_peers(own: Series, all_series: Sequence[Series], aims: Mapping[str, Target]) -> list[Figure]:
    """This program's time over that of each peer, with the targets that peers have by their names."""
    return [
        ratio(f"time: {own.shown_as} / {peer.shown_as}", own, peer, aim=aims.get(peer.name))
        for peer in all_series
        if not peer.is_own
    ]
