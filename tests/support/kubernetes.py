"""The files of deploy/kubernetes as documents, and what Kubernetes makes of selectors and network policies."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
BASE = FOLDER / "base"
COMPONENTS = sorted(path.parent for path in (FOLDER / "components").glob("*/kustomization.yaml"))
OVERLAY = FOLDER / "overlays" / "example"

Document = dict[str, Any]


def documents_of(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def resources_in(folder: Path) -> list[Document]:
    """The documents of the files that a folder's kustomization lists."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [folder / name for name in kustomization["resources"]]
    return [document for path in files if path.is_file() for document in documents_of(path.read_text())]


def all_resources() -> list[Document]:
    return [document for folder in (BASE, *COMPONENTS) for document in resources_in(folder)]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == name]
    return found


def name_of(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def workloads(documents: list[Document]) -> list[Document]:
    return of_kind(documents, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def pod_of(workload: Document) -> Document:
    """What a workload's pods are."""
    return workload["spec"]["template"]["spec"]


def labels_of(workload: Document) -> dict[str, str]:
    """The labels of a workload's pods."""
    return workload["spec"]["template"]["metadata"]["labels"]


def containers_of(workload: Document) -> list[Document]:
    pod = pod_of(workload)
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment_file(path: Path) -> dict[str, str]:
    """The variables of a file such as kustomize's ``envs`` and systemd's ``EnvironmentFile`` take."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def selects(selector: Document | None, labels: dict[str, str]) -> bool:
    """Whether a label selector selects what has these labels; an empty one selects everything, none nothing."""
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise NotImplementedError(expression["operator"])
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


class Network:
    """What network policies let through: all of them are of one namespace, and so are the pods that they select."""

    def __init__(self, documents: list[Document], namespace: str) -> None:
        self._policies = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
        self._namespace_labels = {"kubernetes.io/metadata.name": namespace}

    def may_connect(
        self, source: Document, target: Document, port: Document, *, protocol: str = "TCP"
    ) -> bool:
        """Whether a pod of one workload reaches a port of a pod of another.

        Args:
            source: the workload that connects.
            target: the workload that listens.
            port: as the target's container has it, with ``name`` and ``containerPort``.
            protocol: of the transport.
        """
        peer, own = labels_of(source), labels_of(target)
        return self._is_allowed(
            "Egress", peer, lambda to: self._is_peer(to, own, self._namespace_labels), port, protocol
        ) and self.may_be_reached(target, port, labels=peer, namespace=self._namespace_labels)

    def may_be_reached(
        self, target: Document, port: Document, *, labels: dict[str, str], namespace: dict[str, str]
    ) -> bool:
        """Whether a pod with these labels, in a namespace with those, is let in."""
        return self._is_allowed(
            "Ingress", labels_of(target), lambda peer: self._is_peer(peer, labels, namespace), port, "TCP"
        )

    def may_go_to(self, source: Document, address: str, port: int, *, protocol: str = "TCP") -> bool:
        """Whether a pod of a workload reaches an address outside."""
        return self._is_allowed(
            "Egress",
            labels_of(source),
            lambda peer: _has_address(peer, address),
            {"containerPort": port},
            protocol,
        )

    def may_look_up_names(self, source: Document, protocol: str) -> bool:
        """Whether a pod of a workload reaches the cluster's DNS."""
        namespace = {"kubernetes.io/metadata.name": "kube-system"}
        dns = {"k8s-app": "kube-dns"}
        return self._is_allowed(
            "Egress",
            labels_of(source),
            lambda peer: self._is_peer(peer, dns, namespace),
            {"containerPort": 53},
            protocol,
        )

    def _is_allowed(
        self, direction: str, labels: dict[str, str], is_peer: Any, port: Document, protocol: str
    ) -> bool:
        of_pod = [
            policy
            for policy in self._policies
            if direction in policy["policyTypes"] and selects(policy["podSelector"], labels)
        ]
        if not of_pod:
            return True
        peers = {"Ingress": "from", "Egress": "to"}[direction]
        return any(
            any(is_peer(peer) for peer in rule[peers]) and _has_port(rule, port, protocol)
            for policy in of_pod
            for rule in policy.get(direction.lower(), [])
        )

    def _is_peer(self, peer: Document, labels: dict[str, str], namespace: dict[str, str]) -> bool:
        if "ipBlock" in peer:
            return False
        if "namespaceSelector" not in peer and namespace != self._namespace_labels:
            return False
        return selects(peer.get("namespaceSelector", {}), namespace) and selects(
            peer.get("podSelector", {}), labels
        )


def _has_address(peer: Document, address: str) -> bool:
    block, wanted = peer.get("ipBlock"), ipaddress.ip_address(address)
    return (
        block is not None
        and wanted in ipaddress.ip_network(block["cidr"])
        and not any(wanted in ipaddress.ip_network(hole) for hole in block.get("except", []))
    )


def _has_port(rule: Document, port: Document, protocol: str) -> bool:
    for allowed in rule["ports"]:
        if allowed.get("protocol", "TCP") != protocol:
            continue
        if "port" not in allowed or allowed["port"] in (port["containerPort"], port.get("name")):
            return True
    return False


def build(folder: Path) -> list[Document]:
    """What kustomize makes of a folder."""
    done = subprocess.run([*_kustomize(), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # it warns of what is deprecated
    return documents_of(done.stdout)


def _kustomize() -> list[str]:
    if path := shutil.which("kustomize"):
        return [path, "build"]
    if path := shutil.which("kubectl"):
        told = subprocess.run([path, "version", "--client"], capture_output=True, text=True, check=False)
        # The one in Debian 12 has a kustomize without components.
        if re.search(r"Kustomize Version: v[4-9]", told.stdout):
            return [path, "kustomize"]
    pytest.skip("needs kustomize, or kubectl 1.21 or newer; neither is a package of Debian 12")


def copy_of_overlay(folder: Path, **secrets: str) -> Path:
    """The example overlay with its secrets filled in, in a copy of all files."""
    shutil.copytree(FOLDER, folder / "kubernetes")
    overlay = folder / "kubernetes" / "overlays" / "example"
    values = dict.fromkeys(environment_file(overlay / "secrets.env.example"), "secret") | secrets
    (overlay / "secrets.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return overlay
