"""Where `orchestrator up` tells the user's other terminals how to reach it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.transfer.errors import BadOption

_FILE_NAME = "up.json"


class Running(BaseModel):
    """A running `orchestrator up`."""

    model_config = ConfigDict(frozen=True)

    pid: int
    redis_url: str
    volume: Path
    secret_key: str


def folder() -> Path:
    """This user's runtime folder, made with mode 0700.

    Raises:
        BadOption: something of another user's is in its place.
    """
    path = _place()
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    # In /tmp anybody may have made it first, to be told our key or to hand us jobs of theirs.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BadOption(f"{path} is not a folder that only you may enter; remove it or set XDG_RUNTIME_DIR.")
    return path


def announce(running: Running) -> None:
    """Let other terminals find it.

    Raises:
        BadOption: another one is running.
    """
    path = folder() / _FILE_NAME
    other = find()
    if other is not None:
        raise BadOption(f"orchestrator up is running already (process {other.pid}, volume {other.volume}).")
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(running.model_dump_json())


def withdraw() -> None:
    """Take the announcement of this process back."""
    path = folder() / _FILE_NAME
    with contextlib.suppress(FileNotFoundError, ValidationError):
        if Running.model_validate_json(path.read_bytes()).pid == os.getpid():
            path.unlink()
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def find() -> Running | None:
    """The `orchestrator up` that is running, or None."""
    try:
        if not _place().is_dir():
            return None
    except PermissionError:
        return None  # another user's XDG_RUNTIME_DIR, after su
    try:
        running = Running.model_validate_json((folder() / _FILE_NAME).read_bytes())
        # Asked, not looked up by its process id: that may be another program's by now.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(running.redis_url.partition("://")[2])
    except (OSError, ValidationError):
        return None
    return running


def _place() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "manyhands" if base else Path(tempfile.gettempdir()) / f"manyhands-{os.getuid()}"
