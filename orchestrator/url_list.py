"""Lists of URLs as aria2 has them: a URL a line, and beneath it lines that begin with white space with its options.

A list may be as long as it likes, and may still be being written: nothing of it is kept but what tells duplicates.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import select
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.ends import Refused, shown_url
from orchestrator.submission import Wanted
from tasks.jobs import JobError
from tasks.transfer.digests import agree, parse_checksum
from tasks.transfer.errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: URLs that are signed have a few thousand; without a limit, a file that is no list would be read into memory.
_LONGEST_LINE_BYTES = 64 * 1024


def lines_of(descriptor: int) -> Iterator[bytes | None]:
    """The lines of a file, a pipe or a terminal; None: the next has not come yet.

    A line that is too long comes cut off, a byte longer than may be.
    """
    rest, is_cut = b"", False
    while True:
        if not select.select([descriptor], [], [], 0)[0]:
            yield None
            continue
        block = os.read(descriptor, _LONGEST_LINE_BYTES)
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            if not is_cut:
                yield line[: _LONGEST_LINE_BYTES + 1]
            is_cut = False
        if len(rest) > _LONGEST_LINE_BYTES:
            if not is_cut:
                yield rest[: _LONGEST_LINE_BYTES + 1]
            rest, is_cut = b"", True
        if not block:
            break
    if rest and not is_cut:
        yield rest


def parse(
    lines: Iterable[bytes | None], *, checksums: str | None = None
) -> Iterator[Wanted | Refused | None]:
    """Read a list.

    An entry ends where the next begins, or with an empty line. Lines that begin with ``#`` are passed over.

    Args:
        lines: without their ends; None, which is passed on: there is no more for the moment.
        checksums: a list like SHA256SUMS that has the files' digests.
    """
    seen = _Seen()
    entry: _Entry | None = None
    for number, line in enumerate_lines(lines):
        if line is None:
            yield None
            continue
        text, problem = _decode(line, is_first=number == 1)
        bare = text.strip()
        if bare.startswith("#"):
            continue
        is_option = text[:1].isspace() and bool(bare) and problem is None
        if is_option and entry is not None:
            entry.take(bare)
            continue
        if entry is not None:
            yield entry.ended(seen, checksums)
            entry = None
        if is_option:
            problem = "an option without a URL above it"
        if bare or problem:
            entry = _Entry(number, bare, problem or _problem_of(bare))
    if entry is not None:
        yield entry.ended(seen, checksums)


def enumerate_lines(lines: Iterable[bytes | None]) -> Iterator[tuple[int, bytes | None]]:
    """Number lines from 1; None, which is no line, has the number of the last."""
    number = 0
    for line in lines:
        number += line is not None
        yield number, line


@dataclass
class _Entry:
    """A URL and what came beneath it so far."""

    line: int
    url: str
    problem: str | None = None
    output: str | None = None
    checksums: list[tuple[str, str]] = field(default_factory=list)

    def take(self, option: str) -> None:
        name, equals, value = (part.strip() for part in option.partition("="))
        if self.problem is not None:
            return
        if not equals or not value:
            self.problem = "an option line that is not NAME=VALUE"
        elif name == "out":
            self.problem = "several out= options" if self.output is not None else None
            self.output = value
        elif name == "checksum":
            algorithm, _, digest = value.rpartition("=")
            try:
                self.checksums.append(parse_checksum(f"{algorithm}:{digest}" if algorithm else value))
                agree(self.checksums)
            except ValueError as error:
                self.problem = f"a checksum= that is {error}"
        else:
            # Without its value, which may be a secret.
            self.problem = f"the option {name[:40]!r}, which is none of out= and checksum="

    def ended(self, seen: _Seen, checksums: str | None) -> Wanted | Refused:
        problem = self.problem or self._duplicate(seen)
        if problem is not None:
            told = JobError(code=BadOption.__name__, message=f"It has {problem}.")
            return Refused(shown_url(self.url), told, self.line)
        return Wanted(self.url, self.output, agree(self.checksums), checksums, self.line)

    def _duplicate(self, seen: _Seen) -> str | None:
        if self.output is not None:
            before = seen.line_of(f"out {posixpath.normpath(self.output)}", self.line)
            return f"the name of the file of line {before}" if before else None
        before = seen.line_of(f"url {self.url}", self.line)
        return f"the URL of line {before}, and no name of its own" if before else None


class _Seen:
    """Which names and URLs were seen; beyond a few megabytes, on the disk."""

    def __init__(self) -> None:
        # SQLite's own temporary database, which has no name; what it holds are digests.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def line_of(self, name: str, line: int) -> int | None:
        """The line that had it before; None: this line is the first."""
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, line)).rowcount:
            return None
        found: int = self._database.execute("SELECT line FROM seen WHERE digest = ?", (digest,)).fetchone()[0]
        return found


def _decode(line: bytes, *, is_first: bool) -> tuple[str, str | None]:
    """A line's text, and what is wrong with it."""
    if len(line) > _LONGEST_LINE_BYTES:
        return "", f"more than {_LONGEST_LINE_BYTES} bytes; it is no list of URLs"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "", "bytes that are no text"
    # Windows editors begin a text with a mark.
    return (text.removeprefix("\ufeff") if is_first else text), None


def _problem_of(url: str) -> str | None:
    if "\t" in url:
        return "several URLs on one line: mirrors of a file are not supported"
    return None
