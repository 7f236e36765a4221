"""Showing a job's progress on stderr: a bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from tasks.jobs import JobRecord, JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console
    from rich.progress import Task

#: Over which the present rate is taken.
_WINDOW_SECONDS = 5.0
_LINE_SECONDS = 10.0


class Display(Protocol):
    """Something that shows one job; a context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, record: JobRecord) -> None:
        """Show the record as it is now."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""


class Rates:
    """The present and the average rate of a job, in bytes a second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def add(self, bytes_done: int) -> None:
        """Take note of how far the job is now."""
        now = self._clock()
        if self._first is None:
            self._first = (now, bytes_done)
        self._samples.append((now, bytes_done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW_SECONDS:  # noqa: PLR2004
            self._samples.popleft()

    @property
    def now(self) -> float:
        """Over the last few seconds."""
        if not self._samples:
            return 0.0
        return _rate(self._samples[0], self._samples[-1])

    @property
    def average(self) -> float:
        """Since the first look."""
        if self._first is None:
            return 0.0
        return _rate(self._first, self._samples[-1])


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float:
    seconds = last[0] - first[0]
    return max(0.0, (last[1] - first[1]) / seconds) if seconds > 0 else 0.0


def describe(record: JobRecord, rates: Rates) -> str:
    """A record in a line: percent, bytes, rates, time left, chunks, connections, workers."""
    done = decimal(record.bytes_done)
    if record.state in (JobState.QUEUED, JobState.PLANNING) and not record.bytes_done:
        return str(record.state)
    parts = []
    if record.size_bytes:
        parts.append(f"{100 * record.bytes_done / record.size_bytes:.1f}%")
        parts.append(f"{done} of {decimal(record.size_bytes)}")
    else:
        parts.append(done)
    parts.append(f"{decimal(int(rates.now))}/s (average {decimal(int(rates.average))}/s)")
    if record.state is JobState.FETCHING and record.size_bytes and rates.now > 0:
        parts.append(f"{_duration((record.size_bytes - record.bytes_done) / rates.now)} left")
    if record.chunks_count is not None:
        parts.append(f"chunks {record.chunks_done}/{record.chunks_count}")
    parts.append(f"connections {record.connections_count}, workers {record.workers_count}")
    return f"{record.state}: " + ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class _DescribeColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["line"]))


class Bar:
    """A bar that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rates = Rates()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            # Folded where the terminal is narrow: cut off, it would not say how many workers there are.
            _DescribeColumn(table_column=Column(no_wrap=False)),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, line="queued")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, record: JobRecord) -> None:
        """Draw the record."""
        self._rates.add(max(0, record.bytes_done - record.resumed_bytes))
        name = (record.path or record.url).rpartition("/")[2]
        self._progress.update(
            self._task,
            description=Text(name[:40]).plain.replace("[", "\\["),
            completed=record.bytes_done,
            total=record.size_bytes,
            line=describe(record, self._rates),
        )

    def say(self, sentence: str) -> None:
        """Print above the bar."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """A line at each change of state, and one now and then in between."""

    def __init__(
        self, write: Callable[[str], object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._rates = Rates(clock=clock)
        self._state: JobState | None = None
        self._last_seconds = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, record: JobRecord) -> None:
        """Write a line if it is time."""
        self._rates.add(max(0, record.bytes_done - record.resumed_bytes))
        now = self._clock()
        if record.state is not self._state or now - self._last_seconds >= _LINE_SECONDS:
            self._state, self._last_seconds = record.state, now
            self._write(f"job {record.job_id} {describe(record, self._rates)}")

    def say(self, sentence: str) -> None:
        """Write a line."""
        self._write(sentence)


class Silence:
    """Shows no progress."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, record: JobRecord) -> None:
        """Show nothing."""

    def say(self, sentence: str) -> None:
        """Write a line: what is said is no progress."""
        self._write(sentence)
