"""The command line as a user runs it: in folders of its own, so that whatever it leaves behind is found."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import psutil
import pytest

from support.cluster import COMMAND, clean_environment
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


def slow(documents: Path) -> str:
    """nginx: each connection to /slow/... brings 3 MiB a second, so that there is time to break something."""
    return f"location /slow/ {{ limit_rate 3m; alias {documents}/; }}"


@dataclass
class Run:
    """A command that is running; what it prints goes to files, so that it never waits for a reader."""

    process: subprocess.Popen[bytes]
    stdout_path: Path
    stderr_path: Path

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    @property
    def job_id(self) -> str:
        """The job that it waits for, as its first line of progress says."""
        wait_until(
            lambda: re.search(r"job [0-9a-f]{12} ", self.stderr) or self.process.poll() is not None,
            what="the job's first line",
        )
        match = re.search(r"job ([0-9a-f]{12}) ", self.stderr)
        assert match, self.stderr
        return match[1]

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self, *, seconds: float = 60) -> int:
        """Its exit code; not to end within `seconds` fails the test."""
        wait_until(lambda: self.process.poll() is not None, seconds=seconds, what="the command's end")
        return int(self.process.returncode)


def _below(top: Path) -> list[str]:
    """All that is in a folder; os.walk takes it that folders vanish while it looks, rglob does not."""
    return sorted(
        str(Path(folder) / name) for folder, folders, files in os.walk(top) for name in [*folders, *files]
    )


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"process {process.pid} {process.status()}: {' '.join(process.cmdline())}"
    return f"process {process.pid}, gone"


def _catch_interrupts() -> None:
    # A shell starts its background jobs with SIGINT ignored, and children inherit that: pytest as such a job
    # would start commands that no Ctrl-C can end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(
    args: list[str], *, environment: dict[str, str], cwd: Path, outputs: Path, name: str = "run"
) -> Run:
    """Start the command line in a process group of its own, as a shell with a terminal does."""
    number = len(list(outputs.glob(f"{name}-*.out")))
    out, err = outputs / f"{name}-{number}.out", outputs / f"{name}-{number}.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *args],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_catch_interrupts,  # noqa: PLW1509  (nothing of ours but exec follows)
        )
    return Run(process, out, err)


@dataclass
class Home:
    """A user without a cluster: an own TMPDIR and XDG_RUNTIME_DIR, and a volume that is the current directory.

    Every process of theirs has that TMPDIR in its environment or works below it, also one whose parent is gone.
    """

    folder: Path

    def __post_init__(self) -> None:
        for path in (self.tmp, self.runtime, self.volume, self.outputs):
            path.mkdir(mode=0o700)

    @property
    def tmp(self) -> Path:
        return self.folder / "t"

    @property
    def runtime(self) -> Path:
        return self.folder / "r"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def settings_file(self) -> Path:
        return self.outputs / "orchestrator.toml"

    def environment(self, **variables: str) -> dict[str, str]:
        return clean_environment(
            TMPDIR=str(self.tmp),
            XDG_RUNTIME_DIR=str(self.runtime),
            ORCHESTRATOR_CONFIG=str(self.settings_file),
            **variables,
        )

    def start(self, *args: str, cwd: Path | None = None, **variables: str) -> Run:
        return start(
            list(args),
            environment=self.environment(**variables),
            cwd=cwd or self.volume,
            outputs=self.outputs,
        )

    def run(
        self, *args: str, cwd: Path | None = None, seconds: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        running = self.start(*args, cwd=cwd, **variables)
        code = running.ended(seconds=seconds)
        return subprocess.CompletedProcess([*args], code, running.stdout, running.stderr)

    def processes(self) -> list[psutil.Process]:
        """All that run with this home's TMPDIR."""
        return [process for process in psutil.process_iter() if self._is_of_here(process)]

    def _is_of_here(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(self.tmp):
                return True
            # Redis writes its title over its environment, and works in the stack's folder.
            return Path(process.cwd()).is_relative_to(self.tmp)
        return False

    def redis(self) -> psutil.Process:
        """The embedded mode's Redis."""
        return next(process for process in self.processes() if process.name() == "redis-server")

    def stack(self) -> psutil.Process | None:
        """The process that keeps the embedded mode's Redis and worker; None if there is none."""
        every = {process.pid: process for process in self.processes()}
        for process in every.values():
            with contextlib.suppress(psutil.Error):
                # Its forked children show the same command line.
                parent = every.get(process.ppid())
                is_fork = parent is not None and "private-stack" in parent.cmdline()
                if "private-stack" in process.cmdline() and not is_fork:
                    return process
        return None

    def celery_processes(self) -> list[psutil.Process]:
        """The embedded mode's worker processes, in the order of their start: control, chunks."""
        stack = self.stack()
        assert stack is not None
        children = [process for process in stack.children() if process.name() != "redis-server"]
        return sorted(children, key=lambda process: process.create_time())

    def left_running(self) -> list[str]:
        """Processes and temporary files; nothing, when all is well."""
        return [_describe(process) for process in self.processes()] + _below(self.tmp) + _below(self.runtime)

    def left(self) -> list[str]:
        """The same, and what unfinished jobs have on the volume."""
        places = _below(self.volume / ".orchestrator")
        if (self.volume / ".orchestrator").exists():
            places.append(".orchestrator")
        return self.left_running() + places

    def kept_jobs(self) -> list[str]:
        """The ids of the jobs that another submit can go on with; nothing else may be on the volume."""
        assert [path.name for path in self.volume.iterdir()] == [".orchestrator"]
        return sorted(
            path.name for path in (self.volume / ".orchestrator").iterdir() if path.name != "reserved"
        )

    def end(self) -> None:
        """End what a failed test left running, by its ids."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def new_home() -> Iterator[Home]:
    """A home with a short path: those of Unix sockets end at 107 bytes."""
    one = Home(Path(tempfile.mkdtemp(prefix="mh-", dir="/tmp")))
    try:
        yield one
    finally:
        one.end()


def stored_bytes(volume: Path) -> int:
    """How much unfinished jobs have on a volume, without the holes of sparse files."""
    total_bytes = 0
    for path in map(Path, _below(volume / ".orchestrator")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                total_bytes += path.stat().st_blocks * 512
    return total_bytes


def wait_until_fetching(run: Run, volume: Path, *, more_than_bytes: int = 2 * 1024 * 1024) -> None:
    """Wait until a download is in its middle."""
    wait_until(
        lambda: stored_bytes(volume) > more_than_bytes or run.process.poll() is not None,
        what="the download's middle",
    )
    assert run.process.poll() is None, run.stderr


def told_error(stderr: str) -> str:
    """The one error in what a command printed for a person, its lines joined."""
    assert "Traceback" not in stderr, stderr
    begins = [match.start() for match in re.finditer(r"^(?:error|Error): ", stderr, re.MULTILINE)]
    assert len(begins) == 1, stderr
    return " ".join(stderr[begins[0] :].split())


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A small filesystem of its own at `folder`."""
    folder.mkdir()
    # Not a program that may be missing but a right: a plain user has it nowhere.
    if os.getuid() != 0:
        pytest.skip("only root may mount a filesystem")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _read_command(file: BinaryIO) -> list[str] | None:
    """The next RESP command on a connection; None at its end."""
    line = file.readline()
    if not line.startswith(b"*"):
        return None
    words = []
    for _ in range(int(line[1:])):
        length = int(file.readline()[1:])
        words.append(file.read(length + 2)[:-2].decode())
    return words


@contextmanager
def impostor_redis(info: str | None) -> Iterator[int]:
    """What is not quite a Redis: knows AUTH, PING and INFO alone, and says this; None: accepts, and never says a word.

    Yields its port.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def answer(command: str, args: list[str]) -> str:
        if command in ("AUTH", "PING"):
            return "+OK\r\n" if command == "AUTH" else "+PONG\r\n"
        if command == "INFO":
            return f"${len(info or '')}\r\n{info}\r\n"
        # As Redis 5 has it: HELLO carries the password in its arguments.
        shown = "".join(f"`{arg}`, " for arg in args)
        return f"-ERR unknown command `{command}`, with args beginning with: {shown}\r\n"

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as file:
            while (words := _read_command(file)) is not None:
                if info is not None:
                    connection.sendall(answer(words[0].upper(), words[1:]).encode())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        for each in (listening, *connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
