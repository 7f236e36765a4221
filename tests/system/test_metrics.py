"""Metrics and health: a real Prometheus scrapes a running cluster, and processes are killed and frozen under it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator.access import Access
from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB
from support.origin import Origin, origin
from support.prometheus import DEPLOY, Prometheus, metrics_of, page, prometheus
from support.redis_server import redis_server
from support.tools import end, free_port, is_listening, need, wait_until
from tasks.jobs import JobState
from tasks.transfer.errors import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = random.Random(6).randbytes(24 * MIB)
SECRETS = (
    "s3cret-query",
    "t0ken-header",
    "pa55word",
    "me:",
    "big.bin",
    "private-file",
    "debian.iso",
    "volume/",
)
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "manyhands.json").read_text())


@dataclass
class Scene:
    """A cluster as it is deployed, and the Prometheus that scrapes it."""

    cluster: Cluster
    control_port: int
    chunks_port: int
    prometheus: Prometheus
    good: Origin
    bad: Origin
    began: float = field(default_factory=time.time)

    def run_jobs(self) -> None:
        """One job that is complete in spite of a chunk that was asked to wait; one that fails with a chunk."""
        with self.cluster.orchestrator() as orchestrator:
            access = Access(headers={"X-Token": "t0ken-header"}, user="me:pa55word")
            for served, name, status in ((self.good, "debian.iso", 503), (self.bad, "private-file", 403)):
                served.gate.clear()
                url = f"{served.url}?sig=s3cret-query"
                job = orchestrator.submit(url, name, chunk_size_bytes=2 * MIB, access=access)
                wait_until(lambda: served.open_count >= 4, seconds=60, what="chunks at work")  # noqa: B023
                leases = f'max(manyhands_leases{{origin="{origin_of(served.url)}"}})'
                self.prometheus.wait_for(leases, lambda count: count >= 4)
                # Of a chunk that is asked for when one of these is done.
                served.retry_after_seconds = 1 if status == 503 else None
                served.statuses.append(status)
                served.gate.set()
                wait_until(lambda: not job.status().state.is_active, seconds=90, what="the job's end")  # noqa: B023
                wanted = JobState.COMPLETE if status == 503 else JobState.FAILED
                assert job.status().state is wanted, job.status()


def config_for(control_port: int, chunks_port: int, flower_port: int) -> str:
    """The example's, with these ports, scraped each second."""
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    for old, new in (
        (
            '["worker-1:9109", "worker-2:9109", "head:9110"]',
            f'["127.0.0.1:{control_port}", "127.0.0.1:{chunks_port}"]',
        ),
        # It asks the machine's name servers and never /etc/hosts: here nobody is found so.
        ('["worker", "control"]', '["manyhands.invalid"]'),
        ('["flower:5555"]', f'["127.0.0.1:{flower_port}"]'),
        ("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    need("prometheus")
    folder = tmp_path_factory.mktemp("metrics")
    control_port, chunks_port, flower_port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        one = stack.enter_context(cluster(redis, folder))
        for queues, port in (("control,merge", control_port), ("chunks", chunks_port)):
            one.start_worker(
                *("--queues", queues, "--concurrency", "4", "--processes", "1"),
                ORCHESTRATOR_METRICS_PORT=str(port),
                ORCHESTRATOR_HOST_NAME=f"host-{queues}",
            )
        flower = subprocess.Popen(
            [*COMMAND, "flower", "--port", str(flower_port)],
            env=one.environment,
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context((folder / "flower.log").open("wb")),
            stderr=subprocess.STDOUT,
        )
        stack.callback(end, flower)
        asked = stack.enter_context(prometheus(folder, config_for(control_port, chunks_port, flower_port)))
        good, bad = stack.enter_context(origin(CONTENT)), stack.enter_context(origin(CONTENT))
        made = Scene(one, control_port, chunks_port, asked, good, bad)
        asked.wait_for('sum(up{job=~"manyhands.*|flower"})', lambda count: count == 3)
        made.run_jobs()
        # Until all that was counted has been scraped, and the queues are seen to be empty.
        for query, wanted in ((f"sum({bytes_of(good)})", len(CONTENT)), ("sum(manyhands_jobs)", 0)):
            asked.wait_for(query, lambda value: value == wanted)  # noqa: B023
        yield made


def bytes_of(served: Origin) -> str:
    return f'manyhands_bytes_total{{origin="{origin_of(served.url)}"}}'


def asked_expressions() -> list[tuple[str, str]]:
    """All that the dashboard asks: the panel's title, and the query as Grafana would send it."""
    return [
        (
            panel["title"],
            target["expr"].replace("$__rate_interval", "1m").replace("$__range", "10m"),
        )
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


def test_the_files_for_prometheus_are_what_promtool_takes():
    promtool = need("promtool")
    for args in (
        ("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")),
        ("check", "rules", str(RULES)),
        ("test", "rules", str(DEPLOY.parent / "tests" / "system" / "prometheus_rules.yml")),
    ):
        found = subprocess.run([promtool, *args], capture_output=True, text=True, timeout=120, check=False)
        assert found.returncode == 0, found.stdout + found.stderr


def test_each_alert_has_a_test_and_is_described():
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert len(alerts) == len(set(alerts)) >= 8
    tests = (DEPLOY.parent / "tests" / "system" / "prometheus_rules.yml").read_text()
    described = (DEPLOY.parent / "docs" / "metrics.md").read_text()
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n +eval_time: \w+\n +exp_alerts:\n +- exp_labels", tests), (
            alert
        )
        assert f"`{alert}`" in described, alert


def test_the_dashboard_is_one_that_grafana_imports():
    panels = DASHBOARD["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    assert [variable["type"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["targets"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(names) == len(set(names))
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_prometheus_takes_every_line_and_each_name_keeps_to_its_conventions(scene):
    for port in (scene.control_port, scene.chunks_port):
        status, text = page(port)
        assert status == 200
        found = subprocess.run(
            [need("promtool"), "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        assert (found.stdout + found.stderr).strip() == ""
        described = (DEPLOY.parent / "docs" / "metrics.md").read_text()
        for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE):
            assert f"`{name}" in described, name


def test_the_bytes_of_a_job_are_counted_once_each(scene):
    assert scene.prometheus.value(f"sum({bytes_of(scene.good)})") == len(CONTENT)
    query = f"sum by (worker) ({bytes_of(scene.good)})"
    by_worker = {
        each["metric"]["worker"]: float(each["value"][1])
        for each in scene.prometheus.get("query", query=query)["result"]
    }
    assert set(by_worker) <= {"host-chunks", "host-control,merge"}
    assert by_worker["host-chunks"] > 20 * MIB


def test_what_went_wrong_is_counted_by_reason(scene):
    good, bad = origin_of(scene.good.url), origin_of(scene.bad.url)
    value = scene.prometheus.value
    assert value(f'sum(manyhands_retries_total{{origin="{good}",reason="OriginBusy"}})') == 1
    assert value(f'sum(manyhands_retries_total{{origin="{bad}"}})') is None
    assert value('sum(manyhands_throttled_seconds_total{reason="retry_after"})') == 1
    assert value('sum(manyhands_throttled_seconds_total{reason="connections"})') is None
    assert value('sum(manyhands_job_failures_total{reason="SourceRefused"})') == 1
    assert value("sum(manyhands_jobs_failed_total)") == 1
    assert value("sum(manyhands_jobs_completed_total)") == 1
    assert value("sum(manyhands_chunk_seconds_count)") >= 12


def test_what_was_going_on_was_seen(scene):
    def most(query: str) -> float:
        return max(
            float(value)
            for each in scene.prometheus.range(query, scene.began, time.time())
            for _, value in each["values"]
        )

    assert most('max(manyhands_jobs{state="fetching"})') == 1
    assert most("max(manyhands_queue_messages{queue='chunks'})") >= 1
    assert most("max(manyhands_queue_oldest_message_age_seconds{queue='chunks'})") > 0
    assert most("max(manyhands_unacknowledged_messages)") >= 4
    assert most("max(manyhands_worker_processes)") == 2
    assert most(f'max(manyhands_leases_limit{{origin="{origin_of(scene.good.url)}"}})') == 16
    assert most("max(manyhands_volume_free_bytes)") <= most("max(manyhands_volume_size_bytes)")
    assert most("max(time() - max(manyhands_last_sweep_timestamp_seconds))") < 1e6
    assert most("sum(flower_events_total)") > 0


@pytest.mark.parametrize(("title", "query"), asked_expressions())
def test_each_query_of_the_dashboard_has_data(scene, title, query):
    found = scene.prometheus.range(query, scene.began, time.time())
    assert found, title
    assert any(value != "NaN" for each in found for _, value in each["values"])


def test_each_alert_is_evaluated_and_none_of_what_is_well_fires(scene):
    (group,) = scene.prometheus.get("rules")["groups"]
    wait_until(
        lambda: all(each["health"] == "ok" for each in scene.prometheus.get("rules")["groups"][0]["rules"]),
        seconds=60,
        what="all rules having been evaluated",
    )
    for rule in group["rules"]:
        scene.prometheus.get("query", query=rule["query"])
    states = {each["name"]: each["state"] for each in scene.prometheus.get("rules")["groups"][0]["rules"]}
    # The disk of who runs this may be as it likes.
    well = {name: state for name, state in states.items() if not name.startswith("ManyhandsVolume")}
    assert well == dict.fromkeys(well, "inactive")


def test_nothing_of_a_url_but_its_origin_is_in_any_metric(scene):
    series = scene.prometheus.get("series", **{"match[]": '{__name__=~"manyhands_.*"}'})
    texts = [page(scene.control_port)[1], page(scene.chunks_port)[1], page(scene.chunks_port, "/healthz")[1]]
    for text in (*texts, json.dumps(series)):
        assert not [secret for secret in SECRETS if secret in text]
    assert origin_of(scene.good.url) in texts[1]


def test_only_who_serves_control_tells_of_the_cluster(scene):
    of_cluster = (
        "manyhands_redis_up",
        "manyhands_jobs{",
        "manyhands_queue",
        "manyhands_leases",
        "manyhands_worker_pro",
    )
    assert not [name for name in metrics_of(scene.chunks_port) if name.startswith(of_cluster)]
    own = metrics_of(scene.control_port)
    assert all(any(name.startswith(each) for name in own) for each in of_cluster if "leases" not in each)


# From here on the cluster is harmed.


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
    with origin(CONTENT[: 4 * MIB]) as served, one.orchestrator() as orchestrator:
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


def test_a_damaged_record_hides_nothing_that_the_worker_itself_counted(worker):
    one, port, _ = worker
    with one.redis.client() as client:
        client.hset("manyhands:job:damaged", "state", b"\xff\xfe")
        client.sadd("manyhands:active", "damaged")
        try:
            wait_until(
                lambda: metrics_of(port)["manyhands_redis_up"] == 0, seconds=60, what="the damage being seen"
            )
            assert metrics_of(port)["manyhands_volume_up"] == 1
            assert page(port, "/healthz")[0] == 200
        finally:
            client.srem("manyhands:active", "damaged")
            client.delete("manyhands:job:damaged")
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
def test_a_request_is_answered_for_what_it_is(scene, request_, status):
    with socket.create_connection(("127.0.0.1", scene.chunks_port), timeout=30) as connection:
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
