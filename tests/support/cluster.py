"""A real cluster for tests: a Redis, a volume, and workers as processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator import Orchestrator
from support.tools import end, wait_until
from tasks.host import Host, records_of
from tasks.settings import Settings
from tasks.transfer.retry import RetryPolicy
from tasks.transfer.volume import Volume
from tasks.watch import Watch
from tasks.watched import LowSpeed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.redis_server import RedisServer

COMMAND = [sys.executable, "-P", "-m", "orchestrator"]
KEY = "TWFueWhhbmRzIHRlc3RzLCAzMiBieXRlcyBsb25nLi4="


def is_of_the_machine(name: str) -> bool:
    """Whether an environment variable is one of settings, proxies, certificates or accounts that requests reads."""
    return (
        name.startswith(("ORCHESTRATOR_", "FLOWER_"))
        or name.lower().endswith("_proxy")
        or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC")
    )


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without what is the machine's own, and with these variables."""
    kept = {name: value for name, value in os.environ.items() if not is_of_the_machine(name)}
    # Warnings are errors in the tests' own process only: Celery warns root of being root at each start.
    return {**kept, **variables}


@dataclass
class Cluster:
    redis: RedisServer
    volume: Path
    logs: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(
            ORCHESTRATOR_REDIS_URL=self.redis.url,
            ORCHESTRATOR_VOLUME=str(self.volume),
            ORCHESTRATOR_SECRET_KEY=KEY,
            **{f"ORCHESTRATOR_{name.upper()}": value for name, value in self.redis.settings.items()},
        )

    def orchestrator(self) -> Orchestrator:
        return Orchestrator(
            redis_url=self.redis.url, volume=self.volume, secret_key=KEY, **self.redis.settings
        )

    @contextmanager
    def host(self) -> Iterator[Host]:
        """A worker's host in the test's own process."""
        values = Settings(redis_url=self.redis.url, volume=self.volume, secret_key=KEY)
        records = records_of(values)
        try:
            yield Host(
                name="here",
                settings=values,
                records=records,
                volume=Volume(self.volume),
                watch=Watch(records, LowSpeed(0, 30), tick_seconds=None),
                policy=RetryPolicy(fruitless_attempts=8, backoff_cap_seconds=30, max_wait_seconds=120),
            )
        finally:
            records.close()

    def start_worker(
        self, *args: str, inside: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker, as what a command becomes if one is given, and wait until all its processes are ready."""
        path = self.logs / f"worker-{len(self.workers)}.log"
        with path.open("wb") as log:
            worker = subprocess.Popen(
                [*inside, *COMMAND, "worker", *args],
                env={**self.environment, **variables},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.logs,
            )
        self.workers.append(worker)
        processes = 1 if "--queues" in args else 2
        wait_until(
            lambda: (
                len(re.findall(r"@\S+ ready\.", path.read_text())) >= processes or worker.poll() is not None
            ),
            seconds=60,
            what="the worker's readiness",
        )
        assert worker.poll() is None, path.read_text()
        return worker

    def lists(self, *queues: str) -> list[str]:
        """The keys of the lists that these queues have messages in, of all priorities."""
        return [key for queue in queues for key in self.redis.client().keys(f"manyhands:{queue}*")]

    def waiting_count(self, *queues: str) -> int:
        """How many messages of these queues nobody has taken yet."""
        return sum(self.redis.client().llen(key) for key in self.lists(*queues))

    def log(self, number: int = 0) -> str:
        return (self.logs / f"worker-{number}.log").read_text()

    def run(self, *args: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in this cluster."""
        return subprocess.run(
            [*COMMAND, *args],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def end(self) -> None:
        for worker in self.workers:
            end(worker)


@contextmanager
def cluster(redis: RedisServer, folder: Path) -> Iterator[Cluster]:
    """A cluster without workers yet; those that the test starts end with it."""
    volume, logs = folder / "volume", folder / "logs"
    volume.mkdir()
    logs.mkdir()
    one = Cluster(redis, volume, logs)
    try:
        yield one
    finally:
        one.end()
