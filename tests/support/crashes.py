"""Processes that are killed right before a system call, each of those that change files in turn.

A process that has all modules imported forks one for each run, which stops until strace has taken hold of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import crash_steps
from support.cluster import clean_environment
from support.tools import need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Those that change files or names, or read what was changed. A question mark: not every machine has it.
CALLS = (
    "openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "?rename", "?renameat", "?renameat2",
    "?link", "linkat", "?unlink", "unlinkat", "?mkdir", "mkdirat", "?rmdir", "ioctl", "copy_file_range",
    "fallocate", "utimensat", "?creat", "sync_file_range", "fadvise64",
)  # fmt: skip
_PR_SET_PTRACER = 0x59616D61


class Crashes:
    """Runs steps of `crash_steps` in processes of their own."""

    def __init__(self, process: subprocess.Popen[str], strace: str, folder: Path) -> None:
        self._process = process
        self._strace = strace
        self._log = folder / "strace.log"
        self._output = folder / "strace.output"

    def run(self, step: str, *arguments: str) -> None:
        """Run a step to its end, which has to be a good one."""
        self._tell(step, arguments, stops=False)
        self._hear()
        status = self._hear()
        assert status == 0, f"{step} ended with {status}"

    def calls(self, step: str, *arguments: str, refuses: str | None = None) -> list[tuple[str, int]]:
        """Run a step to its end; the system calls of `CALLS` that it makes, each with its number among its like."""
        assert self._trace(step, arguments, [*_refusing(refuses), f"--trace={','.join(CALLS)}"]) == 0
        made: Counter[str] = Counter()
        calls = []
        for name in re.findall(r"^\d+ +(\w+)\(", self._output.read_text(), re.MULTILINE):
            made[name] += 1
            if name != refuses:
                calls.append((name, made[name]))
        return calls

    def is_killed_at(
        self, call: tuple[str, int], step: str, *arguments: str, refuses: str | None = None
    ) -> bool:
        """Run a step that is killed right before a system call; False if it came to its end without it.

        Args:
            call: its name, and its number among its like, from 1.
            step: its name.
            arguments: of the step.
            refuses: a call that the filesystem is to say that it does not know.
        """
        name, number = call
        traced = name if refuses is None else f"{name},{refuses}"
        options = [f"--trace={traced}", f"--inject={name}:signal=SIGKILL:when={number}", *_refusing(refuses)]
        return self._trace(step, arguments, options) != 0

    def _trace(self, step: str, arguments: tuple[str, ...], options: list[str]) -> int:
        self._tell(step, arguments, stops=True)
        pid = self._hear()
        command = [self._strace, "-f", "-o", str(self._output), *options, "-p", str(pid)]
        with self._log.open("wb") as log:
            tracer = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_until(
                lambda: b"attached" in self._log.read_bytes() or tracer.poll() is not None, what="strace"
            )
            assert b"attached" in self._log.read_bytes(), self._log.read_text()
        finally:
            os.kill(pid, signal.SIGCONT)
        status = self._hear()
        tracer.wait(20)
        assert status in (0, -signal.SIGKILL), f"{step} ended with {status}"
        return status

    def _tell(self, step: str, arguments: tuple[str, ...], *, stops: bool) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([step, arguments, stops]) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.fail("the process that forks the others has ended")
        return int(line)


def _refusing(call: str | None) -> list[str]:
    return [] if call is None else [f"--inject={call}:error=EOPNOTSUPP"]


@contextmanager
def crashes(folder: Path) -> Iterator[Crashes]:
    """Within, steps can be run and killed."""
    strace = need("strace")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "support.crashes"],
        env=clean_environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Whatever hangs ends with this.
    guard = threading.Timer(200, process.kill)
    guard.start()
    try:
        yield Crashes(process, strace, folder)
    finally:
        guard.cancel()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def _serve() -> None:
    for line in sys.stdin:
        step, arguments, stops = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(step, arguments, stops=stops)
        if stops:
            os.waitpid(pid, os.WUNTRACED)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(step: str, arguments: list[Any], *, stops: bool) -> None:
    try:
        if stops:
            # Where only ancestors may trace.
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1 & (2**64 - 1)), 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
        getattr(crash_steps, step)(*arguments)
    except BaseException:  # noqa: BLE001  (it must not go on as the process that it was forked from)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    crash_steps.warm_up()
    _serve()
