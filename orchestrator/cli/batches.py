"""``orchestrator submit -i``: a list of URLs from its first line to its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from orchestrator.batch_progress import BatchBar, BatchLines, BatchSilence
from orchestrator.cli import exits
from orchestrator.cli.waiting import AwayNote, IdleHint
from orchestrator.ends import Ended, Refused, Totals
from orchestrator.submission import Submission
from orchestrator.url_list import lines_of, parse
from tasks.records import RedisError
from tasks.transfer.errors import BadOption, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.batch_progress import BatchDisplay
    from orchestrator.client import Orchestrator
    from orchestrator.submission import Options, Wanted

_STANDARD_INPUT = "-"
#: Of those that failed, so many are listed at the end; all were named when it happened.
_MOST_LISTED = 20


@dataclass
class _Outcome:
    """What is kept of a batch for its end."""

    failed_count: int = 0
    first: list[tuple[Ended | Refused, int]] = field(default_factory=list)  #: with their exit codes
    code: int = exits.COMPLETE
    code_line: int = sys.maxsize  #: the line of the file whose code that is

    def add(self, end: Ended | Refused) -> None:
        self.failed_count += 1
        code = _code_of(end)
        if len(self.first) < _MOST_LISTED:
            self.first.append((end, code))
        if (end.line or 0) < self.code_line:
            self.code, self.code_line = code, end.line or 0


def bring_list(
    orchestrator: Orchestrator,
    name: str,
    options: Options,
    *,
    checksums: str | None,
    window: int,
    quiet: bool,
    as_json: bool,
) -> int:
    """Submit a list, wait for all of it, tell how it went, and return the exit code.

    Args:
        orchestrator: where to.
        name: of the file, or - for standard input.
        options: for all.
        checksums: a list like SHA256SUMS that has the files' digests.
        window: how many jobs are active at a time.
        quiet: show no progress and no paths.
        as_json: print JSON lines on stdout.
    """
    shown = "standard input" if name == _STANDARD_INPUT else name
    with _opened(name) as descriptor:
        count = None
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and name != _STANDARD_INPUT:
            count = _check(
                descriptor, shown, Submission(orchestrator.settings.secret_key, options), checksums
            )
            os.lseek(descriptor, 0, os.SEEK_SET)
        files = parse(lines_of(descriptor), checksums=checksums)
        with _display(count, quiet=quiet or as_json) as display:
            return _Run(orchestrator, display, shown, quiet=quiet, as_json=as_json).bring(
                files, options, window
            )


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    if name == _STANDARD_INPUT and sys.stdin is None:
        raise BadOption("Standard input is closed; there is no list of URLs to read from it.")
    try:
        descriptor = os.dup(0) if name == _STANDARD_INPUT else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BadOption(f"{name} cannot be read: {error.strerror}.") from None
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise BadOption(f"{name} is a folder.")
        yield descriptor
    finally:
        os.close(descriptor)


def _check(descriptor: int, shown: str, submission: Submission, checksums: str | None) -> int:
    """Make sure that all of a list makes sense; how many files it has."""
    count = 0
    for wanted in parse(lines_of(descriptor), checksums=checksums):
        if wanted is None:
            continue
        if isinstance(wanted, Refused):
            raise BadOption(f"{shown}, line {wanted.line}: {wanted.error.message} Nothing was submitted.")
        try:
            submission.check(wanted)
        except UsageError as error:
            raise BadOption(f"{shown}, line {wanted.line}: {error} Nothing was submitted.") from None
        count += 1
    return count


class _Run:
    """One batch on its way."""

    def __init__(
        self, orchestrator: Orchestrator, display: BatchDisplay, shown: str, *, quiet: bool, as_json: bool
    ) -> None:
        self._orchestrator = orchestrator
        self._display = display
        self._shown = shown  #: the list's name
        self._quiet, self._as_json = quiet, as_json
        self._outcome = _Outcome()
        self._totals = Totals()
        self._began_seconds = time.monotonic()
        self._hint = IdleHint(orchestrator, display.say)
        self._note = AwayNote(orchestrator.records.where, display.say)

    def bring(self, files: Iterator[Wanted | Refused | None], options: Options, window: int) -> int:
        ends = self._orchestrator.submit_all(
            files, window=window, on_look=self._look, on_away=self._note.away, **options
        )
        try:
            for end in ends:
                self._tell(end)
        except KeyboardInterrupt:
            self._display.say(f"error: {self._interrupted(skips=options.get('skip_existing', False))}")
            return exits.INTERRUPTED
        except RedisError:
            if not self._orchestrator.is_embedded:
                raise
            self._display.say(
                f"error: The private Redis or its worker ended. {_kept(options.get('skip_existing', False))}"
            )
            return exits.REDIS
        self._sum_up()
        return self._outcome.code

    def _look(self, totals: Totals) -> None:
        self._totals = totals
        self._note.back()
        self._display.update(totals)
        if totals.active_count:
            self._hint.look((totals.ended_count, totals.active_count, totals.active_bytes))

    def _tell(self, end: Ended | Refused) -> None:
        if self._as_json:
            click.echo(json.dumps(_as_json(end)))
        if end.error is not None:
            self._outcome.add(end)
            self._display.say(exits.printable(f"failed: {self._place(end)}: {end.error.message}"))
        elif isinstance(end, Ended) and not (self._as_json or self._quiet or sys.stdout.isatty()):
            # For another program; a person has the summary.
            click.echo(end.record.path)

    def _place(self, end: Ended | Refused) -> str:
        line = f"line {end.line}, " if end.line is not None else ""
        return f"{line}{end.shown}"

    def _sum_up(self) -> None:
        totals, seconds = self._totals, time.monotonic() - self._began_seconds
        if self._as_json:
            click.echo(json.dumps({"summary": _summary(totals, seconds, self._outcome.code)}))
        elif not self._quiet:
            self._display.say(_sentence(totals, seconds))
        if self._outcome.failed_count and not self._as_json:
            for end, code in self._outcome.first:
                self._display.say(exits.printable(f"  {self._place(end)}{_how(end, code)}"))
            more = self._outcome.failed_count - len(self._outcome.first)
            if more:
                self._display.say(f"  and {more:,} more, named above")

    def _interrupted(self, *, skips: bool) -> str:
        if self._orchestrator.is_embedded:
            return f"Interrupted. {_kept(skips)}"
        active = self._totals.active_count
        return (
            f"Interrupted. {active:,} jobs that were submitted go on, what comes behind them in {self._shown} was not "
            f"submitted. The same command again passes over what is complete and goes on with the rest."
        )


def _kept(skips: bool) -> str:
    again = "" if skips else " with --skip-existing"
    return (
        f"What came is kept: the same command again{again} passes over the files that are complete and goes on "
        f"with the others."
    )


def _code_of(end: Ended | Refused) -> int:
    return exits.of_record(end.record) if isinstance(end, Ended) else exits.of_error(end.error)


def _how(end: Ended | Refused, code: int) -> str:
    if end.error is None:
        raise AssertionError("what failed has an error")
    job = f", job {end.record.job_id}" if isinstance(end, Ended) else ""
    return f": {end.error.code}, exit {code}{job}"


def _as_json(end: Ended | Refused) -> dict[str, Any]:
    if isinstance(end, Ended):
        return {"line": end.line, "was_complete": end.was_complete, **end.record.model_dump(mode="json")}
    return {"line": end.line, "url": end.shown, "state": "refused", "error": end.error.model_dump()}


def _summary(totals: Totals, seconds: float, code: int) -> dict[str, Any]:
    return {
        "files_count": totals.ended_count,
        "complete_count": totals.complete_count,
        "complete_before_count": totals.before_count,
        "failed_count": totals.failed_count,
        "brought_bytes": totals.done_bytes,
        "seconds": round(seconds, 3),
        "bytes_per_second": round(totals.done_bytes / seconds) if seconds else None,
        "exit_code": code,
    }


def _sentence(totals: Totals, seconds: float) -> str:
    rate = f", {decimal(int(totals.done_bytes / seconds))}/s" if seconds else ""
    before = f", {totals.before_count:,} of them before" if totals.before_count else ""
    failed = f", {totals.failed_count:,} failed" if totals.failed_count else ""
    files = "1 file" if totals.ended_count == 1 else f"{totals.ended_count:,} files"
    return (
        f"{files}: {totals.complete_count:,} complete{before} ({decimal(totals.done_bytes)} in {seconds:.1f} s{rate})"
        f"{failed}"
    )


def _display(files_count: int | None, *, quiet: bool) -> BatchDisplay:
    from rich.console import Console

    if quiet or sys.stderr is None:
        return BatchSilence(exits.say, files_count)
    if sys.stderr.isatty():
        return BatchBar(Console(stderr=True), files_count)
    return BatchLines(exits.say, files_count)
