"""What is measured, and how: a program on a warm cluster, or a command from start to end."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench.place import settle, wait_until_tidy
from bench.usage import Usage, cpu_seconds, peak_memory, thread_clock, tree, trees, written_bytes
from orchestrator import JobEndedBadly, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.origins import Origin
    from support.cluster import Cluster

#: A run that takes longer is ended, and fails the benchmark.
LONGEST_RUN_SECONDS = 600.0


class RunFailed(Exception):
    """A program failed, or brought something else than the origin has; the one argument is the sentence."""


class Program(Protocol):
    """Something that downloads the origin's files."""

    @property
    def name(self) -> str:
        """What ``--programs`` calls it."""

    @property
    def shown_as(self) -> str:
        """What the tables call it."""

    @property
    def is_own(self) -> bool:
        """Whether it is this program, not a peer."""

    @property
    def origin(self) -> Origin:
        """Whom it downloads from."""

    @property
    def folder(self) -> Path:
        """Where a run leaves its files."""

    def run(self) -> Usage:
        """Download once; `RunFailed` if it fails."""


@dataclass(frozen=True)
class WarmCluster:
    """This program on a cluster that runs already, through the Python API."""

    name: str
    shown_as: str
    cluster: Cluster
    origin: Origin
    work: Callable[[], object]  #: submits and waits
    is_own: bool = True

    @property
    def folder(self) -> Path:
        """Where a run leaves its files."""
        return self.cluster.volume

    def run(self) -> Usage:
        """Submit and wait; the CPU is that of workers, Redis and the submitting thread."""
        workers = trees(worker.pid for worker in self.cluster.workers)
        processes = [*workers, *trees([self.cluster.redis.process.pid])]
        before_seconds, before_bytes = cpu_seconds(processes), written_bytes(workers)
        with peak_memory(lambda: processes) as peak:
            # This thread is the submitting process; the sampling thread beside it is not.
            submitting = thread_clock()
            began_seconds = time.perf_counter()
            try:
                self.work()
            except (JobEndedBadly, StillRunning) as error:
                raise RunFailed(f"{self.shown_as}: {error}") from error
            wall_seconds = time.perf_counter() - began_seconds
            submitting_seconds = submitting()
        wait_until_tidy(self.cluster.volume)
        used_seconds = cpu_seconds(processes) - before_seconds + submitting_seconds
        used_bytes = written_bytes(workers) - before_bytes
        return Usage(wall_seconds, used_seconds, peak.largest_bytes, peak.sum_bytes, used_bytes)


@dataclass(frozen=True)
class CommandLine:
    """A program that is started for one download and ends with it."""

    name: str
    shown_as: str
    folder: Path
    origin: Origin
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    is_own: bool = False

    def run(self) -> Usage:
        """Run the command from start to end."""
        return run_command(self.arguments, self.folder, self.environment)

    def named(self, name: str, shown_as: str) -> CommandLine:
        """The same program under another name."""
        return dataclasses.replace(self, name=name, shown_as=shown_as)


def clean(program: Program) -> None:
    """Remove what a run left."""
    settle(program.folder)


def run_command(arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> Usage:
    """Run a command in a folder.

    Returns:
        What it and the processes that it waited for took.

    Raises:
        RunFailed: its exit code is not 0, or it took too long.
    """
    began_seconds = time.perf_counter()
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = threading.Timer(LONGEST_RUN_SECONDS, process.kill)
    deadline.daemon = True
    deadline.start()
    try:
        with peak_memory(lambda: tree(process.pid)) as peak:
            # Not Popen.wait: only wait4 says what this one child, with its own children, took.
            _, status, used = os.wait4(process.pid, 0)
            wall_seconds = time.perf_counter() - began_seconds
    finally:
        deadline.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RunFailed(f"{' '.join(arguments[:4])} ended with exit code {process.returncode}.")
    return Usage(wall_seconds, used.ru_utime + used.ru_stime, peak.largest_bytes, peak.sum_bytes)
