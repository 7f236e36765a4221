"""The units under a real systemd: what they forbid no download needs, and they stop and restart in order."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from orchestrator import Orchestrator
from support.cluster import KEY
from support.files import MIB, sha256_of, wait_until_clean
from support.namespaces import network
from support.origin import Origin, origin
from support.redis_server import redis_server
from support.systemd import UNITS, USER_ID, SystemdHost, systemd_host
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER, CONTROL = UNITS
CONTENT = random.Random(6).randbytes(24 * MIB)


@dataclass
class Scene:
    host: SystemdHost
    origin: Origin
    orchestrator: Orchestrator
    volume: Path

    def is_ready(self, unit: str) -> bool:
        """Whether the Celery processes of a unit's present start serve their queues."""
        invocation = self.host.property_of(unit, "InvocationID")
        told = self.host.run(
            "journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={invocation}"
        )
        return " ready." in told.stdout


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("systemd")
    volume = folder / "volume"
    volume.mkdir()
    with (
        network(1) as net,
        redis_server(folder, password="of-the-cluster", address=net.redis_address) as redis,
        origin(CONTENT, address=net.origin_address) as web,
        Orchestrator(redis_url=redis.url, volume=volume, secret_key=KEY) as orchestrator,
    ):
        environment = {
            "ORCHESTRATOR_REDIS_URL": redis.url,
            "ORCHESTRATOR_SECRET_KEY": KEY,
            "ORCHESTRATOR_VOLUME": "/mnt/shared",
        }
        with systemd_host(folder, net.hosts[0], volume=volume, environment=environment) as host:
            one = Scene(host, web, orchestrator, volume)
            for unit in UNITS:
                wait_until(lambda unit=unit: one.is_ready(unit), seconds=60, what=f"the readiness of {unit}")
            yield one


def test_a_job_is_brought_by_units_that_are_stopped_killed_and_restarted_by_systemd(scene):
    host, web = scene.host, scene.origin
    web.bytes_per_second = MIB / 4
    job = scene.orchestrator.submit(web.url, chunk_size=4 * MIB, sha256=hashlib.sha256(CONTENT).hexdigest())
    wait_until(lambda: web.served_bytes > 2 * MIB, what="the first bytes")

    host.systemctl("stop", WORKER)
    # Killed for not being gone in time, or ended by a signal, it would be another one.
    assert host.property_of(WORKER, "Result") == "success"
    assert host.property_of(WORKER, "ExecMainStatus") == "0"
    host.systemctl("start", WORKER)
    wait_until(lambda: scene.is_ready(WORKER), seconds=60, what="the worker's second start")

    host.systemctl("kill", "--kill-whom=main", "--signal=SIGKILL", WORKER)
    wait_until(lambda: host.property_of(WORKER, "NRestarts") == "1", what="the restart")
    web.bytes_per_second = None
    record = job.wait(timeout_seconds=120)
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    (file,) = [path for path in scene.volume.iterdir() if path.is_file()]
    assert sha256_of(file) == record.sha256
    assert file.stat().st_uid == USER_ID
    wait_until_clean(scene.volume)

    for unit in UNITS:
        assert host.property_of(unit, "ActiveState") == "active"
    journal = host.journal()
    assert "Operation not permitted" not in journal
    assert "Traceback" not in journal


@pytest.mark.parametrize(("unit", "port"), [(WORKER, "9109"), (CONTROL, "9110")])
def test_each_unit_tells_of_its_health_on_a_port_of_its_own(scene, unit, port):
    def asked():
        return scene.host.run("/opt/manyhands/bin/orchestrator", "health", ORCHESTRATOR_METRICS_PORT=port)

    done = asked()
    assert done.returncode == 0, done.stderr
    scene.host.systemctl("stop", unit)
    assert asked().returncode == 1
    scene.host.systemctl("start", unit)
    wait_until(lambda: asked().returncode == 0, seconds=60, what="its health")


@pytest.mark.parametrize("unit", UNITS)
def test_what_a_unit_forbids_is_forbidden(scene, unit):
    host = scene.host
    main = host.property_of(unit, "MainPID")
    children = host.run("pgrep", "--parent", main).stdout.split()
    assert children
    for pid in (main, *children):
        status = dict(
            line.split(":\t", 1)
            for line in host.run("cat", f"/proc/{pid}/status").stdout.splitlines()
            if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert int(status["CapBnd"], 16) == 0
        assert status["Uid"].split() == [str(USER_ID)] * 4
    mounts = [line.split() for line in host.run("cat", f"/proc/{main}/mountinfo").stdout.splitlines()]
    options = {mount[4]: mount[5].split(",") for mount in mounts}
    assert "ro" in options["/"]
    assert "rw" in options["/mnt/shared"]
    assert "/tmp" in options
