"""The results as a part of a page: the machine, a table of verdicts, a table of costs."""

from __future__ import annotations

import datetime as dt
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scale.verdicts import Verdict

_BEGIN, _END = "<!-- make scale writes from here -->\n", "<!-- to here -->\n"
_VERDICTS = "| what | measured | asked for | |\n|---|---|---|---|"
_COSTS = (
    "| cost of | Redis commands | round trips | kB to Redis | kB from it | ms of Redis | ms of workers "
    "| ms of control |\n|---|---|---|---|---|---|---|---|"
)


def text(verdicts: Sequence[Verdict], costs: Sequence[str], where: str) -> str:
    """All results.

    Args:
        verdicts: what was asked for.
        costs: rows of that table, and what is to be said below it; empty: they were not measured.
        where: what they were measured on.
    """
    lines = [where, "", _VERDICTS, *(each.row for each in verdicts)]
    if costs:
        lines += ["", _COSTS, *costs]
    return "\n".join(lines) + "\n"


def machine(folder: Path | None, given: Sequence[str], rounds_count: int) -> str:
    """When and on what, with the settings that are not the program's defaults."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    day = dt.datetime.now(dt.UTC).date().isoformat()
    where = "on a disk" if folder else "in memory"
    return (
        f"{day}, {os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, "
        f"TCP {control}; volume {where}; settings: {' '.join(given) or 'defaults'}. "
        + (f"Medians of {rounds_count} rounds." if rounds_count > 1 else "One round.")
    )


def write(file: Path, results: str) -> None:
    """Put results between the two marks of a page; `ClickException` if it does not have them."""
    before, begin, rest = file.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise click.ClickException(
            f"{file} has no place for the results, between {_BEGIN.strip()} and {_END.strip()}."
        )
    file.write_text(f"{before}{begin}\n{results}\n{end}{after}")
