"""Many jobs of all kinds, those who wait for them, and a witness of what is visible under their names."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.asking import NotAnswered
from orchestrator.job import JobEndedBadly, StillRunning
from support.chaos_origin import sha256_of
from support.files import MIB
from tasks.records import RecordLost, RedisError

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator import Orchestrator
    from orchestrator.job import Job
    from tasks.jobs import JobRecord

KIB = 1024
#: How often who waits says `recover` before it gives up.
_MOST_RECOVERIES = 5


@dataclass(frozen=True)
class Plan:
    """A job to submit."""

    name: str  #: of the file
    kind: str  #: the origin's
    size_bytes: int
    seed: int
    options: dict[str, Any]
    sha256: str

    @property
    def path(self) -> str:
        """On the origin."""
        return f"/{self.kind}/{self.size_bytes}/{self.seed}"


def make_plans(count: int, chance: random.Random) -> list[Plan]:
    """Jobs of mixed sizes and layouts, of 1 to 40 chunks; most of them at an origin that does all that it should."""
    plans = []
    for number in range(count):
        kind = chance.choices(["plain", "dated", "bare", "whole", "unsized"], [30, 3, 2, 2, 2])[0]
        options: dict[str, Any] = {}
        if kind in ("whole", "unsized"):
            # It starts over each time that it is broken off.
            size_bytes = chance.randrange(MIB)
        elif chance.random() < 0.3:
            size_bytes = chance.choice([0, 1, chance.randrange(MIB), MIB, chance.randrange(3 * MIB)])
        else:
            size_bytes = chance.randrange(2 * MIB, 24 * MIB)
            chunks_count = chance.randrange(1, 41)
            options["chunk_size_bytes"] = max(-(-size_bytes // chunks_count), 128 * KIB)
        if kind == "plain":
            options["layout"] = chance.choice(["parts", "shared", "auto"])
        if chance.random() < 0.2:
            options["sync"] = True
        seed = chance.getrandbits(32)
        sha256 = sha256_of(size_bytes, seed)
        if chance.random() < 0.3:
            options["sha256"] = sha256
        plans.append(Plan(f"{number:03}-{kind}.bin", kind, size_bytes, seed, options, sha256))
    return plans


@dataclass
class Client:
    """Who submits one job, and waits for it; with a Redis that may be away."""

    plan: Plan
    job: Job | None = None
    record: JobRecord | None = None  #: at the end
    trouble: str = ""  #: why there is no end
    recoveries_count: int = 0  #: how often it was told that only `recover` helps
    names: list[str] = field(default_factory=list)  #: under which it may be found; the last one is `job`'s

    def submit(self, orchestrator: Orchestrator, url: str) -> None:
        """Submit it, and again if that fails: of each failure it is not known whether the job is recorded."""
        for attempt in range(60):
            self.names.append(f"{attempt}-{self.plan.name}" if attempt else self.plan.name)
            try:
                self.job = orchestrator.submit(url + self.plan.path, self.names[-1], **self.plan.options)
            except RedisError:
                time.sleep(0.5)
            else:
                return
        self.trouble = "could not be submitted"

    def wait(self, orchestrator: Orchestrator, seconds: float) -> None:
        """Wait for the job's end; do what is said where no worker lives that knew of it when Redis was emptied."""
        ends_seconds = time.monotonic() + seconds
        while self.job is not None and self.record is None and not self.trouble:
            try:
                self.record = self.job.wait(ends_seconds - time.monotonic())
            except JobEndedBadly as error:
                self.record = error.record
            except RecordLost as error:
                self.recoveries_count += 1
                with contextlib.suppress(RedisError, NotAnswered):
                    orchestrator.recover(20)
                if self.recoveries_count == _MOST_RECOVERIES:
                    self.trouble = f"RecordLost: {error}"
            except (StillRunning, RedisError) as error:
                self.trouble = f"{type(error).__name__}: {error}"


def begin_clients(
    plans: Sequence[Plan], orchestrator: Orchestrator, url: str, *, over_seconds: float, wait_seconds: float
) -> tuple[list[Client], list[threading.Thread]]:
    """Have all jobs submitted, half of them at once and the others over some time, and waited for."""
    clients = [Client(plan) for plan in plans]
    at_once = len(clients) // 2

    def run(client: Client, delay_seconds: float) -> None:
        time.sleep(delay_seconds)
        client.submit(orchestrator, url)
        client.wait(orchestrator, wait_seconds - delay_seconds)

    threads = []
    for number, client in enumerate(clients):
        delay_seconds = max(0, number - at_once) / len(clients) * 2 * over_seconds
        thread = threading.Thread(target=run, args=(client, delay_seconds), daemon=True)
        thread.start()
        threads.append(thread)
    return clients, threads


class Witness:
    """Looks at the files under their names all the time: each must be whole and right from the moment it is there."""

    def __init__(self, volume: Path, clients: Sequence[Client]) -> None:
        self._volume = volume
        self._plans = {client.plan.name: client.plan for client in clients}
        self._seen: dict[
            str, tuple[int, int, int]
        ] = {}  #: name -> inode, size and time of the file that was right
        self.problems: list[str] = []
        self.again: list[str] = []  #: files that were there, and were published once more
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def right_names(self) -> set[str]:
        """The files that were there, and right."""
        return set(self._seen)

    def right_bytes(self) -> dict[str, int]:
        """How many bytes of each of the origin's paths are published; those of a job that came twice, twice."""
        found: Counter[str] = Counter()
        for plan in filter(None, map(self._plan_of, self._seen)):
            found[plan.path] += plan.size_bytes
        return found

    def end(self) -> None:
        """Look once more, and no more."""
        self._is_over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            self._look()

    def _look(self) -> None:
        # The folder of unfinished jobs is there, or on its way there, or not: whoever ends this looks for leftovers.
        there = {
            entry.name: entry
            for entry in os.scandir(self._volume)
            if not entry.name.startswith(".orchestrator")
        }
        for name in self._seen.keys() - there.keys():
            self._complain(f"{name} was there, and is gone")
            del self._seen[name]
        for name, entry in there.items():
            plan = self._plan_of(name)
            if plan is None:
                self._complain(f"{name} is nobody's")
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._check(name, plan, entry.path)

    def _plan_of(self, name: str) -> Plan | None:
        # Of a submit that failed, and was heard nevertheless, the name has a number in front.
        return self._plans.get(name) or self._plans.get(name.partition("-")[2])

    def _check(self, name: str, plan: Plan, path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123  (scandir's are strings)
            status = os.fstat(file.fileno())
            mark = status.st_ino, status.st_size, status.st_mtime_ns
            if self._seen.get(name) == mark:
                return
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if status.st_size != plan.size_bytes or digest != plan.sha256:
            self._complain(f"{name} has {status.st_size} of {plan.size_bytes} bytes, or wrong ones")
        elif name in self._seen:
            self.again.append(name)
        self._seen[name] = mark

    def _complain(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
