"""What scrapes and scales the workers of deploy/kubernetes."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from support.kubernetes import (
    BASE,
    FOLDER,
    OURS,
    RESOURCES,
    SETTINGS,
    WORKLOADS,
    labels_of,
    of_kind,
    pod_of,
    selects,
    workload_of,
)
from support.tools import need


def test_the_monitor_scrapes_ports_that_are_there():
    (monitor,) = of_kind(RESOURCES, "PodMonitor")
    scraped = [one for one in WORKLOADS if selects(monitor["spec"]["selector"], labels_of(one))]
    assert scraped == OURS
    asked = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    assert asked == {pod_of(one)["containers"][0]["ports"][0]["name"] for one in scraped}


def test_the_scaler_counts_chunks_for_each_worker_as_a_worker_takes():
    (scaler,) = of_kind(RESOURCES, "ScaledObject")
    assert scaler["spec"]["scaleTargetRef"]["name"] == workload_of("worker")["metadata"]["name"]
    (trigger,) = scaler["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["threshold"] == SETTINGS["ORCHESTRATOR_CONCURRENCY"]
    told = (FOLDER.parents[1] / "docs" / "metrics.md").read_text()
    for metric in re.findall(r"manyhands_\w+", trigger["metadata"]["query"]):
        assert f"`{metric}{{" in told
    namespace = yaml.safe_load((BASE / "kustomization.yaml").read_text())["namespace"]
    assert set(re.findall('namespace="([^"]*)"', trigger["metadata"]["query"])) == {namespace}


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        # Two pods of control tell the same of the cluster; 40 wait, 16 + 8 run.
        (
            {
                'manyhands_queue_messages{namespace="manyhands",queue="chunks",pod="a"}': 40,
                'manyhands_queue_messages{namespace="manyhands",queue="chunks",pod="b"}': 40,
                'manyhands_queue_messages{namespace="manyhands",queue="merge",pod="a"}': 500,
                'manyhands_queue_messages{namespace="other",queue="chunks",pod="c"}': 900,
                'manyhands_leases{namespace="manyhands",origin="https://one",pod="a"}': 16,
                'manyhands_leases{namespace="manyhands",origin="https://two",pod="a"}': 8,
                'manyhands_leases{namespace="manyhands",origin="https://one",pod="b"}': 16,
                'manyhands_leases{namespace="manyhands",origin="https://two",pod="b"}': 8,
                'manyhands_leases{namespace="other",origin="https://one",pod="c"}': 900,
            },
            64,
        ),
        # The end of a job: nothing waits, and those who fetch must stay.
        (
            {
                'manyhands_queue_messages{namespace="manyhands",queue="chunks",pod="a"}': 0,
                'manyhands_leases{namespace="manyhands",origin="https://one",pod="a"}': 24,
            },
            24,
        ),
        # Nothing is fetched: there is no origin to tell of.
        ({'manyhands_queue_messages{namespace="manyhands",queue="chunks",pod="a"}': 0}, 0),
        # Redis is away, or control: nothing is known, which is not nothing to do.
        ({'manyhands_redis_up{namespace="manyhands",pod="a"}': 0}, None),
    ],
)
def test_what_the_scaler_asks_prometheus_is_waiting_and_running_chunks_counted_once(series, wanted, tmp_path):
    (scaler,) = of_kind(RESOURCES, "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    answer = [] if wanted is None else [{"labels": "{}", "value": wanted}]
    asked = {"expr": trigger["metadata"]["query"], "eval_time": "1m", "exp_samples": answer}
    values = [{"series": one, "values": f"{value}x9"} for one, value in series.items()]
    test = {"tests": [{"interval": "15s", "input_series": values, "promql_expr_test": [asked]}]}
    (tmp_path / "query.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [need("promtool"), "test", "rules", str(tmp_path / "query.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
