"""The order of programs within a round: balanced, so that no program always follows the same one.

What ran before leaves its mark. In a fixed cycle on ext4, whichever of this program's two warm rows came
right after `curl` took about twice as long as the other one: sync looked faster than no sync.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def balanced(items: Sequence[T], round_number: int) -> list[T]:
    """The order of one round, counted from 0.

    Over as many rounds as there are items (twice as many for an odd count), each item has each place equally
    often, and within the rounds follows each other item equally often.

    Source: E. J. Williams, Experimental designs balanced for the estimation of residual effects, 1949.
    """
    count = len(items)
    zigzag = [(place + 1) // 2 if place % 2 else count - place // 2 for place in range(count)]
    row = [items[(number + round_number) % count] for number in zigzag]
    # An odd count is balanced only together with the mirrored rounds.
    is_mirrored = count % 2 == 1 and (round_number // count) % 2 == 1
    return row[::-1] if is_mirrored else row
