"""Options that several measures share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.loop import KINDS
from bench.place import Site
from orchestrator.cli.options import Size

if TYPE_CHECKING:
    from collections.abc import Callable

_folder = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where to make the folder for the file and the volume, such as /dev/shm, which has no disk noise "
    "(default: the machine's folder for temporary files).",
)
_loop = click.option(
    "--loop",
    type=click.Choice(KINDS),
    help="Make a filesystem of this kind on a file in --folder, and measure there; for root.",
)
json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write JSON to this file.",
)
runs_option = click.option(
    "--runs", "runs_count", type=click.IntRange(1), default=5, show_default=True, help="Counted, of each."
)


def site_options(command: Callable[..., object]) -> Callable[..., object]:
    """``--folder`` and ``--loop``, which reach the command as one `Site`."""

    @functools.wraps(command)
    def with_site(*, folder: Path | None, loop: str | None, **others: Any) -> object:
        return command(site=Site(folder, loop), **others)

    return _folder(_loop(with_site))


def size_option(default: str, *, what: str = "Of the file.") -> Callable[..., Any]:
    """``--size`` with a default."""
    return click.option("--size", "size_bytes", type=Size(), default=default, show_default=True, help=what)
