"""A real Redis for tests, that can be killed, frozen and started again."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class RedisServer:
    port: int
    folder: Path  #: its log, and its append-only file
    password: str | None = None
    appends: bool = False  #: writes an append-only file, synced each second, and begins with what that has
    address: str = "127.0.0.1"  #: where others find it; it listens on loopback besides
    programs: tuple[str, ...] = ("redis-server", "valkey-server")  #: the first that is there
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}{self.address}:{self.port}/0"

    @property
    def settings(self) -> dict[str, str]:
        """What the settings must say besides its URL."""
        return {}

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)

    def arguments(self) -> list[str]:
        """The server's, besides those of all of them."""
        args = ["--port", str(self.port)]
        if self.appends:
            args += ["--appendonly", "yes", "--appendfsync", "everysec"]
        if self.password:
            args += ["--requirepass", self.password]
        return args

    def start(self) -> None:
        """Start it, on the same port each time, and wait until it has read its file and answers."""
        args = [
            need(*self.programs),
            *("--save", "", "--dir", str(self.folder)),
            *("--bind", *sorted({"127.0.0.1", self.address})),
            *self.arguments(),
        ]
        with (self.folder / f"redis-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(args, stdout=log, stderr=log)
        wait_until(lambda: is_listening(self.port) and self._answers(), what="Redis answering")

    def kill(self) -> None:
        """End it at once, as a crash of its host would: what it had not synced is lost."""
        self.process.kill()
        self.process.wait(timeout=10)

    def stop_process(self) -> None:
        """Freeze it: connections stay, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def continue_process(self) -> None:
        """End a freeze."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.continue_process()  # a frozen one would not hear SIGTERM
            end(self.process)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.BusyLoadingError:
                return False


@contextmanager
def redis_server(
    folder: Path, *, password: str | None = None, appends: bool = False, address: str = "127.0.0.1"
) -> Iterator[RedisServer]:
    """A Redis on a port of loopback, and of another address, for as long as the context."""
    server = RedisServer(free_port(), folder, password, appends, address)
    try:
        server.start()
        yield server
    finally:
        server.end()
