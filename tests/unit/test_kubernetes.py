"""The files of deploy/kubernetes: valid for the API, and consistent among themselves and with the program."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from orchestrator.worker import GRACE_SECONDS
from support.kubernetes import (
    BASE,
    COMPONENTS,
    FOLDER,
    OVERLAY,
    Network,
    all_resources,
    build,
    containers_of,
    copy_of_overlay,
    environment_file,
    labels_of,
    name_of,
    named,
    of_kind,
    pod_of,
    resources_in,
    selects,
    workloads,
)
from support.tools import need
from tasks.settings import ENV_PREFIX, Settings

#: The oldest that these files are for, and the newest that the schemas are known of.
VERSIONS = ("1.29", "1.37")
#: Kinds that are no part of Kubernetes itself, which no schema here knows: their fields as KEDA 2.17 and the Prometheus
#: operator 0.80 define them, as far as they are used. What has no fields is a type, or a tuple of permitted values.
FOREIGN = {
    "ScaledObject": {
        "apiVersion": ("keda.sh/v1alpha1",),
        "spec": {
            "scaleTargetRef": {"name": str},
            "pollingInterval": int,
            "minReplicaCount": int,
            "maxReplicaCount": int,
            "triggers": [
                {
                    "type": ("prometheus",),
                    "metricType": ("AverageValue", "Value"),
                    # All of them strings, also what is a number or a truth.
                    "metadata": {
                        "serverAddress": str,
                        "query": str,
                        "threshold": str,
                        "ignoreNullValues": ("true", "false"),
                    },
                }
            ],
            "fallback": {
                "failureThreshold": int,
                "replicas": int,
                "behavior": (
                    "static",
                    "currentReplicas",
                    "currentReplicasIfHigher",
                    "currentReplicasIfLower",
                ),
            },
            # What is in `behavior` is Kubernetes's own: see the test of the autoscaler.
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": dict}},
        },
    },
    "PodMonitor": {
        "apiVersion": ("monitoring.coreos.com/v1",),
        "spec": {
            "selector": dict,
            "podMetricsEndpoints": [{"port": str, "path": str, "interval": str}],
        },
    },
}

RESOURCES = all_resources()
WORKLOADS = workloads(RESOURCES)
OURS = [workload for workload in WORKLOADS if labels_of(workload)["app.kubernetes.io/component"] != "redis"]
CONTAINERS = [(workload, container) for workload in WORKLOADS for container in containers_of(workload)]
SETTINGS = environment_file(BASE / "settings.env")

each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
each_container = pytest.mark.parametrize(
    "container",
    [container for _, container in CONTAINERS],
    ids=[f"{name_of(workload)}:{container['name']}" for workload, container in CONTAINERS],
)


def workload_of(component: str):
    (found,) = [one for one in WORKLOADS if labels_of(one)["app.kubernetes.io/component"] == component]
    return found


def environment_of(container) -> dict[str, dict]:
    return {variable["name"]: variable for variable in container.get("env", [])}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", [one for one in RESOURCES if one["kind"] not in FOREIGN], ids=name_of)
def test_each_document_is_what_the_api_takes(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_a_field_that_nobody_knows():
    wrong = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "automount": False}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def assert_has_fields(value, fields, path=""):
    if isinstance(fields, dict):
        assert isinstance(value, dict), path
        assert set(value) == set(fields), path
        for name, of_field in fields.items():
            assert_has_fields(value[name], of_field, f"{path}.{name}")
    elif isinstance(fields, list):
        assert isinstance(value, list), path
        for each in value:
            assert_has_fields(each, fields[0], f"{path}[]")
    elif isinstance(fields, tuple):
        assert value in fields, path
    else:
        assert type(value) is fields, path


@pytest.mark.parametrize("document", of_kind(RESOURCES, *FOREIGN), ids=name_of)
def test_each_document_of_an_operator_has_the_fields_that_are_its_own(document):
    common = {"kind": str, "metadata": {"name": str, "labels": dict}}
    assert_has_fields(document, FOREIGN[document["kind"]] | common)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_scaler_says_of_the_autoscaler_is_what_the_api_takes(version):
    (scaler,) = of_kind(RESOURCES, "ScaledObject")
    made = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "made-by-keda"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "manyhands-worker"},
            "maxReplicas": scaler["spec"]["maxReplicaCount"],
            "behavior": scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }
    kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("folder", [BASE, *COMPONENTS, OVERLAY], ids=lambda folder: folder.name)
def test_a_kustomization_lists_every_file_of_its_folder(folder):
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = list(kustomization.get("resources", []))
    for generator in ("configMapGenerator", "secretGenerator"):
        for entry in kustomization.get(generator, []):
            listed += [*entry.get("envs", []), *entry.get("files", [])]
    listed += kustomization.get("components", [])
    listed += [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
    here = {path.name.removesuffix(".example") for path in folder.iterdir() if path.is_file()}
    assert {name for name in listed if "/" not in name} | {"kustomization.yaml"} == here
    assert all((folder / name).is_dir() for name in listed if "/" in name)


def test_every_file_of_resources_belongs_to_the_base_or_a_component():
    files = {path.parent for path in FOLDER.rglob("*.yaml")}
    assert files == {BASE, *COMPONENTS, OVERLAY}


def test_all_run_one_image_of_this_version_which_is_named_in_one_place():
    images = {container["image"] for workload in OURS for container in containers_of(workload)}
    assert images == {"manyhands"}
    version = tomllib.loads((Path(FOLDER).parents[1] / "pyproject.toml").read_text())["project"]["version"]
    for folder in (BASE, OVERLAY):
        (image,) = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
        assert (image["name"], image["newTag"]) == ("manyhands", version)


@pytest.mark.parametrize("component", ["control", "worker"])
def test_probes_ask_the_port_on_which_the_worker_tells_of_its_health(component):
    (container,) = pod_of(workload_of(component))["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == SETTINGS["ORCHESTRATOR_METRICS_PORT"]
    assert SETTINGS["ORCHESTRATOR_METRICS_ADDRESS"] == "0.0.0.0"  # on loopback the kubelet could not ask
    assert container["envFrom"] == [{"configMapRef": {"name": "manyhands-settings"}}]
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


def test_with_a_redis_elsewhere_there_is_none_here_and_all_ask_that_one(tmp_path):
    overlay = copy_of_overlay(tmp_path)
    (overlay / "kustomization.yaml").write_text(
        "resources: [../../base]\ncomponents: [../../components/external-redis]\n"
    )
    built = build(overlay)
    for document in built:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
    assert not of_kind(built, "StatefulSet")
    assert {name_of(one) for one in of_kind(built, "Service")} == {"Service/manyhands-flower"}
    assert len(workloads(built)) == len(OURS)
    network = Network(built, "manyhands")
    for workload in workloads(built):
        for container in containers_of(workload):
            variables = environment_of(container)
            assert "REDIS_PASSWORD" not in variables
            url = {"secretKeyRef": {"name": "manyhands", "key": "ORCHESTRATOR_REDIS_URL"}}
            assert variables["ORCHESTRATOR_REDIS_URL"] == {"name": "ORCHESTRATOR_REDIS_URL", "valueFrom": url}
        assert network.may_go_to(workload, "192.0.2.10", 6379)
        assert not network.may_go_to(workload, "10.0.0.10", 6379)


def test_kustomize_builds_the_base_and_the_example(tmp_path):
    base = build(BASE)
    assert {name_of(one) for one in base if one["kind"] != "ConfigMap"} == {
        name_of(one) for one in resources_in(BASE)
    }
    built = build(copy_of_overlay(tmp_path))
    for document in built:
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "manyhands"
    assert {kind for kind in FOREIGN if of_kind(built, kind)} == set(FOREIGN)
    # KEDA decides how many there are, and no `kubectl apply` with it.
    assert "replicas" not in named(built, "Deployment", "manyhands-worker")["spec"]
    (secret,), (claim,) = of_kind(built, "Secret"), of_kind(built, "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "nfs"
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(built, "ConfigMap")}
    for workload in workloads(built):
        for container in containers_of(workload):
            if workload["kind"] == "Deployment":
                assert container["image"].startswith("registry.example.org/manyhands:")
            for variable in environment_of(container).values():
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert variable["valueFrom"]["secretKeyRef"]["name"] == secret["metadata"]["name"]
            for source in container.get("envFrom", []):
                values = maps[source["configMapRef"]["name"]]
                assert values == SETTINGS | {"ORCHESTRATOR_CONNECTIONS": "32"}
