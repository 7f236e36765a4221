"""Showing how a batch goes on stderr: a bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from orchestrator.progress import Rates

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

    from orchestrator.ends import Totals

_LINE_SECONDS = 10.0


class BatchDisplay(Protocol):
    """Something that shows one batch; a context manager."""

    def __enter__(self) -> BatchDisplay: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, totals: Totals) -> None:
        """Show the totals as they are now."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""


def describe_batch(totals: Totals, files_count: int | None, rates: Rates) -> str:
    """Totals in a line: files, failures, bytes, rates."""
    of = f" of {files_count:,}" if files_count is not None else ""
    parts = [f"{totals.ended_count:,}{of} files"]
    if totals.failed_count:
        parts.append(f"{totals.failed_count:,} failed")
    parts.append(decimal(totals.done_bytes + totals.active_bytes))
    parts.append(f"{decimal(int(rates.now))}/s (average {decimal(int(rates.average))}/s)")
    parts.append(f"{totals.active_count} active")
    return ", ".join(parts)


class BatchBar:
    """A bar that is drawn anew in place."""

    def __init__(self, console: Console, files_count: int | None) -> None:
        self._console = console
        self._files_count = files_count
        self._rates = Rates()
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", table_column=Column(no_wrap=False), markup=False),
            console=console,
            # What goes to stdout is meant for another program.
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("", total=files_count)

    def __enter__(self) -> BatchBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, totals: Totals) -> None:
        """Draw the totals."""
        self._rates.add(totals.done_bytes + totals.active_bytes)
        line = describe_batch(totals, self._files_count, self._rates)
        self._progress.update(self._task, completed=totals.ended_count, description=line)

    def say(self, sentence: str) -> None:
        """Print above the bar."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class BatchLines:
    """A line now and then."""

    def __init__(
        self,
        write: Callable[[str], object],
        files_count: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._files_count = files_count
        self._clock = clock
        self._rates = Rates(clock=clock)
        self._last_seconds = clock()

    def __enter__(self) -> BatchLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, totals: Totals) -> None:
        """Write a line if it is time."""
        self._rates.add(totals.done_bytes + totals.active_bytes)
        now = self._clock()
        if now - self._last_seconds >= _LINE_SECONDS:
            self._last_seconds = now
            self._write(describe_batch(totals, self._files_count, self._rates))

    def say(self, sentence: str) -> None:
        """Write a line."""
        self._write(sentence)


class BatchSilence(BatchLines):
    """Shows no progress; what is said is none."""

    def update(self, totals: Totals) -> None:
        """Show nothing."""
