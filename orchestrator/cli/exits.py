"""Exit codes, and how errors are told to a person."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import tomllib
import traceback
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from tasks.jobs import JobError, JobRecord

COMPLETE = 0
BUG = 1
USAGE = 2
ORIGIN = 3
VOLUME = 4
REDIS = 5
CANCELLED = 6
TIMED_OUT = 7
INTERRUPTED = 130

_BY_SIDE = {
    "origin": ORIGIN,
    "volume": VOLUME,
    "usage": USAGE,
    "redis": REDIS,
    "deadline": TIMED_OUT,
    "bug": BUG,
}


def show(error: Exception) -> NoReturn:
    """Tell an error in a sentence on stderr and end with its code; a bug is told with its traceback."""
    from pydantic import ValidationError

    from tasks.settings import settings_file
    from tasks.transfer.errors import TransferError

    if isinstance(error, TransferError):
        say_error(str(error))
        sys.exit(_BY_SIDE[error.side])
    if isinstance(error, ValidationError):
        for problem in error.errors(include_url=False, include_input=False):
            name = "_".join(str(item) for item in problem["loc"])
            which = f"The setting ORCHESTRATOR_{name.upper()} makes" if name else "The settings together make"
            # pydantic puts that before our own sentences.
            say_error(f"{which} no sense: {problem['msg'].removeprefix('Value error, ')}.")
        sys.exit(USAGE)
    if isinstance(error, tomllib.TOMLDecodeError | UnicodeDecodeError):
        say_error(f"The settings file {settings_file()} is not TOML in UTF-8: {error}.")
        sys.exit(USAGE)
    if isinstance(error, OSError):
        say_error(f"{error.filename or 'this machine'}: {error.strerror or type(error).__name__}.")
        sys.exit(VOLUME)
    say("".join(traceback.format_exception(error)).rstrip())
    say_error("That was a bug in Manyhands; the lines above say where.")
    sys.exit(BUG)


def of_record(record: JobRecord) -> int:
    """The exit code for a job's end; one that has not ended, or is paused, had no more time."""
    from tasks.jobs import JobState

    if record.state is JobState.COMPLETE:
        return COMPLETE
    if record.state is JobState.CANCELLED:
        return CANCELLED
    if record.state is JobState.FAILED and record.error is not None:
        return of_error(record.error)
    return TIMED_OUT


def of_error(error: JobError) -> int:
    """The exit code for an error."""
    from tasks.transfer.errors import side_of

    return _BY_SIDE[side_of(error.code)]


def printable(text: str) -> str:
    """Without control characters: names come from other users and from servers, and terminals obey them."""
    return "".join(char for char in text if char.isprintable())


def say(line: str) -> None:
    """Write a line on stderr."""
    # A log that is full or closed is no reason to end a download, or to end with another code.
    with contextlib.suppress(OSError, ValueError):
        click.echo(line, err=True)


def say_error(sentence: str) -> None:
    """Print a sentence as an error, folded under its first line."""
    text = textwrap.fill(
        " ".join(sentence.split()),
        width=110,
        initial_indent="error: ",
        subsequent_indent="       ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    say("".join(char for char in text if char.isprintable() or char == "\n"))
