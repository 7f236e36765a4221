"""A Redis whose user may do no more than is needed: with that all works; with less, it is said what is missing."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from support.cluster import Cluster, cluster
from support.files import MIB
from support.flower import flower, page
from support.origin import origin
from support.redis_kinds import AclRedis, started
from support.tools import free_port, wait_until
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import RedisError
from tasks.records.permissions import acl_rules
from tasks.settings import Settings

CONTENT = random.Random(23).randbytes(6 * MIB + 3)
#: Quick, so that a test of what takes 15 seconds elsewhere takes three.
QUICK = {"ORCHESTRATOR_SWEEP_SECONDS": "0.5", "ORCHESTRATOR_STALL_SECONDS": "2"}
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "redis" / "users.acl.example"


@pytest.fixture(scope="module")
def rules() -> str:
    """What the example gives a user."""
    return EXAMPLE.read_text().splitlines()[-1].partition(">PASSWORD ")[2]


@pytest.fixture
def redis(tmp_path: Path, rules: str):
    """Not the one of the session: this test changes its users."""
    with started(AclRedis(free_port(), tmp_path, "admin-s3cret", rules=rules)) as server:
        yield server


@pytest.fixture
def one(redis: AclRedis, tmp_path: Path):
    with cluster(redis, tmp_path) as made:
        yield made


@pytest.fixture
def served():
    with origin(CONTENT) as made:
        made.contents["/small.bin"] = CONTENT[:1000]
        yield made


def settings(redis: AclRedis, url: str = "", **more: str) -> Settings:
    return Settings(redis_url=url or redis.url, **more)


def check(values: Settings) -> None:
    with contextlib.closing(records_of(values)) as records:
        records.check()
        records.check_permissions()


def test_the_example_is_what_is_needed(rules):
    assert rules == acl_rules("manyhands:", 0)
    assert rules in (ROOT / "docs" / "operations.md").read_text()


def test_all_commands_work_for_a_user_of_the_prefix_alone(one: Cluster, redis: AclRedis, served):
    one.start_worker("--concurrency", "4", "--processes", "1")
    redis.refused()
    with one.orchestrator() as orchestrator, flower(one) as pages:
        job = orchestrator.submit(served.url, chunk_size_bytes=MIB)
        assert job.wait(120).state is JobState.COMPLETE
        assert (one.volume / "big.bin").read_bytes() == CONTENT
        served.gate.clear()
        slow = orchestrator.submit(served.url, "slow.bin", chunk_size_bytes=MIB)
        wait_until(lambda: slow.status().connections_count, what="a connection")
        wait_until(lambda: "chunks" in page(f"{pages}/broker"), what="queues on Flower's page")
        slow.pause()
        served.gate.set()
        slow.resume()
        assert slow.wait(120).state is JobState.COMPLETE
        cancelled = orchestrator.submit(served.url, "gone.bin", chunk_size_bytes=MIB)
        cancelled.cancel()
        assert not orchestrator.unserved_queues()
        list_of_urls = one.logs / "urls.txt"
        list_of_urls.write_text(f"{served.url.rpartition('/')[0]}/small.bin\n")
        for command in (
            ("submit", "-i", str(list_of_urls), "--quiet"),
            ("verify", job.job_id),
            ("list",),
            ("recover",),
            ("prune", "--older-than", "0s"),
        ):
            done = one.run(*command, timeout=120)
            assert done.returncode == 0, (command, done.stderr)
    with redis.client() as client:
        names = [key for key in client.scan_iter() if not key.startswith("manyhands:")]
        channels = [name for name in client.pubsub_channels() if not name.startswith("manyhands:")]
    assert (names, channels) == ([], [])
    assert redis.refused() == []
    assert "user-s3cret" not in one.log() + (one.logs / "flower.log").read_text()


def test_a_user_on_a_unix_socket_is_let_in(redis: AclRedis):
    check(settings(redis, redis.socket_url))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("-zadd", "the command zadd"),
        ("-script|load", r"the command script\|load"),
        ("-exec", "the command exec"),  # Redis tells this as a transaction that was given up
        ("-info", "the command info"),
        ("resetchannels &manyhands:*", "a channel"),  # patterns are compared as text
        ("resetkeys ~others:*", "a key"),
    ],
)
def test_what_a_user_may_not_is_named(redis: AclRedis, change, named):
    redis.client().execute_command("ACL", "SETUSER", redis.user, *change.split())
    with pytest.raises(RedisError, match=rf"does not permit {named} that is needed"):
        check(settings(redis))


def test_another_prefix_and_database_need_rules_of_their_own(redis: AclRedis):
    client = redis.client()
    client.execute_command("ACL", "SETUSER", "other", "on", ">other-s3cret", *acl_rules("files:", 3).split())
    url = f"redis://other:other-s3cret@127.0.0.1:{redis.port}/3"
    check(settings(redis, url, key_prefix="files:"))
    with pytest.raises(RedisError, match="a key that is needed"):
        check(settings(redis, url, key_prefix="manyhands:"))


@pytest.mark.parametrize("command", ["worker", "flower"])
def test_who_may_not_do_all_does_not_start(one: Cluster, redis: AclRedis, command):
    redis.client().execute_command("ACL", "SETUSER", redis.user, "-brpop")
    done = one.run(command)
    assert done.returncode == 5
    assert "does not permit the command brpop" in " ".join(done.stderr.split())


def test_a_worker_that_loses_a_permission_while_it_runs_says_so_and_ends(one: Cluster, redis: AclRedis):
    worker = one.start_worker("--concurrency", "2", "--processes", "1")
    client = redis.client()
    client.execute_command("ACL", "SETUSER", redis.user, "-brpop")
    client.execute_command("CLIENT", "KILL", "USER", redis.user)
    wait_until(lambda: worker.poll() is not None, seconds=60, what="the worker's end")
    assert worker.returncode == 5
    assert "Redis does not permit the command brpop" in one.log()
    assert "error: Redis refused this worker" in one.log()


def test_what_a_worker_had_whose_password_was_changed_goes_on_with_the_next(
    one: Cluster, redis: AclRedis, served
):
    worker = one.start_worker("--concurrency", "4", "--processes", "1", **QUICK)
    served.bytes_per_second = MIB / 4
    with one.orchestrator() as orchestrator:
        job_id = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB).job_id
        wait_until(lambda: served.served_bytes > MIB, what="the first bytes")
    client = redis.client()
    client.execute_command("ACL", "SETUSER", redis.user, "resetpass", ">another")
    client.execute_command("CLIENT", "KILL", "USER", redis.user)
    wait_until(lambda: worker.poll() is not None, seconds=60, what="the worker's end")
    assert worker.returncode == 5
    assert "Redis refused the password" in one.log()
    redis.user_password = "another"
    served.bytes_per_second = None
    one.start_worker("--concurrency", "4", "--processes", "1", **QUICK)
    with one.orchestrator() as orchestrator:
        assert orchestrator.job(job_id).wait(120).state is JobState.COMPLETE
    assert (one.volume / "big.bin").read_bytes() == CONTENT
    assert served.served_bytes < len(CONTENT) + 2 * MIB
