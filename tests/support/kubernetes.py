"""The files of deploy/kubernetes as documents, what selectors select among them, and what kustomize makes of them."""

from __future__ import annotations

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


def copy_of_overlay(folder: Path) -> Path:
    """The example overlay with its secrets filled in, in a copy of all files."""
    shutil.copytree(FOLDER, folder / "kubernetes")
    overlay = folder / "kubernetes" / "overlays" / "example"
    values = dict.fromkeys(environment_file(overlay / "secrets.env.example"), "secret")
    (overlay / "secrets.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return overlay


def workload_of(component: str) -> Document:
    (found,) = [one for one in WORKLOADS if labels_of(one)["app.kubernetes.io/component"] == component]
    return found


def environment_of(container: Document) -> dict[str, Document]:
    return {variable["name"]: variable for variable in container.get("env", [])}


#: Those of the base and of the components, the workloads among them, and which of these run the program.
RESOURCES = all_resources()
WORKLOADS = workloads(RESOURCES)
OURS = [workload for workload in WORKLOADS if labels_of(workload)["app.kubernetes.io/component"] != "redis"]
SETTINGS = environment_file(BASE / "settings.env")
