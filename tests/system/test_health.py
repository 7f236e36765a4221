"""Health, and what a worker tells while it is harmed: processes are frozen, Redis and the volume taken away."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.cluster import Cluster, cluster
from support.files import MIB
from support.origin import origin
from support.prometheus import metrics_of, page
from support.redis_server import redis_server
from support.tools import free_port, is_listening, wait_until
from tasks.transfer.errors import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = random.Random(6).randbytes(4 * MIB)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, int, psutil.Process]]:
    """A cluster of one worker with all queues, its port, and its supervisor; each test leaves it as it was."""
    folder = tmp_path_factory.mktemp("harmed")
    port = free_port()
    with redis_server(folder) as redis, cluster(redis, folder) as one:
        process = one.start_worker(
            "--concurrency", "4", "--processes", "1", ORCHESTRATOR_METRICS_PORT=str(port)
        )
        wait_until(lambda: page(port, "/healthz")[0] == 200, seconds=60, what="health")
        yield one, port, psutil.Process(process.pid)


def health_of(port: int) -> tuple[int, dict[str, Any]]:
    status, text = page(port, "/healthz")
    return status, json.loads(text)


def pid_of(port: int, name: str) -> int:
    return next(each["pid"] for each in health_of(port)[1]["processes"] if each["name"] == name)


def test_a_worker_that_is_well_says_so(worker):
    one, port, supervisor = worker
    status, found = health_of(port)
    assert (status, found["is_healthy"], found["problems"]) == (200, True, [])
    assert [each["name"] for each in found["processes"]] == ["supervisor", "control", "chunks-1"]
    assert {each["pid"] for each in found["processes"]} < {
        supervisor.pid,
        *(c.pid for c in supervisor.children()),
    }
    told = one.run("health", ORCHESTRATOR_METRICS_PORT=str(port))
    assert (told.returncode, told.stdout, told.stderr) == (0, "well: 3 processes run\n", "")
    told = one.run(
        "health", "--json", ORCHESTRATOR_METRICS_PORT=str(port), ORCHESTRATOR_METRICS_ADDRESS="0.0.0.0"
    )
    assert json.loads(told.stdout)["is_healthy"] is True


def test_a_killed_process_is_back_goes_on_counting_and_was_no_reason_to_restart_the_worker(worker):
    one, port, _ = worker
    with origin(CONTENT) as served, one.orchestrator() as orchestrator:
        orchestrator.submit(served.url, chunk_size_bytes=MIB).wait(60)
        name = f'manyhands_bytes_total{{origin="{origin_of(served.url)}",worker="{socket.gethostname()}"}}'
        wait_until(lambda: metrics_of(port).get(name) == 4 * MIB, seconds=60, what="all bytes being counted")
        before = pid_of(port, "chunks-1")
        os.kill(before, signal.SIGKILL)
        statuses = []

        def is_back() -> bool:
            status, found = health_of(port)
            statuses.append(status)
            return found["processes"][2]["pid"] not in (before, None)

        wait_until(is_back, seconds=60, what="another process")
        assert set(statuses) == {200}
        found = metrics_of(port)
        assert found['manyhands_process_starts_total{process="chunks-1"}'] == 2
        assert found[name] == 4 * MIB
        orchestrator.submit(served.url, "again.bin", chunk_size_bytes=MIB).wait(90)
        wait_until(lambda: metrics_of(port).get(name) == 8 * MIB, seconds=60, what="both files being counted")


def test_frozen_processes_are_found_and_named_and_well_again_when_they_go_on(worker):
    one, port, supervisor = worker
    frozen = pid_of(port, "chunks-1")
    os.kill(frozen, signal.SIGSTOP)
    supervisor.suspend()
    try:
        wait_until(lambda: len(health_of(port)[1]["problems"]) == 2, seconds=60, what="both being found")
        status, found = health_of(port)
        assert status == 503
        told = [f"supervisor (process {supervisor.pid})", f"chunks-1 (process {frozen})"]
        for problem, who in zip(found["problems"], told, strict=True):
            assert re.fullmatch(re.escape(who) + r" has stood still for \d+ s", problem)
        up = {
            name: value for name, value in metrics_of(port).items() if name.startswith("manyhands_process_up")
        }
        assert list(up.values()) == [0, 1, 0]
        shown = one.run("health", ORCHESTRATOR_METRICS_PORT=str(port))
        assert shown.returncode == 1
        assert f"chunks-1 (process {frozen}) has stood still" in shown.stderr
        shown = one.run("health", "--json", ORCHESTRATOR_METRICS_PORT=str(port))
        assert shown.returncode == 1
        assert json.loads(shown.stdout)["is_healthy"] is False
    finally:
        os.kill(frozen, signal.SIGCONT)
        supervisor.resume()
    wait_until(lambda: page(port, "/healthz")[0] == 200, seconds=60, what="health")


def test_without_redis_the_worker_is_well_and_tells_nothing_old(worker):
    one, port, _ = worker
    assert metrics_of(port)["manyhands_redis_up"] == 1
    one.redis.kill()
    try:
        wait_until(
            lambda: metrics_of(port)["manyhands_redis_up"] == 0, seconds=60, what="the loss being seen"
        )
        found = metrics_of(port)
        of_cluster = (
            "manyhands_jobs{",
            "manyhands_queue",
            "manyhands_leases",
            "manyhands_unack",
            "manyhands_worker",
        )
        assert not [name for name in found if name.startswith(of_cluster)]
        assert found["manyhands_volume_up"] == 1
        assert page(port, "/healthz")[0] == 200
    finally:
        one.redis.start()
    wait_until(lambda: metrics_of(port)["manyhands_redis_up"] == 1, seconds=60, what="Redis being seen again")


def test_a_redis_that_hangs_holds_up_neither_health_nor_the_rest_of_the_metrics(worker):
    one, port, _ = worker
    one.redis.stop_process()
    try:
        wait_until(
            lambda: metrics_of(port)["manyhands_redis_up"] == 0, seconds=60, what="the loss being seen"
        )
        assert page(port, "/healthz")[0] == 200
    finally:
        one.redis.continue_process()


@contextmanager
def planted(one: Cluster, url: str | bytes, **of_origin: str) -> Iterator[None]:
    """A job in Redis that nobody submitted, and what is known of the origin http://here:80."""
    with one.redis.client() as client:
        client.hset("manyhands:job:planted", mapping={"state": "fetching", "url": url})
        if of_origin:
            client.hset("manyhands:origin:http://here:80:allowed", mapping=of_origin)
        client.sadd("manyhands:active", "planted")
        try:
            yield
        finally:
            client.srem("manyhands:active", "planted")
            client.delete("manyhands:job:planted", "manyhands:origin:http://here:80:allowed")


