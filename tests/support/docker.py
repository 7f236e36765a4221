"""A Docker daemon for tests, and images made here: where the tests run, none can be pulled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.cluster import clean_environment
from support.debian import Tarballs, debian_tarballs
from support.tools import end, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
#: So that two test runs on one daemon leave each other's images alone.
_MARK = f"{os.getpid():x}"


@dataclass(frozen=True)
class Docker:
    host: str  #: as DOCKER_HOST has it

    @property
    def environment(self) -> dict[str, str]:
        """For the clients; without BuildKit, which `docker build` of some versions has in a plug-in only."""
        return clean_environment(DOCKER_HOST=self.host, DOCKER_BUILDKIT="0", COMPOSE_DOCKER_CLI_BUILD="0")

    def attempt(self, *args: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run ``docker``, whatever comes of it."""
        return subprocess.run(
            [need("docker"), *args],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )

    def run(self, *args: str, seconds: float = 120) -> str:
        """Run ``docker``, which has to work; what it prints."""
        done = self.attempt(*args, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """All that Docker knows of a container or an image."""
        return dict(json.loads(self.run("inspect", name))[0])


@dataclass(frozen=True)
class Images:
    base: str  #: Debian with Python
    services: str  #: the same with nginx and Redis
    manyhands: str  #: ours


@contextmanager
def docker() -> Iterator[Docker]:
    """The machine's daemon if there is one, else one of our own, which is gone afterwards."""
    need("docker")
    one = Docker(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if one.attempt("info").returncode == 0:
        yield one
        return
    with _own_daemon() as one:
        yield one


@contextmanager
def _own_daemon() -> Iterator[Docker]:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("a Docker daemon needs root")
        pytest.skip("no Docker daemon is running, and to start one needs root")
    folder = Path(tempfile.mkdtemp(prefix="mh-docker-"))
    one = Docker(f"unix://{folder}/docker.sock")
    command = [
        need("dockerd"), f"--data-root={folder}/data", f"--exec-root={folder}/exec",
        f"--pidfile={folder}/docker.pid", f"--host={one.host}",
        # The machine's network stays as it is: containers talk to each other, and to nobody else.
        "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none",
    ]  # fmt: skip
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: one.attempt("info").returncode == 0 or daemon.poll() is not None,
            seconds=120,
            what="the Docker daemon",
        )
        assert daemon.poll() is None, (folder / "dockerd.log").read_text()[-4000:]
        yield one
    finally:
        end(daemon, seconds=90)
        _unmount_below(folder)
        shutil.rmtree(folder)


def _unmount_below(folder: Path) -> None:
    """Undo what a daemon that did not end in order left mounted: else files of others would be removed with it."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for path in sorted((each for each in mounted if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def images(docker: Docker) -> Iterator[Images]:
    """The images that a stack is made of; ours is built as a user builds it."""
    tarballs = debian_tarballs()
    ours = f"manyhands-test:{_MARK}"
    base, services = (_imported(docker, tarballs, kind) for kind in ("base", "services"))
    # The host's network: PyPI has to be reached, and nothing else has a way out here.
    docker.run(
        "build", "--network", "host", "--build-arg", f"BASE_IMAGE={base}", "--file", str(ROOT / "deploy/Dockerfile"),
        "--tag", ours, str(ROOT), seconds=900,
    )  # fmt: skip
    try:
        yield Images(base, services, ours)
    finally:
        docker.attempt("image", "rm", "--force", ours)


def _imported(docker: Docker, tarballs: Tarballs, kind: str) -> str:
    path: Path = getattr(tarballs, kind)
    name = f"manyhands-test-{kind}:{hashlib.sha256(path.name.encode()).hexdigest()[:12]}"
    if docker.attempt("image", "inspect", name).returncode != 0:
        docker.run("import", "--change", "CMD /bin/sh", str(path), name, seconds=300)
    return name
