"""Redis behind Sentinels: the master dies or is replaced in the middle of jobs, and everybody follows."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import subprocess

import psutil
import pytest

from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB, wait_until_clean
from support.flower import flower, page
from support.origin import origin
from support.redis_kinds import MASTER, Watched, watched
from support.redis_server import redis_server
from support.tools import free_port, wait_until
from tasks.app import make_app
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import RedisAway, RedisError
from tasks.settings import Settings

CONTENT = random.Random(31).randbytes(12 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PASSWORD, SENTINEL_PASSWORD = "redis-s3cret", "sentinel-s3cret"
#: Quick, so that a test of what takes 15 seconds elsewhere takes three.
QUICK = {
    "ORCHESTRATOR_REDIS_TIMEOUT_SECONDS": "5",
    "ORCHESTRATOR_SWEEP_SECONDS": "0.5",
    "ORCHESTRATOR_STALL_SECONDS": "2",
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched") / "redis"
    with watched(folder, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD) as one:
        yield one


@pytest.fixture
def one(both: Watched, tmp_path):
    wait_until(both.is_replicated, seconds=120, what="a master with its replica")
    both.client().flushall()
    with cluster(both, tmp_path) as made:
        yield made


@pytest.fixture
def served():
    with origin(CONTENT) as made:
        made.bytes_per_second = MIB
        yield made


def is_right(one: Cluster) -> bool:
    return hashlib.sha256((one.volume / "big.bin").read_bytes()).hexdigest() == SHA256


def start_submit(one: Cluster, url: str) -> subprocess.Popen[str]:
    """A submit that waits, as a user runs it."""
    return subprocess.Popen(
        [*COMMAND, "submit", url, "--chunk-size", "2M", "--connections", "4", "--json"],
        env={**one.environment, **QUICK},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def children(worker: subprocess.Popen[bytes]) -> set[int]:
    return {process.pid for process in psutil.Process(worker.pid).children()}


@contextlib.contextmanager
def job_in_the_middle(one: Cluster, served):
    """A job of which some bytes are there, with a submit that waits for it; both go well, after what happens within."""
    worker = one.start_worker("--concurrency", "4", "--processes", "1", **QUICK)
    processes = children(worker)
    submit = start_submit(one, served.url)
    try:
        wait_until(lambda: served.served_bytes > 2 * MIB or submit.poll() is not None, what="the first bytes")
        yield
        stdout, stderr = submit.communicate(timeout=180)
    finally:
        submit.kill()
        submit.wait()
    assert submit.returncode == 0, stderr + one.log()[-4000:]
    assert '"state": "complete"' in stdout
    assert is_right(one)
    assert children(worker) == processes, one.log()[-4000:]
    wait_until_clean(one.volume)
    assert not re.search(f"{PASSWORD}|{SENTINEL_PASSWORD}", one.log() + stdout + stderr)
    print(f"fetched again: {served.served_bytes / len(CONTENT) - 1:.2%}")


def test_flower_follows_and_shows_no_password_of_the_sentinels(one: Cluster, both: Watched):
    one.start_worker("--queues", "control")
    with flower(one) as pages:
        wait_until(lambda: "control-" in page(pages), what="the worker in Flower")
        stats = make_app(Settings(redis_url=both.url, **both.settings)).control.inspect(timeout=5).stats()
        wait_until(
            lambda: "sentinel_kwargs" in page(f"{pages}/worker/{next(iter(stats))}"), what="Flower's page"
        )
        seen = (
            one.run("settings").stdout + page(f"{pages}/broker") + page(f"{pages}/worker/{next(iter(stats))}")
        )
    assert "sentinel_kwargs" in str(stats)  # they are told, without what is secret in them
    for secret in (PASSWORD, SENTINEL_PASSWORD):
        assert secret not in seen + str(stats) + one.log() + (one.logs / "flower.log").read_text()


def test_a_job_goes_on_when_its_master_is_made_a_replica(one: Cluster, both: Watched, served):
    first = both.master()
    # For longer than the old master keeps its clients, who go on telling it what nobody else hears.
    served.bytes_per_second = MIB / 4
    with job_in_the_middle(one, served):
        both.sentinel().execute_command("SENTINEL", "FAILOVER", MASTER)
        wait_until(lambda: both.master() is not first, seconds=60, what="another master")


def check(url: str, **settings: str) -> None:
    with contextlib.closing(
        records_of(Settings(redis_url=url, redis_timeout_seconds=5, **settings))
    ) as records:
        records.check()


def test_what_is_wrong_with_the_settings_is_told(both: Watched):
    for changed, told in (
        ({"redis_sentinel_master": "uploads"}, "know no master 'uploads'.*REDIS_SENTINEL_MASTER"),
        ({"redis_sentinel_password": "wrong"}, "refused the password.*ORCHESTRATOR_REDIS_SENTINEL_PASSWORD"),
    ):
        with pytest.raises(RedisError, match=told) as caught:
            check(both.url, **{**both.settings, **changed})
        assert not isinstance(caught.value, RedisAway)
    with pytest.raises(RedisError, match=r"Redis at .* refused the password. Check ORCHESTRATOR_REDIS_URL"):
        check(both.url.replace(PASSWORD, "wrong"), **both.settings)
    with pytest.raises(RedisError, match=r"is a Sentinel\. Begin ORCHESTRATOR_REDIS_URL with sentinel://"):
        check(f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{both.sentinel_ports[0]}/0")
    with pytest.raises(RedisAway, match=r"The Sentinel at .* cannot be reached"):
        check(f"sentinel://127.0.0.1:{free_port()}/0")


def test_a_sentinel_that_is_dead_keeps_nobody_from_the_others(both: Watched):
    check(both.url.replace("@", f"@127.0.0.1:{free_port()},"), **both.settings)


def test_a_replica_counts_as_away_until_it_is_the_master_again(tmp_path, served):
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        worker = one.start_worker("--concurrency", "4", "--processes", "1", **QUICK)
        processes = children(worker)
        with one.orchestrator() as orchestrator:
            job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, connections=4)
            wait_until(lambda: served.served_bytes > 4 * MIB, what="the first bytes")
            with redis.client() as client:
                # As if it had another master: it takes no writes, and ends what waits for a message.
                client.replicaof("127.0.0.1", free_port())
                with pytest.raises(RedisAway, match="it is a replica"):
                    orchestrator.records.look_after(["0123456789ab"])
                with pytest.raises(RedisAway, match="it is a replica"):
                    check(redis.url)
                before_bytes = served.served_bytes
                wait_until(lambda: served.served_bytes > before_bytes + 2 * MIB, what="bytes meanwhile")
                client.replicaof("NO", "ONE")
            assert job.wait(180).state is JobState.COMPLETE
        assert is_right(one)
        assert children(worker) == processes, one.log()[-4000:]


def test_a_job_goes_on_when_its_master_is_killed(one: Cluster, both: Watched, served):
    first = both.master()
    with job_in_the_middle(one, served):
        first.kill()
        wait_until(lambda: both.master() is not first, seconds=60, what="another master")
