"""Chaos: many jobs on three hosts, while a monkey kills, freezes, cuts off and empties what they need.

The seed is printed, and ``CHAOS_SEED`` sets it; ``CHAOS_JOBS``, ``CHAOS_ACTS`` and ``CHAOS_ROUNDS`` make it larger, and
``CHAOS_ONLY`` (acts of the monkey, separated by commas) narrower. The same seed gives the same jobs and much the same
acts, at other moments.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from orchestrator import Orchestrator
from support.chaos_jobs import KIB, Client, Witness, begin_clients, make_plans
from support.chaos_origin import ChaosOrigin, chaos_origin
from support.cluster import KEY, clean_environment
from support.files import MIB, leftovers
from support.monkey import ACTS, Jobs, Monkey
from support.namespaces import network
from support.redis_server import RedisServer, redis_server
from support.tools import wait_until
from support.worker_host import WorkerHost
from tasks.app import make_app
from tasks.jobs import JobState
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOBS_COUNT = int(os.environ.get("CHAOS_JOBS") or 40)
ACTS_COUNT = int(os.environ.get("CHAOS_ACTS") or 28)
ROUNDS_COUNT = int(os.environ.get("CHAOS_ROUNDS") or 1)
HOSTS_COUNT = 3
SLOTS = 4
#: How long the last job may take when the monkey is quiet.
QUIET_SECONDS = 180.0
PAUSES_SECONDS = 1.0, 2.4
RAGING_SECONDS = ACTS_COUNT * sum(PAUSES_SECONDS) / 2
BYTES_PER_SECOND = 640 * KIB
PREFIX = "manyhands:"
#: What was fetched and is in no file at the end, at most, as a share of all files.
MOST_REFETCHED = 0.10

_NO_ORIGIN = {"origin_reset", "origin_truncate", "origin_stall", "origin_busy", "cut_origin", "cut_all"}
_DEATHS = {"kill", "freeze", "cut_redis", "cut_all"}
#: How a job may fail; which acts explain it, and how many of them it takes.
EXCUSES = {
    "NoProgress": (_NO_ORIGIN, 1),
    "OriginUnreachable": (_NO_ORIGIN, 1),
    "OriginBusy": (_NO_ORIGIN, 1),
    "ResponseTruncated": (_NO_ORIGIN, 1),
    "TooSlow": (_NO_ORIGIN, 1),
    "WorkersDied": (_DEATHS, 3),
    "SentInVain": (_DEATHS, 5),
}


@dataclass
class Scene:
    """All who take part."""

    volume: Path
    redis: RedisServer
    origin: ChaosOrigin
    hosts: list[WorkerHost]
    monkey: Monkey


@pytest.fixture(params=range(ROUNDS_COUNT))
def seed(request: pytest.FixtureRequest) -> int:
    given = os.environ.get("CHAOS_SEED")
    return int(given) + request.param if given else secrets.randbelow(2**32)


@pytest.fixture
def scene(tmp_path: Path, seed: int) -> Iterator[Scene]:
    volume, logs = tmp_path / "volume", tmp_path / "logs"
    volume.mkdir()
    logs.mkdir()
    with ExitStack() as stack:
        net = stack.enter_context(network(HOSTS_COUNT))
        origin = stack.enter_context(
            chaos_origin(tmp_path, net.origin_address, bytes_per_second=BYTES_PER_SECOND)
        )
        # A password: without one Redis answers on loopback only.
        redis = stack.enter_context(
            redis_server(tmp_path, password="monkey", appends=True, address=net.redis_address)
        )
        environment = clean_environment(
            ORCHESTRATOR_REDIS_URL=redis.url,
            ORCHESTRATOR_VOLUME=str(volume),
            ORCHESTRATOR_SECRET_KEY=KEY,
            # Patience is not what is tested.
            ORCHESTRATOR_CONNECT_TIMEOUT_SECONDS="4",
            ORCHESTRATOR_READ_TIMEOUT_SECONDS="8",
            ORCHESTRATOR_REDIS_TIMEOUT_SECONDS="5",
            ORCHESTRATOR_BACKOFF_CAP_SECONDS="8",
            ORCHESTRATOR_PROBE_ATTEMPTS="8",
        )
        hosts = [
            WorkerHost(host, environment, logs / f"{number}.log", SLOTS)
            for number, host in enumerate(net.hosts)
        ]
        for host in hosts:
            stack.callback(host.end)
            host.start()
        for host in hosts:
            host.wait_until_ready()
        app = make_app(Settings(redis_url=redis.url))
        stack.callback(app.close)
        wanted = [name for name in os.environ.get("CHAOS_ONLY", "").split(",") if name]
        acts = {name: often for name, often in ACTS.items() if not wanted or name in wanted}
        monkey = Monkey(random.Random(seed), net, hosts, redis, origin, Jobs(app, redis.client, PREFIX), acts)
        yield Scene(volume, redis, origin, hosts, monkey)


@pytest.mark.alone
@pytest.mark.timeout(2 * RAGING_SECONDS + QUIET_SECONDS + 400)
@pytest.mark.parametrize("flushes", [False, True], ids=["redis-keeps", "redis-emptied"])
def test_nothing_is_lost_and_nothing_hangs(scene: Scene, seed: int, flushes: bool, capsys):
    if not flushes:
        scene.monkey.acts.pop("flush", None)
    chance = random.Random(seed)
    plans = make_plans(JOBS_COUNT, chance)
    total_bytes = sum(plan.size_bytes for plan in plans)
    with capsys.disabled():
        print(
            f"\nchaos: CHAOS_SEED={seed}, {JOBS_COUNT} jobs of {total_bytes / MIB:.0f} MiB, {ACTS_COUNT} acts"
        )
    with Orchestrator(redis_url=scene.redis.url, volume=scene.volume, secret_key=KEY) as orchestrator:
        clients, threads = begin_clients(
            plans,
            orchestrator,
            scene.origin.url,
            over_seconds=RAGING_SECONDS * 0.6,
            wait_seconds=RAGING_SECONDS + 30 + QUIET_SECONDS,
        )
        witness = Witness(scene.volume, clients)
        try:
            scene.monkey.rage(ACTS_COUNT, least_seconds=PAUSES_SECONDS[0], most_seconds=PAUSES_SECONDS[1])
            began_seconds = time.monotonic()
            scene.monkey.look_after(lambda: not any(thread.is_alive() for thread in threads))
            quiet_seconds = time.monotonic() - began_seconds
            check_jobs(scene, clients, witness)
            clean_up(orchestrator)
            check_nothing_left(scene)
        except BaseException:
            tell(scene, clients, orchestrator)
            raise
        finally:
            witness.end()
    served, right = scene.origin.served_bytes(), witness.right_bytes()
    more_bytes = {path: count - right.get(path, 0) for path, count in served.items()}
    right_bytes, refetched_bytes = sum(right.values()), sum(more_bytes.values())
    most = sorted(((count, path) for path, count in more_bytes.items()), reverse=True)[:3]
    with capsys.disabled():
        print(
            f"chaos: {sum(map(is_complete, clients))} complete, {quiet_seconds:.0f} s after the last act; refetched "
            f"{refetched_bytes / MIB:.1f} of {right_bytes / MIB:.0f} MiB ({refetched_bytes / right_bytes:.1%}), "
            f"most of it {most}; published again: {witness.again}; "
            f"recover was said {sum(client.recoveries_count for client in clients)} times; {dict(scene.monkey.done)}"
        )
    assert witness.problems == []
    if not flushes:
        assert not any(client.recoveries_count for client in clients)
        assert refetched_bytes <= MOST_REFETCHED * right_bytes


def is_complete(client: Client) -> bool:
    return client.record is not None and client.record.state is JobState.COMPLETE


def check_jobs(scene: Scene, clients: list[Client], witness: Witness) -> None:
    """Each job is complete, with the right bytes under its name, or failed for a reason that the monkey gave."""
    witness.end()
    assert witness.problems == []
    wrong = []
    for client in clients:
        record = client.record
        if record is None:
            wrong.append(f"{client.plan.name}: {client.trouble or 'has no end'}")
        elif record.state is JobState.COMPLETE:
            if client.names[-1] not in witness.right_names:
                wrong.append(f"{client.plan.name}: complete, and not there")
        elif record.error is None or not is_excused(scene.monkey, record.error.code):
            wrong.append(f"{client.plan.name}: {record.state}, {record.error}")
    assert wrong == []
    assert scene.monkey.problems == []


def is_excused(monkey: Monkey, code: str) -> bool:
    acts, least_count = EXCUSES.get(code, (set(), 1))
    return sum(monkey.done[act] for act in acts) >= least_count


def clean_up(orchestrator: Orchestrator) -> None:
    """Have what failed give up what it has kept, as its user would; and wait for jobs that nobody waits for.

    Those are of submits that failed, and were heard nevertheless.
    """
    wait_until(
        lambda: not any(record.state.is_active for record in orchestrator.list()),
        seconds=QUIET_SECONDS,
        what="the end of jobs that nobody waits for",
    )
    for record in orchestrator.list():
        if record.state is JobState.FAILED:
            orchestrator.cancel(record.job_id)


def check_nothing_left(scene: Scene) -> None:
    """No file but the published ones, no message, no lease; and all workers are there."""
    wait_until(lambda: left(scene.volume) == [], seconds=60, what="a volume without leftovers")
    with scene.redis.client() as client:
        # What workers had that were killed is delivered again when the visibility timeout is over: now.
        def settle() -> bool:
            for tag in client.zrange(f"{PREFIX}unacked_index", 0, -1):
                client.zadd(f"{PREFIX}unacked_index", {tag: 1}, xx=True)
            return messages(client) == {}

        wait_until(settle, seconds=60, what="the end of all messages")
        leases = [key for key in client.scan_iter(f"{PREFIX}*:leases") if client.zcard(key)]
        wait_until(
            lambda: not any(client.zcard(key) for key in leases), seconds=30, what=f"the end of {leases}"
        )
    # What came late must have left nothing either.
    wait_until(lambda: left(scene.volume) == [], seconds=60, what="a volume without late leftovers")
    assert [host.name for host in scene.hosts if host.has_ended] == []


def left(volume: Path) -> list[str]:
    return leftovers(volume) + [path.name for path in volume.glob(".orchestrator.*")]


def messages(client) -> dict[str, int]:
    """How many wait in which queue, or are with a worker."""
    found = {}
    for key in client.scan_iter(f"{PREFIX}*"):
        if client.type(key) == "list" and not key.startswith(f"{PREFIX}answer:"):
            found[key] = client.llen(key)
        elif key == f"{PREFIX}unacked":
            found[key] = client.hlen(key)
    return {key: count for key, count in found.items() if count}


def tell(scene: Scene, clients: list[Client], orchestrator: Orchestrator) -> None:
    """Print what helps to find out what went wrong."""
    print("\n".join(scene.monkey.log))
    print(f"left on the volume: {left(scene.volume)}")
    for client in clients:
        if not is_complete(client):
            print(client.plan, client.trouble, client.record)
            if client.job is not None:
                with scene.redis.client() as redis:
                    print("   ", redis.hgetall(f"{PREFIX}job:{client.job.job_id}"))
    with scene.redis.client() as redis:
        print(messages(redis))
    for host in scene.hosts:
        print(f"the log of {host.name}, started {host.starts_count} times: {host.log}")
