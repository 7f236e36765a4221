"""The retry policy: counts failures without progress and says how long to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again, and when to stop; an immutable value."""

    fruitless_attempts: int = 8  #: attempts in a row without a new byte before giving up
    backoff_cap_seconds: float = 30.0  #: the longest backoff
    backoff_base_seconds: float = 0.5  #: the longest first backoff
    max_wait_seconds: float = 120.0  #: the longest ``Retry-After`` that is obeyed

    def delay_seconds(
        self,
        fruitless_count: int,
        *,
        retry_after_seconds: float | None,
        uniform: Callable[[float, float], float],
    ) -> float | None:
        """How long to wait before the next attempt, or None to give up.

        Args:
            fruitless_count: attempts in a row that brought no new byte, this one included;
                0 when it brought some.
            retry_after_seconds: what the origin asked for; longer than `max_wait_seconds` is giving up.
            uniform: chance, such as `random.uniform`. Full jitter: without it a fleet that was
                refused together comes back together.
        """
        if fruitless_count >= self.fruitless_attempts:
            return None
        if retry_after_seconds is not None:
            if retry_after_seconds > self.max_wait_seconds:
                return None
            # Some jitter on top: everyone was told the same instant.
            return retry_after_seconds + uniform(0.0, 1.0)
        doublings = min(max(fruitless_count - 1, 0), 16)
        longest_seconds = min(self.backoff_cap_seconds, self.backoff_base_seconds * 2**doublings)
        return uniform(0.0, longest_seconds)
