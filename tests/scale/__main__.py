"""``python -m scale``, from the folder ``tests``, as root."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scale.verdicts import Verdict

# Before anything of the program is imported: settings of the machine must not decide what is measured.
for name in list(os.environ):
    if name.startswith(("ORCHESTRATOR_", "FLOWER_")) or name.lower().endswith("_proxy"):
        del os.environ[name]

import click  # noqa: E402
import pytest  # noqa: E402

from orchestrator.cli.options import Size  # noqa: E402
from scale import costs, measures, report  # noqa: E402
from scale.runs import RunFailed  # noqa: E402
from scale.scene import scene  # noqa: E402

NAMES = ("out", "half", "address", "slow", "cut", "added", "costs")


def say(line: str) -> None:
    """Tell what happens."""
    click.echo(line, err=True)


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(NAMES)}")
    return names


@click.command()
@click.option("--only", "names", callback=_names, default=",".join(NAMES), show_default=True)
@click.option("--size", "size_bytes", type=Size(), default="256M", show_default=True, help="Of the file.")
@click.option(
    "--added-size", type=Size(), default="1G", show_default=True, help="Of the file while hosts are added."
)
@click.option(
    "--mbits", type=click.IntRange(1), default=100, show_default=True, help="Of a host's link, each way."
)
@click.option("--rounds", "rounds_count", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to make the volume; not given: in memory.",
)
@click.option(
    "--submit", "submit_args", multiple=True, help="An argument of each submit, such as --connections=64."
)
@click.option(
    "--setting", "settings", multiple=True, help="NAME=VALUE: an environment variable of all workers."
)
@click.option(
    "--report",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the results into this file, between its two marks.",
)
def main(
    names: list[str], size_bytes: int, added_size: int, mbits: int, rounds_count: int, folder: Path | None,
    submit_args: tuple[str, ...], settings: tuple[str, ...], file: Path | None,
) -> None:  # fmt: skip
    """Measure what several hosts make of one file; the exit code is 1 if something falls short of what is asked for."""
    if os.geteuid() != 0:
        raise click.ClickException("Hosts are made of network namespaces, and that needs root.")
    # Else what was started goes on, and namespaces stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    variables = dict(each.split("=", 1) for each in settings)
    verdicts: list[Verdict] = []
    costs_rows: list[str] = []
    try:
        with scene(folder, connections=4, bytes_per_second=2_500_000, variables=variables) as one:
            plan = measures.Plan(one, size_bytes, mbits * 10**6, rounds_count, submit_args, say)
            rate, verdicts = measures.calibrate(plan)
            for name in names:
                say(f"== {name}")
                if name == "costs":
                    costs_rows = costs.measure(one, say)
                else:
                    verdicts += _measure(name, plan, rate, added_size)
    except (pytest.fail.Exception, pytest.skip.Exception, RunFailed, AssertionError) as error:
        raise click.ClickException(str(error)) from error
    text = report.text(verdicts, costs_rows, report.machine(folder, [*submit_args, *settings], rounds_count))
    click.echo(text)
    if file is not None:
        report.write(file, text)
    sys.exit(0 if all(each.passes for each in verdicts) else 1)


def _measure(name: str, plan: measures.Plan, rate: float, added_size_bytes: int) -> list[Verdict]:
    if name == "out":
        return measures.more_hosts(plan, (1, 2, 4, 8), target=7.2)
    if name == "half":
        return measures.more_hosts(measures.at_half(plan), (1, 8), target=7.2)
    if name == "address":
        return measures.each_address(plan)
    if name == "slow":
        return measures.one_slow(plan, rate)
    if name == "cut":
        return measures.one_cut(plan, rate)
    return [
        *measures.some_added(plan, added_size_bytes, at_once=True),
        *measures.some_added(plan, added_size_bytes, at_once=False),
    ]


if __name__ == "__main__":
    main(prog_name="python -m scale")
