"""The files of deploy/kubernetes as the API and kustomize take them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from support.kubernetes import (
    BASE,
    COMPONENTS,
    FOLDER,
    OURS,
    OVERLAY,
    RESOURCES,
    SETTINGS,
    build,
    containers_of,
    copy_of_overlay,
    environment_of,
    name_of,
    named,
    of_kind,
    resources_in,
    workloads,
)
from support.kubernetes_network import Network

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