def test_a_value_of_redis_that_is_no_text_hides_none_of_the_others(worker):
    one, port, _ = worker
    fetching = 'manyhands_jobs{state="fetching"}'
    with planted(one, b"http://\xff\xfe/big.bin"):
        wait_until(lambda: metrics_of(port).get(fetching) == 1, seconds=60, what="the job being counted")
        assert metrics_of(port)["manyhands_redis_up"] == 1


@pytest.mark.parametrize("digits", [400, 5000])
def test_figures_that_make_no_sense_hide_nothing_that_the_worker_itself_counted(worker, digits):
    one, port, _ = worker
    with planted(one, "http://here/big.bin", all="9" * digits):
        wait_until(
            lambda: metrics_of(port)["manyhands_redis_up"] == 0, seconds=60, what="the damage being seen"
        )
        assert metrics_of(port)["manyhands_volume_up"] == 1
        assert page(port, "/healthz")[0] == 200
    wait_until(lambda: metrics_of(port)["manyhands_redis_up"] == 1, seconds=60, what="figures again")


def test_a_volume_that_is_gone_is_told(worker: tuple[Cluster, int, psutil.Process]):
    one, port, _ = worker
    away = one.volume.with_name("away")
    one.volume.rename(away)
    try:
        wait_until(
            lambda: metrics_of(port)["manyhands_volume_up"] == 0, seconds=60, what="the loss being seen"
        )
        assert "manyhands_volume_free_bytes" not in metrics_of(port)
        assert page(port, "/healthz")[0] == 200
    finally:
        away.rename(one.volume)


