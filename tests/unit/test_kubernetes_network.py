"""Who may talk to whom, by the network policies of deploy/kubernetes."""

from __future__ import annotations

import pytest

from support.kubernetes import (
    BASE,
    WORKLOADS,
    labels_of,
    name_of,
    pod_of,
    resources_in,
    workload_of,
)
from support.kubernetes_network import Network

each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)


NETWORK = Network(resources_in(BASE), "manyhands")


@pytest.mark.parametrize("source", WORKLOADS, ids=name_of)
@pytest.mark.parametrize("target", WORKLOADS, ids=name_of)
def test_within_the_namespace_only_redis_is_reached_and_not_by_itself(source, target):
    (port,) = pod_of(target)["containers"][0]["ports"]
    wanted = target == workload_of("redis") != source
    assert NETWORK.may_connect(source, target, port) is wanted
    assert not NETWORK.may_connect(source, target, {"containerPort": 22, "name": "ssh"})


@each_workload
@pytest.mark.parametrize(
    ("address", "is_outside"),
    [
        ("93.184.215.14", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.96.0.1", False),  # the API server, in most clusters
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.100.100.200", False),  # credentials, at Alibaba
        ("169.254.169.254", False),  # credentials, at the other clouds
        ("127.0.0.1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("::ffff:10.96.0.1", False),
    ],
)
def test_who_fetches_reaches_what_is_outside_and_nothing_that_is_inside(workload, address, is_outside):
    fetches = labels_of(workload)["app.kubernetes.io/component"] in ("control", "worker")
    for port in (80, 443, 8080):
        assert NETWORK.may_go_to(workload, address, port) is (fetches and is_outside)


@each_workload
def test_names_are_looked_up_by_all_but_redis(workload):
    for protocol in ("UDP", "TCP"):
        assert NETWORK.may_look_up_names(workload, protocol) is (workload != workload_of("redis"))


@each_workload
@pytest.mark.parametrize(
    ("labels", "namespace", "is_prometheus"),
    [
        ({"app.kubernetes.io/name": "prometheus"}, "monitoring", True),
        ({"app.kubernetes.io/name": "prometheus"}, "default", False),
        ({"app.kubernetes.io/name": "grafana"}, "monitoring", False),
        ({"app.kubernetes.io/name": "manyhands", "app.kubernetes.io/component": "worker"}, "default", False),
    ],
)
def test_from_elsewhere_prometheus_alone_gets_in(workload, labels, namespace, is_prometheus):
    (port,) = pod_of(workload)["containers"][0]["ports"]
    reaches = NETWORK.may_be_reached(
        workload, port, labels=labels, namespace={"kubernetes.io/metadata.name": namespace}
    )
    assert reaches is (is_prometheus and workload != workload_of("redis"))
