"""Who yields: of the attempts of one process the one that ends, so that a job without any connection gets one.

Or a host, where this one has more of an origin's connections than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.records import Progress, Standing, Starving
    from tasks.transfer.attempt import Attempt

#: As long as this a job waits for a connection or a slot before somebody yields: as a rule one is free by then.
STARVES_SECONDS = 0.4
#: An attempt that began just now would have connected for nothing.
LEAST_TURN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt that may yield."""

    attempt: Attempt
    report: Progress
    standing: Standing


def who_yields(held: Iterable[Held]) -> tuple[Held, Starving] | None:
    """The attempt that ends, and for whom; None if nobody starves that one of these could help.

    It is one of a job of lower priority, else one of the job that has the most connections, which keeps one at least.
    """
    found = [
        (each, starving)
        for each in held
        for starving in each.standing.starving
        if starving.job_id != each.report.job_id
        and starving.seconds >= STARVES_SECONDS
        and (
            starving.rank < each.report.rank
            or (
                starving.rank == each.report.rank
                and not starving.has_connections
                and each.standing.connections_count > 1
            )
        )
    ]
    return max(
        found,
        key=lambda pair: (
            -pair[1].rank,
            pair[0].report.rank,
            pair[0].standing.connections_count,
            pair[1].seconds,
        ),
        default=None,
    )


def who_yields_to_a_host(held: Iterable[Held]) -> tuple[Held, str] | None:
    """The attempt that ends, and the host for which it does; None if none is in need that one of these could help.

    It is one of the job that has the most connections, which keeps one at least.
    """
    found = [
        (each, each.standing.host_in_need)
        for each in held
        if each.standing.host_in_need is not None and each.standing.connections_count > 1
    ]
    return max(found, key=lambda pair: pair[0].standing.connections_count, default=None)
