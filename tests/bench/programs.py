"""The programs that are measured: this one in three ways, and its peers."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench.place import settle, wait_until_tidy
from bench.usage import Usage, cpu_seconds, peak_memory, thread_clock, tree, trees
from support.cluster import COMMAND, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.place import Place
    from orchestrator import Orchestrator
    from support.cluster import Cluster

#: A run that takes longer is ended, and fails the benchmark.
LONGEST_RUN_SECONDS = 600.0

OWN_PROGRAMS = ("warm", "warm-sync", "embedded")
PEER_PROGRAMS = ("aria2c", "axel", "curl")
ALL_PROGRAMS = OWN_PROGRAMS + PEER_PROGRAMS


class RunFailed(Exception):
    """A program failed, or brought something else than the origin has; the one argument is the sentence."""


class Program(Protocol):
    """Something that downloads the origin's file."""

    @property
    def name(self) -> str:
        """What ``--programs`` calls it."""

    @property
    def shown_as(self) -> str:
        """What the tables call it."""

    def run(self) -> Usage:
        """Download once; `RunFailed` if it fails."""

    @property
    def result(self) -> Path:
        """The file that a run leaves."""

    def clean(self) -> None:
        """Remove what a run left."""


@dataclass(frozen=True)
class WarmCluster:
    """This program on a cluster that runs already, through the Python API."""

    name: str
    shown_as: str
    cluster: Cluster
    orchestrator: Orchestrator
    url: str
    sync: bool

    def run(self) -> Usage:
        """Submit and wait; the CPU is that of workers, Redis and the submitting thread."""
        pids = [self.cluster.redis.process.pid, *(worker.pid for worker in self.cluster.workers)]
        processes = trees(pids)
        before_seconds = cpu_seconds(processes)
        with peak_memory(lambda: processes) as peak:
            # This thread is the submitting process; the sampling thread beside it is not.
            submitting = thread_clock()
            began_seconds = time.perf_counter()
            job = self.orchestrator.submit(self.url, self.result.name, sync=self.sync)
            job.wait(LONGEST_RUN_SECONDS)
            wall_seconds = time.perf_counter() - began_seconds
            submitting_seconds = submitting()
        wait_until_tidy(self.cluster.volume)
        used_seconds = cpu_seconds(processes) - before_seconds + submitting_seconds
        return Usage(wall_seconds, used_seconds, peak.largest_bytes, peak.sum_bytes)

    @property
    def result(self) -> Path:
        """The file that a run leaves."""
        return self.cluster.volume / "result.bin"

    def clean(self) -> None:
        """Remove what a run left."""
        settle(self.cluster.volume)


@dataclass(frozen=True)
class CommandLine:
    """A program that is started for one download and ends with it."""

    name: str
    shown_as: str
    folder: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def run(self) -> Usage:
        """Run the command from start to end."""
        return run_command(self.arguments, self.folder, self.environment)

    @property
    def result(self) -> Path:
        """The file that a run leaves."""
        return self.folder / "result.bin"

    def clean(self) -> None:
        """Remove what a run left."""
        settle(self.folder)


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
        raise RunFailed(f"{arguments[0]} ended with exit code {process.returncode}.")
    return Usage(wall_seconds, used.ru_utime + used.ru_stime, peak.largest_bytes, peak.sum_bytes)


def warm(cluster: Cluster, orchestrator: Orchestrator, url: str, *, sync: bool) -> WarmCluster:
    """This program on a warm cluster."""
    name = "warm-sync" if sync else "warm"
    shown_as = f"manyhands, warm cluster, sync {'on' if sync else 'off'}"
    return WarmCluster(name, shown_as, cluster, orchestrator, url, sync)


def embedded(where: Place, *, sync: bool = False) -> CommandLine:
    """This program's command line without a cluster: it starts a Redis and a worker, and ends them."""
    folder, runtime = where.new_folder("embedded"), where.new_folder("embedded-runtime")
    runtime.chmod(0o700)
    # Without a runtime folder of its own it would find the user's `orchestrator up` and use that.
    environment = clean_environment(ORCHESTRATOR_VOLUME=str(folder), XDG_RUNTIME_DIR=str(runtime))
    arguments = (*COMMAND, "submit", where.url, "-o", "result.bin", "-q", *(() if sync else ("--no-sync",)))
    shown_as = f"manyhands, embedded cold, sync {'on' if sync else 'off'}"
    return CommandLine("embedded", shown_as, folder, arguments, environment)


def peer(name: str, where: Place) -> CommandLine | None:
    """A peer by its name, or None if it is not on this machine."""
    path = shutil.which(name)
    if path is None:
        return None
    options = {
        "aria2c": ("--no-conf=true", "-q", "-x16", "-s16", "--file-allocation=none", "-o"),
        "axel": ("-n8", "-q", "-o"),
        "curl": ("-q", "-f", "-s", "-o"),
    }[name]
    shown_as = {"aria2c": "aria2c -x16 -s16", "axel": "axel -n8", "curl": "curl"}[name]
    arguments = (path, *options, "result.bin", where.url)
    return CommandLine(name, shown_as, where.new_folder(name), arguments, clean_environment())


def versions() -> dict[str, str]:
    """The first line that each program says of its version; a missing one is left out."""
    said = {}
    for name, option in (
        ("aria2c", "-v"),
        ("axel", "-V"),
        ("curl", "-V"),
        ("nginx", "-v"),
        ("redis-server", "-v"),
    ):
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if path is None:
            continue
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=False)
        said[name] = (done.stdout or done.stderr).partition("\n")[0].strip()
    return said
