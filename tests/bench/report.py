"""Results as tables for people."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bench.figures import ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Figure
    from bench.latency import Timing
    from bench.memory import HighWater
    from bench.polite import Rate
    from bench.rounds import Series

_MIB = 1024 * 1024
_GIB = 1024 * _MIB

#: What is compared: the field of `Usage`, and what the table calls it.
COMPARED = {"wall_seconds": "wall", "cpu_seconds": "CPU", "sum_rss_bytes": "memory"}


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spread(values: Sequence[float], *, digits: int = 2) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def print_series(all_series: Sequence[Series], total_bytes: int) -> None:
    """Print what each program took for so many bytes."""
    table = _table(
        f"{total_bytes / _MIB:g} MiB, {len(all_series[0].runs)} runs: median (least..greatest)",
        "program", "wall, s", "MiB/s", "CPU, s", "CPU, s/GiB", "origin CPU, s", "largest, MiB", "sum, MiB",
    )  # fmt: skip
    for series in all_series:
        walls, cpus = series.values("wall_seconds"), series.values("cpu_seconds")
        table.add_row(
            series.shown_as,
            _spread(walls),
            f"{total_bytes / _MIB / statistics.median(walls):.0f}",
            _spread(cpus),
            f"{statistics.median(cpus) * _GIB / total_bytes:.2f}",
            f"{statistics.median(series.values('origin_cpu_seconds')):.2f}",
            f"{max(series.values('largest_rss_bytes')) / _MIB:.0f}",
            f"{max(series.values('sum_rss_bytes')) / _MIB:.0f}",
        )
    _print(table)


def print_ratios(all_series: Sequence[Series]) -> None:
    """Print this program's ratios to its peers, if there are both."""
    own = [series for series in all_series if series.is_own]
    peers = [series for series in all_series if not series.is_own]
    if not own or not peers:
        return
    title = "this program / peer: ratio of medians (of single rounds); below 1 this program needs less"
    table = _table(title, "program", "of", *(series.shown_as for series in peers))
    for series in own:
        for field, called in COMPARED.items():
            cells = []
            for peer in peers:
                one = ratio("", series, peer, field)
                cells.append(f"{one.median:.2f} ({one.least:.2f}..{one.greatest:.2f})")
            table.add_row(series.shown_as, called, *cells)
    _print(table)


def print_figures(figures: Sequence[Figure]) -> None:
    """Print what the run is about, each with its target."""
    if not figures:
        return
    table = _table("figures", "what", "median", "least", "greatest", "target")
    for one in figures:
        table.add_row(one.what, f"{one.median:.3f}", f"{one.least:.3f}", f"{one.greatest:.3f}", one.target)
    _print(table)


def print_latency(timings: Sequence[Timing]) -> None:
    """Print the timings."""
    table = _table("median (least..greatest)", "what", "runs", "ms", "target")
    for timing in timings:
        milliseconds = [seconds * 1000 for seconds in timing.seconds]
        spread = _spread(milliseconds, digits=1)
        table.add_row(timing.what, str(len(milliseconds)), spread, timing.figure.target)
    _print(table)


def print_memory(marks: Sequence[HighWater]) -> None:
    """Print what each process needed, and the sum."""
    table = _table(
        "high-water mark (VmHWM) of the worker's processes, MiB", "process", "ready", "after the job"
    )
    for mark in marks:
        table.add_row(mark.process, f"{mark.ready_bytes / _MIB:.1f}", f"{mark.peak_bytes / _MIB:.1f}")
    table.add_section()
    ready_bytes, peak_bytes = sum(m.ready_bytes for m in marks), sum(m.peak_bytes for m in marks)
    table.add_row("sum", f"{ready_bytes / _MIB:.1f}", f"{peak_bytes / _MIB:.1f}")
    _print(table)


def print_polite(rates: Sequence[Rate]) -> None:
    """Print rates, and what they are of four times that of one connection."""
    table = _table(
        "an origin with 1 MiB/s a connection and four connections to a client",
        "what", "MiB/s", "of 4 connections", "refused", "not 4 in use, s",
    )  # fmt: skip
    for rate in rates:
        share = "" if rate.share is None else f"{rate.share:.2f}"
        counts = ("", "") if rate.share is None else (str(rate.refused_count), f"{rate.idle_seconds:.2f}")
        table.add_row(rate.what, f"{rate.mib_per_second:.2f}", share, *counts)
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    # Piped into a file, rich would cut the columns to 80 characters.
    Console(width=None if console.is_terminal else 250).print(table)
