"""``python -m bench``, from the folder ``tests``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import click


def _forget_settings() -> None:
    """Proxies and settings of the machine must not decide what is measured."""
    for name in list(os.environ):
        if name.startswith(("ORCHESTRATOR_", "FLOWER_")) or name.lower().endswith("_proxy"):
            del os.environ[name]


# Before anything of the program is imported.
_forget_settings()

from bench import commands, throughput  # noqa: E402
from bench.loop import LoopFailed  # noqa: E402
from bench.options import json_option, runs_option, site_options, size_option  # noqa: E402
from bench.own import OWN_PROGRAMS  # noqa: E402
from bench.peers import PEER_PROGRAMS  # noqa: E402
from bench.place import NotEnoughSpace  # noqa: E402
from bench.programs import RunFailed  # noqa: E402
from tasks.transfer.manifest import LayoutName  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from bench.place import Site

_ALL_PROGRAMS = OWN_PROGRAMS + PEER_PROGRAMS


class _DefaultGroup(click.Group):
    """A group that runs ``throughput`` where no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["throughput", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        _check_machine()
        # Else what was started goes on, and what was mounted stays so.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return super().invoke(ctx)
        except (RunFailed, NotEnoughSpace, LoopFailed) as error:
            raise click.ClickException(str(error)) from error


def _check_machine() -> None:
    for names in (("nginx",), ("redis-server", "valkey-server")):
        if not any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") for name in names):
            raise click.ClickException(
                f"{' or '.join(names)} is not on this machine, and nothing works without."
            )


def _names(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in _ALL_PROGRAMS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(_ALL_PROGRAMS)}")
    return names


@click.group(cls=_DefaultGroup)
def main() -> None:
    """Measure this program against its peers; without a command: throughput."""


@main.command("throughput")
@size_option("2G")
@runs_option
@click.option(
    "--programs",
    "names",
    callback=_names,
    default=",".join(_ALL_PROGRAMS),
    show_default=True,
    help="In this order.",
)
@click.option(
    "--layout",
    type=click.Choice([layout.value for layout in LayoutName]),
    default="auto",
    show_default=True,
    help="Of this program's parts.",
)
@click.option("--tls", "uses_tls", is_flag=True, help="Over TLS, with an authority made for it.")
@site_options
@json_option
def throughput_(
    size_bytes: int,
    runs_count: int,
    names: list[str],
    layout: str,
    uses_tls: bool,
    site: Site,
    json_file: Path | None,
) -> None:
    """Download one large file with each program in turn."""
    series = throughput.measure(
        site,
        size_bytes=size_bytes,
        runs_count=runs_count,
        names=names,
        layout=layout,
        uses_tls=uses_tls,
        say=commands.say,
    )
    if not series:
        raise click.ClickException("None of these programs can be measured here.")
    figures = throughput.figures(series, size_bytes, layout=layout, site=site, uses_tls=uses_tls)
    commands.show("throughput", series, size_bytes, figures, json_file)


for command in commands.ALL:
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m bench")
