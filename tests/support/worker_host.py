"""A worker on a host of its own, for those who do it harm: its processes, and its start again as systemd would."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from support.cluster import COMMAND
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.namespaces import NetHost

#: In the environment of all that runs on a host, so that none of it is overlooked at the end.
_MARK = "MANYHANDS_TEST_HOST"


@dataclass
class WorkerHost:
    """A host that runs ``orchestrator worker``."""

    host: NetHost
    environment: dict[str, str]
    log: Path
    args: tuple[str, ...]  #: of ``orchestrator worker``
    processes_count: int  #: Celery processes that this makes
    process: subprocess.Popen[bytes] = field(init=False)
    starts_count: int = 0
    _ready_before: int = 0
    is_down: bool = False  #: killed or ended, and not started again yet
    is_frozen: bool = False
    is_cut: bool = False

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def is_well(self) -> bool:
        """Whether nothing has been done to it that is not undone."""
        return not (self.is_down or self.is_frozen or self.is_cut)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._ready_before = self.ready_count()
            self.process = subprocess.Popen(
                self.host.command(*COMMAND, "worker", *self.args),
                env={**self.environment, "ORCHESTRATOR_HOST_NAME": self.name, _MARK: self.name},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.log.parent,
            )
        self.starts_count += 1
        self.is_down = False

    def ready_count(self) -> int:
        """How many of its processes have said that they are ready, over all of its starts."""
        return self.log.read_text().count(" ready.")

    def wait_until_ready(self) -> None:
        """Wait until all its processes are, after a start that nobody disturbs."""
        wait_until(
            lambda: (
                self.ready_count() - self._ready_before >= self.processes_count
                or self.process.poll() is not None
            ),
            seconds=90,
            what=f"the readiness of {self.name}",
        )
        assert self.process.poll() is None, self.log.read_text()

    def tree(self) -> list[psutil.Process]:
        """Its supervisor, and then the children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End all of it at once, as a power failure does."""
        self.is_down = True
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=20)

    def kill_supervisor(self) -> None:
        self.is_down = True
        self.process.kill()
        self.process.wait(timeout=20)

    def kill_child(self, choose: Callable[[list[psutil.Process]], psutil.Process]) -> None:
        """End one of its Celery processes; the supervisor starts it again."""
        children = self.tree()[1:]
        if children:
            with contextlib.suppress(psutil.NoSuchProcess):
                choose(children).kill()

    def terminate(self) -> None:
        """Have it end in order."""
        self.is_down = True
        self.process.terminate()

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def freeze(self, choose: Callable[[list[psutil.Process]], list[psutil.Process]]) -> list[psutil.Process]:
        """Stop some of its processes; which it were."""
        self.is_frozen = True
        chosen = choose(self.tree())
        for process in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        return chosen

    def thaw(self, frozen: list[psutil.Process]) -> None:
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self.is_frozen = False

    def all_processes(self) -> list[psutil.Process]:
        """All that runs on it, also what has lost its parent."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.name:
                    found.append(process)
        return found

    def end(self) -> None:
        """Leave nothing running, whatever state it is in."""
        for process in self.all_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
