"""Programs that tests need: on a laptop a missing one skips, with CI=true it fails."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def need(*names: str) -> str:
    """The path of the first of these programs that is there."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if path:
            return path
    return lack(f"needs {' or '.join(names)}, which is not on this machine")


def lack(sentence: str) -> NoReturn:
    """Say what is missing: skips, or with CI=true fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], object], *, seconds: float = 30.0, what: str = "the condition"
) -> None:
    """Wait for something that has to come true; it is the test's failure if it does not."""
    ends = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        if time.monotonic() > ends:
            pytest.fail(f"{what} did not come true within {seconds:g} s")
        # A look that is a command, or goes through all processes, leaves the processor to who is waited for.
        time.sleep(max(0.02, 2 * (time.monotonic() - began)))


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[bytes], *, seconds: float = 20.0) -> int:
    """End a process that the test started: SIGTERM, and SIGKILL if that is not enough."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail(f"{process.args!r} did not end within {seconds:g} s of SIGTERM")
