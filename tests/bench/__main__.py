"""``python -m bench``, from the folder ``tests``."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import click


def _forget_settings() -> None:
    """Proxies and settings of the machine must not decide what is measured."""
    for name in list(os.environ):
        if name.startswith(("ORCHESTRATOR_", "FLOWER_")) or name.lower().endswith("_proxy"):
            del os.environ[name]


# Before anything of the program is imported.
_forget_settings()

from bench import latency as latency_measure  # noqa: E402
from bench import memory as memory_measure  # noqa: E402
from bench import polite as polite_measure  # noqa: E402
from bench import report, throughput  # noqa: E402
from bench.place import NotEnoughSpace  # noqa: E402
from bench.programs import ALL_PROGRAMS, RunFailed  # noqa: E402
from orchestrator.cli.options import Size  # noqa: E402

folder_option = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where to make the folder for the file and the volume, such as /dev/shm, which has no disk noise "
    "(default: the machine's folder for temporary files).",
)
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write JSON to this file.",
)


class _DefaultGroup(click.Group):
    """A group that runs ``throughput`` where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["throughput", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        _check_machine()
        try:
            return super().invoke(ctx)
        except (RunFailed, NotEnoughSpace) as error:
            raise click.ClickException(str(error)) from error


def _check_machine() -> None:
    for names in (("nginx",), ("redis-server", "valkey-server")):
        if not any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in names):
            raise click.ClickException(
                f"{' or '.join(names)} is not on this machine, and nothing works without."
            )


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in ALL_PROGRAMS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(ALL_PROGRAMS)}")
    return names


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group(cls=_DefaultGroup)
def main() -> None:
    """Measure this program against its peers; without a command: throughput."""


@main.command("throughput")
@click.option("--size", "size_bytes", type=Size(), default="2G", show_default=True, help="Of the file.")
@click.option(
    "--runs",
    "runs_count",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Counted, of each program.",
)
@click.option(
    "--programs",
    "names",
    callback=_names,
    default=",".join(ALL_PROGRAMS),
    show_default=True,
    help="In this order.",
)
@folder_option
@json_option
def throughput_(
    size_bytes: int, runs_count: int, names: list[str], folder: Path | None, json_file: Path | None
) -> None:
    """Download one large file with each program in turn."""
    results = throughput.measure(folder, size_bytes=size_bytes, runs_count=runs_count, names=names, say=_say)
    if not results:
        raise click.ClickException("None of these programs is on this machine.")
    report.print_throughput(results, size_bytes)
    if json_file is not None:
        report.write_json(json_file, "throughput", report.throughput_json(results, size_bytes))


@main.command()
@folder_option
@json_option
def latency(folder: Path | None, json_file: Path | None) -> None:
    """Time small jobs, a cold start and the help page."""
    timings = latency_measure.measure(folder, say=_say)
    report.print_latency(timings)
    if json_file is not None:
        report.write_json(json_file, "latency", [dataclasses.asdict(timing) for timing in timings])


@main.command()
@click.option("--size", "size_bytes", type=Size(), default="2G", show_default=True, help="Of the file.")
@click.option("--connections", type=click.IntRange(1, 1024), default=32, show_default=True, help="And slots.")
@folder_option
@json_option
def memory(size_bytes: int, connections: int, folder: Path | None, json_file: Path | None) -> None:
    """Read how much memory a worker's processes needed for a large job."""
    marks = memory_measure.measure(folder, size_bytes=size_bytes, connections=connections, say=_say)
    report.print_memory(marks)
    if json_file is not None:
        report.write_json(json_file, "memory", [dataclasses.asdict(mark) for mark in marks])


@main.command()
@click.option("--size", "size_bytes", type=Size(), default="48M", show_default=True, help="Of the file.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker programs.")
@click.option(
    "--runs", "runs_count", type=click.IntRange(1), default=3, show_default=True, help="Of this program."
)
@folder_option
@json_option
def polite(
    size_bytes: int, workers: int, runs_count: int, folder: Path | None, json_file: Path | None
) -> None:
    """Download from an origin that serves 1 MiB/s a connection, and four of them to a client."""
    runs = polite_measure.measure(
        folder, size_bytes=size_bytes, workers=workers, runs_count=runs_count, say=_say
    )
    report.print_polite(runs)
    if json_file is not None:
        report.write_json(json_file, "polite", [dataclasses.asdict(run) for run in runs])


if __name__ == "__main__":
    main(prog_name="python -m bench")
