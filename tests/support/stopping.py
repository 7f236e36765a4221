"""Processes that stand still for a while, as on a suspended host."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from support.tools import wait_until
from tasks.records import LEASE_SECONDS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


@contextmanager
def stopped(worker: subprocess.Popen[bytes], *, seconds: float = LEASE_SECONDS + 1) -> Iterator[None]:
    """Within, and for so many seconds at least, all processes of a worker stand still."""
    pids = [worker.pid, *(child.pid for child in psutil.Process(worker.pid).children(recursive=True))]
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids))
        yield
        wait_until(lambda: time.monotonic() > began + seconds, what="the end of the lease")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
