"""Metrics: a real Prometheus scrapes a running cluster."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from orchestrator.access import Access
from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB
from support.origin import Origin, origin
from support.prometheus import DEPLOY, Prometheus, metrics_of, page, prometheus
from support.redis_server import redis_server
from support.tools import end, free_port, need, wait_until
from tasks.jobs import JobState
from tasks.transfer.errors import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    # Of the newest: a worker that is just started has not looked yet, and says 0.
    assert time.time() - most("max(manyhands_last_sweep_timestamp_seconds)") < 1e6
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
