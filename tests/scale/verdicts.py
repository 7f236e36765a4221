"""What a measure says: a figure, what it is to be, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """One line of the report."""

    what: str
    value: float
    shown: str  #: the figure and what it is made of
    bound: Literal["at least", "at most"] | None = None  #: None: it is told, and nothing is asked of it
    target: float = 0.0

    @property
    def passes(self) -> bool:
        """Whether the figure is what it is to be; one that is not a number never is."""
        if self.bound is None:
            return True
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target

    @property
    def row(self) -> str:
        """It as a row of a table in Markdown."""
        if self.bound is None:
            return f"| {self.what} | {self.shown} | | |"
        outcome = "pass" if self.passes else "**falls short**"
        return f"| {self.what} | {self.shown} | {self.bound} {self.target:g} | {outcome} |"
