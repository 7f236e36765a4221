"""A real Redis for tests."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class RedisServer:
    port: int
    password: str | None
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        user = f":{self.password}@" if self.password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)


@contextmanager
def redis_server(folder: Path, *, password: str | None = None) -> Iterator[RedisServer]:
    """A Redis on a port of loopback, for as long as the context."""
    program = need("redis-server", "valkey-server")
    port = free_port()
    args = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    if password:
        args += ["--requirepass", password]
    with (folder / f"redis-{port}.log").open("wb") as log:
        process = subprocess.Popen(args, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_listening(port), what="Redis listening")
        yield RedisServer(port, password, process)
    finally:
        end(process)
