"""The shell commands of deploy/kubernetes, run as the pods would run them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from support.cluster import clean_environment
from support.kubernetes import BASE, pod_of, workload_of
from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "5f4dcc3b5aa765d61d8327deb882cf99"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        end(process)


def start_redis(folder: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    """The Redis of the StatefulSet, with its files in a folder and on a port of the test's."""
    need("redis-server")
    (container,) = pod_of(workload_of("redis"))["containers"]
    config = (BASE / "redis.conf").read_text()
    assert "bind * -::*" in config
    (folder / "data").mkdir()
    config = config.replace("/data", str(folder / "data")).replace("bind * -::*", "bind 127.0.0.1")
    (folder / "redis.conf").write_text(f"{config}port {port}\n")
    command = [
        word.replace("/etc/redis", str(folder)) for word in (*container["command"], *container["args"])
    ]
    with (folder / "redis.log").open("wb") as log:
        return subprocess.Popen(
            command, env=clean_environment(REDISCLI_AUTH=password), stdout=log, stderr=log, cwd=folder
        )


def test_redis_has_a_password_that_is_on_no_command_line_and_its_settings(tmp_path, started):
    port = free_port()
    server = start_redis(tmp_path, port, PASSWORD)
    started.append(server)
    wait_until(lambda: is_listening(port), what="Redis listening")
    # The shell has become it: it gets SIGTERM itself, and syncs what it has.
    process = psutil.Process(server.pid)
    assert process.name().startswith("redis-server")
    assert PASSWORD not in " ".join(process.cmdline())
    with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:
        settings = client.config_get("*")
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["save"] == ""
        assert settings["dir"] == str(tmp_path / "data")
        (container,) = pod_of(workload_of("redis"))["containers"]
        limit = container["resources"]["limits"]["memory"]
        assert limit == "1Gi"
        assert (
            int(settings["maxmemory"]) <= 2**30 / 2
        )  # a rewrite of the append-only file may take as much again
        client.set("kept", "1")
    assert end(server) == 0


def test_the_probes_of_redis_tell_whether_it_answers(tmp_path, started):
    need("redis-cli")
    port = free_port()
    (container,) = pod_of(workload_of("redis"))["containers"]

    def is_fine(probe: str) -> bool:
        # redis-cli's port is the usual one in the pod.
        command = [
            word.replace("redis-cli", f"redis-cli -p {port}") if " " in word else word
            for word in container[probe]["exec"]["command"]
        ]
        if command[0] == "redis-cli":
            command[1:1] = ["-p", str(port)]
        environment = clean_environment(REDISCLI_AUTH=PASSWORD)
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    assert not is_fine("livenessProbe")
    assert not is_fine("readinessProbe")
    started.append(start_redis(tmp_path, port, PASSWORD))
    wait_until(lambda: is_listening(port), what="Redis listening")
    assert is_fine("livenessProbe")
    assert is_fine("readinessProbe")


def test_redis_does_not_start_without_a_password(tmp_path, started):
    server = start_redis(tmp_path, free_port(), "")
    started.append(server)
    assert server.wait(timeout=30) != 0
    assert "REDISCLI_AUTH" in (tmp_path / "redis.log").read_text()


@pytest.mark.parametrize("component", ["control", "worker"])
def test_a_pod_that_starts_before_redis_waits_for_it(component, tmp_path, started):
    (container,) = pod_of(workload_of(component))["initContainers"]
    port = free_port()
    programs = tmp_path / "bin"
    programs.mkdir()
    program, tries = programs / "orchestrator", tmp_path / "tries"
    program.write_text(f'#!/bin/sh\necho >> {tries}\nexec {sys.executable} -P -m orchestrator "$@"\n')
    program.chmod(0o755)
    environment = clean_environment(ORCHESTRATOR_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{port}/0")
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        waiting = subprocess.Popen(container["command"], env=environment, stdout=log, stderr=log)
    started.append(waiting)
    wait_until(lambda: tries.exists() and len(tries.read_text()) >= 2, what="the second try")
    assert waiting.poll() is None
    started.append(start_redis(tmp_path, port, PASSWORD))
    assert waiting.wait(timeout=60) == 0
    assert PASSWORD not in (tmp_path / "log").read_text()
