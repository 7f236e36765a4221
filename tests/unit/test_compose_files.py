"""The Compose files against the specification's schema, .env.example, and the other ways to deploy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import kubernetes, systemd

ROOT = Path(__file__).parents[2]
FILES = ["docker-compose.yml", "deploy/compose.worker.yml", "deploy/compose.head.yml"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_as_the_compose_specification_has_it(name):
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", name],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_has_each_variable_with_its_default():
    asked = re.findall(r"\$\{(\w+)(?::([-?])([^}]*))?\}", (ROOT / "docker-compose.yml").read_text())
    lines = re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    defaults = {name: default if kind == "-" else "" for name, kind, default in asked}
    # An empty one is a volume of Docker's own.
    defaults["MANYHANDS_VOLUME"] = ""
    assert dict(lines) == defaults
    assert len(lines) == len(dict(lines))


def services_of(name: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / name).read_text())["services"]


def test_each_secret_is_told_to_those_alone_who_need_it():
    told = {
        secret: {
            name for name, service in services_of("docker-compose.yml").items() if secret in str(service)
        }
        for secret in ("REDIS_PASSWORD", "ORCHESTRATOR_SECRET_KEY", "FLOWER_PASSWORD")
    }
    assert told == {
        "REDIS_PASSWORD": {"redis", "control", "worker", "flower"},
        "ORCHESTRATOR_SECRET_KEY": {"control", "worker"},
        "FLOWER_PASSWORD": {"flower"},
    }


def test_a_worker_is_the_same_on_a_further_host():
    here, there = (
        services_of("docker-compose.yml")["worker"],
        services_of("deploy/compose.worker.yml")["worker"],
    )
    # Where Redis and the volume are, and what waits for that Redis, differs.
    for service in (here, there):
        del service["environment"]["ORCHESTRATOR_REDIS_URL"], service["volumes"]
    del here["depends_on"], there["environment"]["ORCHESTRATOR_HOST_NAME"]
    assert here == there


@pytest.mark.parametrize("name", ["redis", "control", "worker", "flower"])
def test_who_ends_has_as_much_time_everywhere(name):
    seconds = int(services_of("docker-compose.yml")[name]["stop_grace_period"].removesuffix("s"))
    assert kubernetes.pod_of(kubernetes.workload_of(name))["terminationGracePeriodSeconds"] == seconds
    if name in ("control", "worker"):
        unit = (systemd.FOLDER / f"manyhands-{name}.service").read_text()
        assert f"TimeoutStopSec={seconds}\n" in unit
