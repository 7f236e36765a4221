"""What processes use: CPU seconds by difference, memory by sampling."""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SAMPLE_SECONDS = 0.02
#: Listing a process's descendants reads all of /proc: not done at every sample.
_SAMPLES_PER_LISTING = 10


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of one program took."""

    wall_seconds: float
    cpu_seconds: float  #: user and system, of all the program's processes
    largest_rss_bytes: int  #: the peak of the largest process
    sum_rss_bytes: int  #: the peak of the sum over processes; pages they share count more than once
    written_bytes: int | None = None  #: by the workers, to whatever file; None: not known of this program
    origin_cpu_seconds: float = 0.0  #: what nginx took meanwhile


@dataclass(slots=True)
class Peak:
    """Peaks of memory so far."""

    largest_bytes: int = 0
    sum_bytes: int = 0

    def add(self, sizes_bytes: list[int]) -> None:
        """Take note of one sample: the RSS of each process."""
        self.largest_bytes = max(self.largest_bytes, *sizes_bytes, 0)
        self.sum_bytes = max(self.sum_bytes, sum(sizes_bytes))


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants; empty if it has ended."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def trees(pids: Iterable[int]) -> list[psutil.Process]:
    """Several processes and the descendants of each."""
    return [process for pid in pids for process in tree(pid)]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """User and system time so far, with that of children that have ended; the kernel counts in 10 ms."""
    total_seconds = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_seconds += times.user + times.system + times.children_user + times.children_system
    return total_seconds


def written_bytes(processes: Iterable[psutil.Process]) -> int:
    """What processes have given to the kernel to write so far: ``wchar`` of ``/proc/PID/io``.

    What is sent over sockets is not in it, nor what is cloned.
    """
    # Not psutil: its write_bytes are those that reached a disk.
    return sum(
        int(line.partition(b":")[2])
        for process in processes
        for line in Path(f"/proc/{process.pid}/io").read_bytes().splitlines()
        if line.startswith(b"wchar:")
    )


@contextmanager
def peak_memory(find: Callable[[], list[psutil.Process]]) -> Iterator[Peak]:
    """Within, a thread samples the RSS of the processes that `find` lists.

    Not ru_maxrss: a child's begins with what its parent had at the fork, which is this benchmark's.
    """
    peak, ended = Peak(), threading.Event()
    thread = threading.Thread(target=_sample, args=(find, peak, ended), name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _sample(find: Callable[[], list[psutil.Process]], peak: Peak, ended: threading.Event) -> None:
    number = 0
    while not ended.is_set():
        if number % _SAMPLES_PER_LISTING == 0:
            processes = find()
        peak.add([size for size in map(_rss_bytes, processes) if size])
        number += 1
        ended.wait(_SAMPLE_SECONDS)


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def thread_clock() -> Callable[[], float]:
    """A clock of the CPU seconds that the calling thread takes from now on."""
    began_seconds = time.thread_time()
    return lambda: time.thread_time() - began_seconds
