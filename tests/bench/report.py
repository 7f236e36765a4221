"""Results as tables for people and as JSON for comparing runs."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bench.programs import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.latency import Timing
    from bench.memory import HighWater
    from bench.polite import Rate
    from bench.throughput import Series
    from bench.usage import Usage

_MIB = 1024 * 1024

#: What is compared: the field of `Usage`, and what the table calls it.
_COMPARED = {"wall_seconds": "wall", "cpu_seconds": "CPU", "sum_rss_bytes": "memory"}


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spread(values: Sequence[float], *, digits: int = 2) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def _values(series: Series, field: str) -> list[float]:
    return [float(getattr(run, field)) for run in series.runs]


def ratios(own: Series, peer: Series, field: str) -> tuple[float, float, float]:
    """This program over a peer: the ratio of the medians, the least and the greatest ratio of one round."""
    ours, theirs = _values(own, field), _values(peer, field)
    # A run may be too short for the kernel to have counted anything.
    rounds = [our / their for our, their in zip(ours, theirs, strict=True) if their]
    median = statistics.median(theirs)
    if not rounds or not median:
        nothing = float("nan")
        return nothing, nothing, nothing
    return statistics.median(ours) / median, min(rounds), max(rounds)


def _throughput_table(all_series: Sequence[Series], size_bytes: int) -> Table:
    table = _table(
        f"{size_bytes / _MIB:g} MiB, {len(all_series[0].runs)} runs: median (least..greatest)",
        "program", "wall, s", "MiB/s", "CPU, s", "nginx CPU, s", "largest, MiB", "sum, MiB",
    )  # fmt: skip
    for series in all_series:
        walls = _values(series, "wall_seconds")
        table.add_row(
            series.shown_as,
            _spread(walls),
            f"{size_bytes / _MIB / statistics.median(walls):.0f}",
            _spread(_values(series, "cpu_seconds")),
            f"{statistics.median(_values(series, 'origin_cpu_seconds')):.2f}",
            f"{max(_values(series, 'largest_rss_bytes')) / _MIB:.0f}",
            f"{max(_values(series, 'sum_rss_bytes')) / _MIB:.0f}",
        )
    return table


def _ratio_table(all_series: Sequence[Series]) -> Table | None:
    own = [series for series in all_series if series.is_own]
    peers = [series for series in all_series if not series.is_own]
    if not own or not peers:
        return None
    title = "this program / peer: ratio of medians (of single rounds); below 1 this program needs less"
    table = _table(title, "program", "of", *(series.shown_as for series in peers))
    for series in own:
        for field, called in _COMPARED.items():
            cells = []
            for peer in peers:
                median, least, greatest = ratios(series, peer, field)
                cells.append(f"{median:.2f} ({least:.2f}..{greatest:.2f})")
            table.add_row(series.shown_as, called, *cells)
    return table


def print_throughput(all_series: Sequence[Series], size_bytes: int) -> None:
    """Print what each program took, and this program's ratios to its peers."""
    _print(_throughput_table(all_series, size_bytes))
    table = _ratio_table(all_series)
    if table is not None:
        _print(table)


def print_latency(timings: Sequence[Timing]) -> None:
    """Print the timings."""
    table = _table("median (least..greatest)", "what", "runs", "ms")
    for timing in timings:
        milliseconds = [seconds * 1000 for seconds in timing.seconds]
        table.add_row(timing.what, str(len(milliseconds)), _spread(milliseconds, digits=1))
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
    one = next(rate for rate in rates if rate.is_measure)
    for rate in rates:
        share = "" if rate.is_curl else f"{rate.mib_per_second / (4 * one.mib_per_second):.2f}"
        counts = ("", "") if rate.is_curl else (str(rate.refused_count), f"{rate.idle_seconds:.2f}")
        table.add_row(rate.what, f"{rate.mib_per_second:.2f}", share, *counts)
    _print(table)


def _print(table: Table) -> None:
    console = Console()
    # Piped into a file, rich would cut the columns to 80 characters.
    Console(width=None if console.is_terminal else 200).print(table)


def throughput_json(all_series: Sequence[Series], size_bytes: int) -> dict[str, Any]:
    """All runs, their medians, and the ratios."""
    own = [series for series in all_series if series.is_own]
    peers = [series for series in all_series if not series.is_own]
    return {
        "size_bytes": size_bytes,
        "programs": {
            series.name: {
                "shown_as": series.shown_as,
                "median": _summary(series.runs, statistics.median),
                "least": _summary(series.runs, min),
                "greatest": _summary(series.runs, max),
                "runs": [
                    {**dataclasses.asdict(run), "after": before}
                    for run, before in zip(series.runs, series.after, strict=True)
                ],
            }
            for series in all_series
        },
        "ratios": {
            one.name: {
                peer.name: {field: ratios(one, peer, field)[0] for field in _COMPARED} for peer in peers
            }
            for one in own
        },
    }


def _summary(runs: list[Usage], of: Callable[[list[float]], float]) -> dict[str, float]:
    fields = [field.name for field in dataclasses.fields(runs[0])]
    return {field: of([getattr(run, field) for run in runs]) for field in fields}


def write_json(path: Path, kind: str, results: Any) -> None:
    """Write results with what they were measured on."""
    document = {
        "kind": kind,
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "programs": versions(),
        },
        "results": results,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