def test_askers_who_say_nothing_keep_nobody_from_an_answer(worker):
    one, port, supervisor = worker
    with ExitStack() as stack:
        for _ in range(300):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            silent.sendall(b"GET /metrics HT")

        def answers() -> bool:
            try:
                return page(port, "/healthz")[0] == 200
            except OSError:
                return False  # turned away

        wait_until(answers, seconds=60, what="an answer")
        wait_until(lambda: page(port)[0] == 200, seconds=60, what="metrics")
    assert one.run("health", ORCHESTRATOR_METRICS_PORT=str(port)).returncode == 0
    assert len(supervisor.children()) == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /healthz?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"\r\n\r\n", b"405"),
        (b"GET /" + b"x" * 100_000, b""),  # more than any request has: no answer
    ],
)
def test_a_request_is_answered_for_what_it_is(worker, request_, status):
    _, port, _ = worker
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(request_)
            while block := connection.recv(65536):
                answer += block
        except ConnectionError:
            pass
    assert answer[9:12] == status
    if request_.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


def test_a_port_that_is_taken_is_told_at_once(empty_cluster):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        told = empty_cluster.run("worker", ORCHESTRATOR_METRICS_PORT=port)
    assert told.returncode == 2
    assert f"port {port}" in told.stderr
    assert "already in use" in told.stderr
    assert "Traceback" not in told.stderr
    told = empty_cluster.run(
        "worker", ORCHESTRATOR_METRICS_PORT=port, ORCHESTRATOR_METRICS_ADDRESS="192.0.2.1"
    )
    assert told.returncode == 2
    assert "192.0.2.1" in told.stderr
    assert "another worker" not in told.stderr
    told = empty_cluster.run("worker", ORCHESTRATOR_METRICS_PORT=port, ORCHESTRATOR_METRICS_ADDRESS="a..b")
    assert (told.returncode, "Traceback" in told.stderr) == (2, False)
    assert "'a..b', which is no address" in told.stderr


def test_health_of_nobody_is_told_in_a_sentence(empty_cluster):
    port = str(free_port())
    told = empty_cluster.run("health", ORCHESTRATOR_METRICS_PORT=port)
    assert told.returncode == 1
    assert (
        told.stderr == f"error: The worker on 127.0.0.1 port {port} does not answer (connection refused).\n"
    )
    told = empty_cluster.run("health")
    assert told.returncode == 2
    assert "ORCHESTRATOR_METRICS_PORT is not set" in told.stderr
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        told = empty_cluster.run("health", "--timeout", "0.5", "--json", ORCHESTRATOR_METRICS_PORT=port)
    assert told.returncode == 1
    assert json.loads(told.stdout)["problems"] == [
        f"The worker on 127.0.0.1 port {port} does not answer (no answer in time)"
    ]


def test_without_a_port_nothing_listens_and_with_one_nothing_is_left(empty_cluster, tmp_path: Path):
    def listening(process: psutil.Process) -> list[int]:
        return [
            each.laddr.port
            for one in (process, *process.children())
            for each in one.net_connections()
            if each.status == psutil.CONN_LISTEN
        ]

    silent = empty_cluster.start_worker("--concurrency", "1")
    assert listening(psutil.Process(silent.pid)) == []
    assert len(psutil.Process(silent.pid).children()) == 2
    port = free_port()
    worker = empty_cluster.start_worker("--concurrency", "1", ORCHESTRATOR_METRICS_PORT=str(port))
    process = psutil.Process(worker.pid)
    assert is_listening(port)
    # Its supervisor, and who serves: a Celery process that ends late must not keep the port from the next worker.
    assert listening(process) == [port, port]
    children = process.children()
    worker.kill()
    worker.wait()
    _, left = psutil.wait_procs(children, timeout=60)
    assert left == []
    assert not is_listening(port)
