"""The measures beside throughput, each a command."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from bench import as_json, batch, digest, latency, memory, polite, report, resume, tail, throttled
from bench.options import json_option, runs_option, site_options, size_option
from orchestrator.cli.options import Seconds, Size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.figures import Figure
    from bench.place import Site
    from bench.rounds import Series


#: Where peers do the same work, so that CPU and memory compare too.
_WITH_PEERS = ("throughput", "throttled", "batch")


def say(line: str) -> None:
    """Tell the user what happens."""
    click.echo(line, err=True)


def show(
    kind: str, series: Sequence[Series], total_bytes: int, figures: Sequence[Figure], json_file: Path | None
) -> None:
    """Print what several programs took, and write it down if that is wanted."""
    report.print_series(series, total_bytes)
    if kind in _WITH_PEERS:
        report.print_ratios(series)
    report.print_figures(figures)
    if json_file is not None:
        as_json.write_json(json_file, kind, as_json.series_json(series, total_bytes, figures))


@click.command("latency")
@site_options
@json_option
def latency_(site: Site, json_file: Path | None) -> None:
    """Time small jobs, a cold start and the help page."""
    timings = latency.measure(site, say=say)
    report.print_latency(timings)
    if json_file is not None:
        as_json.write_json(json_file, "latency", [_timing_json(timing) for timing in timings])


def _timing_json(timing: latency.Timing) -> dict[str, object]:
    return {**dataclasses.asdict(timing), "target": timing.figure.target}


@click.command("memory")
@size_option("2G")
@click.option("--connections", type=click.IntRange(1, 1024), default=32, show_default=True, help="And slots.")
@site_options
@json_option
def memory_(size_bytes: int, connections: int, site: Site, json_file: Path | None) -> None:
    """Read how much memory a worker's processes needed for a large job."""
    marks = memory.measure(site, size_bytes=size_bytes, connections=connections, say=say)
    report.print_memory(marks)
    if json_file is not None:
        as_json.write_json(json_file, "memory", [dataclasses.asdict(mark) for mark in marks])


@click.command("digest")
@size_option("2G")
@runs_option
@site_options
@json_option
def digest_(size_bytes: int, runs_count: int, site: Site, json_file: Path | None) -> None:
    """The same job with a SHA-256 asked for and without."""
    series = digest.measure(site, size_bytes=size_bytes, runs_count=runs_count, say=say)
    show("digest", series, size_bytes, digest.figures(series), json_file)


@click.command("throttled")
@size_option("256M")
@runs_option
@click.option(
    "--origin",
    type=click.Choice(list(throttled.ORIGINS)),
    default="paced",
    show_default=True,
    help="paced: each connection has 4 MB/s. nginx: each response has, and a second's worth at once.",
)
@click.option("--chunk-size", "chunk_size_bytes", type=Size(), help="Of this program (default: it chooses).")
@site_options
@json_option
def throttled_(
    size_bytes: int,
    runs_count: int,
    origin: str,
    chunk_size_bytes: int | None,
    site: Site,
    json_file: Path | None,
) -> None:
    """An origin that gives each connection 4 MB/s and allows 64 of them."""
    series = throttled.measure(
        site,
        size_bytes=size_bytes,
        runs_count=runs_count,
        origin=origin,
        chunk_size_bytes=chunk_size_bytes,
        say=say,
    )
    show("throttled", series, size_bytes, throttled.figures(series, origin=origin), json_file)


@click.command("tail")
@size_option("256M")
@runs_option
@site_options
@json_option
def tail_(size_bytes: int, runs_count: int, site: Site, json_file: Path | None) -> None:
    """One connection in eight ten times slower than the rest."""
    series = tail.measure(site, size_bytes=size_bytes, runs_count=runs_count, say=say)
    show("tail", series, size_bytes, tail.figures(series), json_file)


@click.command("batch")
@size_option("100000", what="Of each file.")
@click.option("--files", "files_count", type=click.IntRange(1), default=1000, show_default=True)
@runs_option
@site_options
@json_option
def batch_(size_bytes: int, files_count: int, runs_count: int, site: Site, json_file: Path | None) -> None:
    """Many small files at once."""
    series = batch.measure(
        site, size_bytes=size_bytes, files_count=files_count, runs_count=runs_count, say=say
    )
    show("batch", series, size_bytes * files_count, batch.figures(series), json_file)


@click.command("resume")
@size_option("2G")
@runs_option
@click.option(
    "--redis",
    "cases",
    type=click.Choice(list(resume.CASES)),
    multiple=True,
    default=list(resume.CASES),
    show_default=True,
    help="What becomes of Redis; may be given twice.",
)
@click.option(
    "--patience",
    "patience_seconds",
    type=Seconds(),
    default=resume.PATIENCE_SECONDS,
    show_default=True,
    help="How long the second job may take. By default a message that was lost is sent again after 900.",
)
@site_options
@json_option
def resume_(
    size_bytes: int,
    runs_count: int,
    cases: tuple[str, ...],
    patience_seconds: float,
    site: Site,
    json_file: Path | None,
) -> None:
    """Kill everything half-way, start anew, and count what is fetched again."""
    crashes = resume.measure(
        site,
        size_bytes=size_bytes,
        runs_count=runs_count,
        cases=cases,
        patience_seconds=patience_seconds,
        say=say,
    )
    figures = resume.figures(crashes)
    report.print_figures(figures)
    if json_file is not None:
        results = {
            "size_bytes": size_bytes,
            "runs": [dataclasses.asdict(crash) for crash in crashes],
            "figures": as_json.figures_json(figures),
        }
        as_json.write_json(json_file, "resume", results)


@click.command("polite")
@size_option("48M")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker programs.")
@runs_option
@site_options
@json_option
def polite_(size_bytes: int, workers: int, runs_count: int, site: Site, json_file: Path | None) -> None:
    """An origin that serves 1 MiB/s a connection, and four of them to a client."""
    rates = polite.measure(site, size_bytes=size_bytes, workers=workers, runs_count=runs_count, say=say)
    figures = polite.figures(rates)
    report.print_polite(rates)
    report.print_figures(figures)
    if json_file is not None:
        results = {
            "size_bytes": size_bytes,
            "workers": workers,
            "runs": [dataclasses.asdict(rate) for rate in rates],
            "figures": as_json.figures_json(figures),
        }
        as_json.write_json(json_file, "polite", results)


ALL = (latency_, memory_, digest_, throttled_, tail_, batch_, resume_, polite_)
