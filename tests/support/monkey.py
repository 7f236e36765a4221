"""A monkey that does harm to a cluster, by chance and by a seed, and takes note of what it did."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis

from support.chaos_origin import TROUBLES
from tasks.app import FETCH_TASK, MERGE_TASK

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    import psutil
    from celery import Celery

    from support.chaos_origin import ChaosOrigin
    from support.namespaces import Network
    from support.redis_server import RedisServer
    from support.worker_host import WorkerHost

#: A lease ends this long after its holder was heard of last.
_LEASE_SECONDS = 10.0
#: What a worker ends with that finds no Redis at its start, and when it is started again.
_NO_REDIS_CODE, _STARTS_AGAIN_SECONDS = 5, 2.0
#: How long a worker that was told to end may take for that.
_ENDS_SECONDS = 40.0

#: What it may do, and how often in proportion.
ACTS = {
    "kill": 3,  # a whole worker, its supervisor alone, or one of its processes
    "terminate": 2,
    "freeze": 2,
    "restart_redis": 2,
    "flush": 1,
    "cut": 4,
    "trouble": 4,
    "repeat": 4,
}


class _NoChance(Exception):
    """What was to be harmed is down already."""


@dataclass
class Jobs:
    """What the monkey knows of jobs."""

    app: Celery
    redis: Callable[[], redis.Redis]
    prefix: str

    def repeat(self, chance: random.Random) -> str:
        """Send a chunk or the merge of some job once more; what was sent."""
        client = self.redis()
        job_id = chance.choice(client.zrange(f"{self.prefix}jobs", 0, -1) or [""])
        generation, chunks_count = client.hmget(f"{self.prefix}job:{job_id}", "generation", "chunks_count")
        if not generation:
            raise _NoChance
        args: tuple[object, ...] = (job_id, int(generation))
        task = MERGE_TASK
        if chance.random() < 0.6:
            # An empty file has no chunk, and of one that comes as a stream it is not known at first.
            task, args = FETCH_TASK, (*args, chance.randrange(max(1, int(chunks_count or 1))))
        self.app.send_task(task, args=args, retry=False)
        return f"{task} {args}"


@dataclass
class Monkey:
    """Does harm, and undoes after a while what does not end by itself."""

    chance: random.Random
    network: Network
    hosts: Sequence[WorkerHost]
    redis: RedisServer
    origin: ChaosOrigin
    jobs: Jobs
    acts: dict[str, int]  #: what it may do -> how often in proportion
    log: list[str] = field(default_factory=list)
    done: Counter[str] = field(
        default_factory=Counter
    )  #: how often it did what, with the kinds of an act by themselves
    problems: list[str] = field(default_factory=list)  #: what should not have come of an act

    def __post_init__(self) -> None:
        self._began_seconds = time.monotonic()
        self._undoings: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._redis_is_up = True

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._began_seconds:6.1f} s  {text}")

    def rage(self, acts_count: int, *, least_seconds: float, most_seconds: float) -> None:
        """Do so many acts, with pauses in between, and then undo what is left to undo."""
        for _ in range(acts_count):
            self._act()
            self._pause(self.chance.uniform(least_seconds, most_seconds))
        self.look_after(lambda: not self._undoings)
        self.note("quiet")

    def look_after(self, is_over: Callable[[], bool]) -> None:
        """Do no more harm, and undo what was done when it is time for that."""
        while not is_over():
            self._pause(0.2)

    def _act(self) -> None:
        for _ in range(20):
            name = self.chance.choices(list(self.acts), list(self.acts.values()))[0]
            try:
                getattr(self, f"_{name}")()
            except (_NoChance, redis.ConnectionError, redis.TimeoutError, ConnectionError):
                continue
            return
        self.note("found nothing to harm")

    def _pause(self, seconds: float) -> None:
        ends_seconds = time.monotonic() + seconds
        while True:
            while self._undoings and self._undoings[0][0] <= time.monotonic():
                heapq.heappop(self._undoings)[2]()
            self._start_again()
            left_seconds = ends_seconds - time.monotonic()
            if left_seconds <= 0:
                return
            next_seconds = self._undoings[0][0] - time.monotonic() if self._undoings else left_seconds
            time.sleep(max(0.0, min(left_seconds, next_seconds, 0.5)))

    def _start_again(self) -> None:
        """Have workers started again that ended by themselves, as systemd would."""
        for host in self.hosts:
            if host.is_down or not host.has_ended:
                continue
            host.is_down = True
            code = host.process.returncode
            self.note(f"    {host.name} ended by itself with {code}")
            if code != _NO_REDIS_CODE:
                self.problems.append(f"{host.name} ended by itself with {code}")
            self._later(_STARTS_AGAIN_SECONDS, lambda host=host: self._start(host))

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        heapq.heappush(self._undoings, (time.monotonic() + seconds, next(self._numbers), undo))

    def _did(self, kind: str, text: str) -> None:
        self.done[kind] += 1
        self.note(f"{kind}: {text}")

    def _a_host(self) -> WorkerHost:
        well = [host for host in self.hosts if host.is_well]
        if not well:
            raise _NoChance
        return self.chance.choice(well)

    # What it does to workers.

    def _kill(self) -> None:
        host = self._a_host()
        what = self.chance.choice(["host", "supervisor", "child", "child"])
        if what == "child":
            host.kill_child(self.chance.choice)
        else:
            (host.kill if what == "host" else host.kill_supervisor)()
            self._later(self.chance.uniform(0.5, 3), lambda: self._start(host))
        self._did("kill", f"{what} of {host.name}")

    def _terminate(self) -> None:
        host = self._a_host()
        host.terminate()
        self._did("terminate", host.name)
        self._start_when_ended(host, time.monotonic() + _ENDS_SECONDS)

    def _start_when_ended(self, host: WorkerHost, ends_seconds: float) -> None:
        def look() -> None:
            if host.has_ended:
                self._start(host)
            elif time.monotonic() > ends_seconds:
                self.problems.append(f"{host.name} did not end within {_ENDS_SECONDS:g} s of SIGTERM")
                self.note(self.problems[-1])
                host.kill()
                self._start(host)
            else:
                self._start_when_ended(host, ends_seconds)

        self._later(1.0, look)

    def _start(self, host: WorkerHost) -> None:
        host.start()
        self.note(f"    started {host.name}")

    def _freeze(self) -> None:
        host = self._a_host()

        def choose(tree: list[psutil.Process]) -> list[psutil.Process]:
            return [self.chance.choice(tree[1:])] if tree[1:] and self.chance.random() < 0.5 else tree

        seconds = self.chance.uniform(_LEASE_SECONDS + 1, _LEASE_SECONDS + 5)
        frozen = host.freeze(choose)
        self._did("freeze", f"{len(frozen)} processes of {host.name} for {seconds:.1f} s")

        def thaw() -> None:
            host.thaw(frozen)
            self.note(f"    thawed {host.name}")

        self._later(seconds, thaw)

    # What it does to Redis.

    def _restart_redis(self) -> None:
        if not self._redis_is_up:
            raise _NoChance
        self._redis_is_up = False
        seconds = self.chance.uniform(0.5, 5)
        self.redis.kill()
        self._did("restart_redis", f"away for {seconds:.1f} s")

        def start() -> None:
            self.redis.start()
            self._redis_is_up = True
            self.note("    Redis is back")

        self._later(seconds, start)

    def _flush(self) -> None:
        if not self._redis_is_up:
            raise _NoChance
        with self.redis.client() as client:
            client.flushall()
        self._did("flush", "FLUSHALL")

    # What it does to the network.

    def _cut(self) -> None:
        host = self._a_host()
        address, name = self.chance.choice(
            [(self.network.redis_address, "redis"), (self.network.origin_address, "origin"), ("", "all")]
        )
        how = self.chance.choice(["silently", "loudly"]) if address else "all"
        seconds = self.chance.uniform(2, _LEASE_SECONDS + 4)
        args = (address,) if address else ()
        getattr(host.host, f"cut_{how}")(*args)
        host.is_cut = True
        self._did(f"cut_{name}", f"{host.name} {how} for {seconds:.1f} s")

        def mend() -> None:
            getattr(host.host, f"mend_{how}")(*args)
            host.is_cut = False
            self.note(f"    mended the network of {host.name}")

        self._later(seconds, mend)

    def _trouble(self) -> None:
        kind, seconds = self.chance.choice(TROUBLES), self.chance.uniform(0.5, 5)
        self.origin.get_into_trouble(kind, seconds)
        self._did(f"origin_{kind}", f"for {seconds:.1f} s")

    # What comes twice.

    def _repeat(self) -> None:
        if not self._redis_is_up:
            raise _NoChance
        self._did("repeat", self.jobs.repeat(self.chance))
