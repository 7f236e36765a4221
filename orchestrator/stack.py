"""The stack: a private Redis, a worker and, if wanted, Flower; all of it ends together.

`orchestrator up` runs it in the foreground. The embedded mode runs it as one child process, which ends
when the pipe from its parent does: also when the parent was killed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import private_redis
from orchestrator.processes import Service, Supervisor, end_with_parent
from orchestrator.worker import worker_services
from tasks.host import records_of
from tasks.records import RedisError
from tasks.settings import ENV_PREFIX, settings
from tasks.transfer.errors import VolumeError
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_START_SECONDS = 15.0
_GRACE_SECONDS = 15.0
#: The longest path of a Unix socket is 107 bytes.
_LONGEST_FOLDER_BYTES = 90


def new_folder() -> Path:
    """A new private folder for a stack's Redis."""
    base = tempfile.gettempdir()
    if len(base.encode()) > _LONGEST_FOLDER_BYTES - len("/manyhands-12345678"):
        base = "/tmp"  # noqa: S108  (mkdtemp makes a folder that only we may enter)
    return Path(tempfile.mkdtemp(prefix="manyhands-", dir=base))


def run(
    folder: Path,
    *,
    concurrency: int,
    flower_args: list[str] | None,
    loglevel: str,
    parent_pipe: int | None = None,
) -> None:
    """Run a stack until a signal or the end of the parent's pipe; nothing of it is left then.

    Args:
        folder: private, for its Redis; removed at the end. The settings must name the Redis in it.
        concurrency: chunks to fetch at a time.
        flower_args: how to run Flower; None: not at all.
        loglevel: of the workers.
        parent_pipe: a file descriptor whose end asks to end.

    Raises:
        VitalServiceEnded: its Redis died.
    """
    services = [Service("redis", lambda: private_redis.start(folder), is_vital=True)]
    workers = worker_services(concurrency, processes=settings().processes, loglevel=loglevel)
    services += workers
    if flower_args is not None:
        services.append(Service("flower", lambda: _start_flower(flower_args)))
    # A child's stack ends with all its jobs: there is nobody to whom a worker could give its chunks back.
    grace_seconds = _GRACE_SECONDS if parent_pipe is None else 0.0
    supervisor = Supervisor(services, grace_seconds=grace_seconds, before_vital_end=_leave_unfinished)
    try:
        supervisor.run(parent_pipe=parent_pipe)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_flower(args: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator", "flower", *args],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=functools.partial(end_with_parent, os.getpid()),  # noqa: PLW1509  (this process has one thread)
    )


def _leave_unfinished() -> None:
    """Say on the volume that nobody is at these jobs any more: with this Redis, that cannot be known otherwise."""
    values = settings()
    volume = Volume(values.volume.absolute())
    # A volume that is gone by now must not keep Redis from being ended.
    with contextlib.suppress(RedisError, VolumeError):
        job_ids = sorted({*volume.job_ids(), *volume.unplanned_jobs.job_ids()})
        for job_id, ending in zip(job_ids, records_of(values).endings(job_ids), strict=True):
            with contextlib.suppress(VolumeError):
                if ending.leaves_nothing:
                    volume.remove_job(job_id)
                elif ending.state is not None:
                    volume.leave(job_id)


class PrivateStack:
    """A stack as a child process, for the embedded mode."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it, with these settings (without the prefix of their variables) besides the present ones."""
        private_redis.find_server()
        self._folder = new_folder()
        self.redis_url = private_redis.url_in(self._folder)
        variables = {f"{ENV_PREFIX}{name.upper()}": value for name, value in environment.items()}
        receiver, self._pipe = os.pipe2(os.O_CLOEXEC)
        log = (self._folder / "stack.log").open("ab")
        with log, contextlib.closing(os.fdopen(receiver)) as stdin:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator", "private-stack", str(self._folder)],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env={**os.environ, **variables, f"{ENV_PREFIX}REDIS_URL": self.redis_url},
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until its Redis answers.

        Raises:
            RedisError: it does not, or it ended.
        """
        ends_seconds = time.monotonic() + _START_SECONDS
        while not private_redis.is_listening(self._folder):
            if self._process.poll() is not None or time.monotonic() > ends_seconds:
                raise RedisError(f"The private Redis did not start. {self.last_words()}".strip())
            time.sleep(0.01)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """The last line of its log, for a message when it failed."""
        for name in ("stack.log", "redis.log"):
            with contextlib.suppress(OSError):
                lines = (self._folder / name).read_text(errors="replace").strip().splitlines()
                if lines:
                    return f"Its log ends: {lines[-1][-200:]}"
        return ""

    def close(self) -> None:
        """End it; nothing of it is left then."""
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
