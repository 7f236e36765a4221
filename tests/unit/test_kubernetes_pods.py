"""What runs in the pods of deploy/kubernetes, held against the program and against what a cluster may forbid."""

from __future__ import annotations

import re

import pytest
import yaml

from orchestrator.worker import GRACE_SECONDS
from support.kubernetes import (
    OURS,
    OVERLAY,
    RESOURCES,
    SETTINGS,
    WORKLOADS,
    containers_of,
    environment_file,
    environment_of,
    labels_of,
    name_of,
    named,
    of_kind,
    pod_of,
    selects,
    workload_of,
)
from tasks.settings import ENV_PREFIX, Settings

CONTAINERS = [(workload, container) for workload in WORKLOADS for container in containers_of(workload)]

each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
each_container = pytest.mark.parametrize(
    "container",
    [container for _, container in CONTAINERS],
    ids=[f"{name_of(workload)}:{container['name']}" for workload, container in CONTAINERS],
)


@pytest.mark.parametrize("component", ["control", "worker"])
def test_probes_ask_the_port_on_which_the_worker_tells_of_its_health(component):
    (container,) = pod_of(workload_of(component))["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == SETTINGS["ORCHESTRATOR_METRICS_PORT"]
    assert SETTINGS["ORCHESTRATOR_METRICS_ADDRESS"] == "0.0.0.0"  # on loopback the kubelet could not ask
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}


@each_workload
def test_each_port_has_a_name_that_probes_services_and_policies_may_use(workload):
    for container in pod_of(workload)["containers"]:
        names = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in names
        assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_flower_listens_where_its_service_leads():
    (container,) = pod_of(workload_of("flower"))["containers"]
    command = container["command"]
    assert command[command.index("--port") + 1] == str(container["ports"][0]["containerPort"])


def test_all_who_talk_to_redis_have_the_settings_that_say_how():
    # Told another prefix of keys, or Sentinels' master, than workers are, one would be refused or see nothing.
    for workload in OURS:
        for container in containers_of(workload):
            assert container["envFrom"] == [{"configMapRef": {"name": "manyhands-settings"}}]


def test_every_variable_is_a_setting():
    fields = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    overlay = yaml.safe_load((OVERLAY / "kustomization.yaml").read_text())
    used = {*SETTINGS, *(line.partition("=")[0] for line in overlay["configMapGenerator"][0]["literals"])}
    for workload in OURS:
        for container in containers_of(workload):
            used |= set(environment_of(container))
    assert used - fields == {"REDIS_PASSWORD", "FLOWER_BASIC_AUTH"}  # of redis-server, and Flower's own


def test_the_settings_make_sense(monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    (mount,) = [
        mount
        for mount in pod_of(workload_of("worker"))["containers"][0]["volumeMounts"]
        if mount["name"] == "volume"
    ]
    assert str(settings.volume) == mount["mountPath"]


def test_each_secret_is_one_that_the_example_makes():
    made = set(environment_file(OVERLAY / "secrets.env.example"))
    used = set()
    for _, container in CONTAINERS:
        for variable in environment_of(container).values():
            if "secretKeyRef" in variable.get("valueFrom", {}):
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "manyhands"
                used.add(reference["key"])
    assert used == made


@each_container
def test_no_secret_is_on_a_command_line_or_written_down(container):
    words = [*container.get("command", []), *container.get("args", [])]
    # $(NAME) is put in before the process starts, for all to see; $NAME is the shell's own.
    assert not [word for word in words if "$(" in word]
    for variable in environment_of(container).values():
        if re.search("PASSWORD|KEY|AUTH", variable["name"]):
            assert "secretKeyRef" in variable["valueFrom"]


@each_container
def test_a_variable_that_is_put_into_another_stands_before_it(container):
    seen = set()
    for name, variable in environment_of(container).items():
        assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= seen
        seen.add(name)


@each_workload
def test_each_pod_is_one_that_a_restricted_namespace_takes(workload):
    # The namespace asks for it: https://kubernetes.io/docs/concepts/security/pod-security-standards/, "Restricted".
    pod = pod_of(workload)
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    for container in containers_of(workload):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert not {"runAsUser", "runAsNonRoot", "privileged", "seccompProfile"} & set(own)
    labels = named(RESOURCES, "Namespace", "manyhands")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@each_workload
def test_no_pod_has_a_token_of_the_api_server(workload):
    pod = pod_of(workload)
    assert pod["automountServiceAccountToken"] is False
    account = named(RESOURCES, "ServiceAccount", pod["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # FLOWER_PORT and the like would be taken for settings


@each_container
def test_each_container_says_what_it_takes_of_a_node(container):
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@each_workload
def test_a_workload_selects_its_own_pods_and_no_other_ones(workload):
    selector = workload["spec"]["selector"]
    assert [name_of(one) for one in WORKLOADS if selects(selector, labels_of(one))] == [name_of(workload)]
    for constraint in pod_of(workload).get("topologySpreadConstraints", []):
        assert constraint["labelSelector"] == selector


@pytest.mark.parametrize("document", of_kind(RESOURCES, "Service", "PodDisruptionBudget"), ids=name_of)
def test_what_selects_pods_is_called_like_the_workload_that_it_selects(document):
    selector = document["spec"]["selector"]
    if document["kind"] == "Service":
        selector = {"matchLabels": selector}
    (selected,) = [one for one in WORKLOADS if selects(selector, labels_of(one))]
    assert selected["metadata"]["name"] == document["metadata"]["name"]
    if document["kind"] == "Service":
        assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
        ports = {port["name"] for container in containers_of(selected) for port in container["ports"]}
        assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports


@pytest.mark.parametrize("component", ["control", "worker"])
def test_a_pod_that_ends_has_more_time_than_it_takes_to_drain(component):
    assert pod_of(workload_of(component))["terminationGracePeriodSeconds"] > 2 * GRACE_SECONDS


def test_control_and_workers_serve_all_queues_between_them():
    from tasks.app import QUEUES

    served = [
        queue
        for component in ("control", "worker")
        for queue in pod_of(workload_of(component))["containers"][0]["command"][-1].split(",")
    ]
    assert sorted(served) == sorted(QUEUES)


def test_workers_are_spread_over_hosts():
    (constraint,) = pod_of(workload_of("worker"))["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "DoNotSchedule"


def test_all_mount_one_volume_that_many_nodes_write_to():
    (claim,) = of_kind(RESOURCES, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    users = set()
    for component in ("control", "worker"):
        pod = pod_of(workload_of(component))
        assert {"name": "volume", "persistentVolumeClaim": {"claimName": "manyhands"}} in pod["volumes"]
        users.add((pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]))
    assert len(users) == 1  # what one leaves on the volume, in folders of mode 0700, another goes on with
    assert claim["metadata"]["name"] == "manyhands"
