"""Kinds of values that options take, and options that several commands share."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.variables import sets
from tasks.transfer.digests import agree, parse_checksum
from tasks.transfer.rates import parse_rate, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw]?)", re.ASCII)
_AGE_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


class Size(click.ParamType[int]):
    """A number of bytes, such as ``1048576``, ``512k``, ``32M`` or ``1.5GiB``; K, M, G and T are powers of 1024."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it as bytes."""
        if isinstance(value, int):
            return value
        try:
            size_bytes = parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size_bytes < 1:
            self.fail("a size must be at least one byte", param, ctx)
        return size_bytes


class Rate(click.ParamType[str]):
    """Bytes a second, always the same or by a timetable; as it was written, for each worker has its own clock."""

    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Make sure that it makes sense."""
        try:
            parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value).strip()


def _read(name: str) -> str:
    """The text of a file that an option names; ``-`` is standard input. ValueError if there is none."""
    try:
        if name == "-" and sys.stdin is None:
            raise ValueError("standard input is closed")
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is no text") from None
    if not text.strip():
        raise ValueError(f"{name} is empty")
    return text


class Secret(click.ParamType[str]):
    """A value, or ``@FILE`` for the file that has it: everybody on the machine can read a command line."""

    name = "secret"

    def __init__(self, *, stdin: str = "@-") -> None:
        """Take what stands for standard input."""
        self._stdin = stdin

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        text = str(value)
        if text == self._stdin:
            text = "@-"
        if not text.startswith("@"):
            return text
        try:
            return _read(text[1:]).strip()
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Headers(click.ParamType[tuple[tuple[str, str], ...]]):
    """A header as ``Name: value``, or ``@FILE`` for a file with one on each line."""

    name = "header"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str], ...]:
        """Split it into name and value."""
        if isinstance(value, tuple):
            return value
        lines = [str(value)]
        if lines[0].startswith("@"):
            try:
                lines = [line for line in _read(lines[0][1:]).splitlines() if line.strip()]
            except ValueError as error:
                self.fail(str(error), param, ctx)
        headers = []
        for line in lines:
            name, colon, content = line.partition(":")
            if not colon or not name.strip():
                # Not shown: a header may be a secret.
                self.fail("give a header as 'Name: value', or a file of them as @FILE", param, ctx)
            headers.append((name.strip(), content.strip()))
        return tuple(headers)


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name; the values of a repeated one are a list (RFC 9110, section 5.3)."""
    values: dict[str, str] = {}
    for name, value in headers:
        separator = "; " if name.lower() == "cookie" else ", "
        values[name] = f"{values[name]}{separator}{value}" if name in values else value
    return values


class Seconds(click.ParamType[float]):
    """A number of seconds above zero."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it; not every float is a time: nan never passes."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{str(value)[:40]!r} is not a number of seconds above zero", param, ctx)
        return seconds


class Age(click.ParamType[float]):
    """How long ago, such as ``90s``, ``30m``, ``12h``, ``7d`` or ``2w``; a number alone is seconds."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it as seconds."""
        match = _AGE.fullmatch(str(value).strip().lower())
        if match is None:
            self.fail(f"{str(value)[:40]!r} is not an age such as 90s, 30m, 12h, 7d or 2w", param, ctx)
        return float(match[1]) * _AGE_SECONDS[match[2]]


class Checksum(click.ParamType[tuple[str, str]]):
    """``ALGO:HEX``, such as ``sha-512:1f2e...``."""

    name = "checksum"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Read it as algorithm and digest."""
        try:
            return parse_checksum(str(value))
        except ValueError as error:
            self.fail(f"that is {error}", param, ctx)


def by_algorithm(checksums: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Digests of several ``--checksum``."""
    try:
        return agree(checksums)
    except ValueError as error:
        raise click.UsageError(f"--checksum has {error}") from None


def digests(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which digests a file has."""
    for option in (
        click.option(
            "--checksums",
            metavar="FILE|URL",
            type=Secret(),
            help="A list like SHA256SUMS that has it: a file here, a URL, or @FILE for the file that has the URL.",
        ),
        click.option(
            "--checksum",
            "checksum",
            metavar="ALGO:HEX",
            type=Checksum(),
            multiple=True,
            help="Another digest that it must have: sha-512, sha-256, sha-1, md5, crc32c; may be repeated.",
        ),
        click.option("--sha256", metavar="HEX", help="The file must have this digest."),
    ):
        command = option(command)
    return command


def source(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where this host's connections leave from."""
    for option in (
        click.option(
            "--interface",
            metavar="NAME",
            expose_value=False,
            callback=sets("INTERFACE"),
            help="They leave through this network interface.",
        ),
        click.option(
            "--source-address",
            metavar="ADDR",
            expose_value=False,
            callback=sets("SOURCE_ADDRESS"),
            help="Connections to origins and proxies leave from this address of the host that fetches, or from several "
            "in turn: ADDR,ADDR.",
        ),
    ):
        command = option(command)
    return command


max_rate = click.option(
    "--max-rate",
    metavar="RATE",
    type=Rate(),
    expose_value=False,
    callback=sets("MAX_RATE"),
    help="All workers of this host together fetch at most so many bytes a second (default: ORCHESTRATOR_MAX_RATE).",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
