"""The Compose files against the specification's schema, and what they want to be told against .env.example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
