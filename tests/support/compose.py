"""The stack of docker-compose.yml as a user runs it, with an origin beside it in its network."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.docker import ROOT, Docker, Images
from support.stack_files import Secrets, add_origin, asked_often, settings
from support.tools import free_port, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Containers start slowly on a machine that has other work.
PATIENCE_SECONDS = 120
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _program() -> list[str]:
    """Compose: Debian's version 1, or what the variable COMPOSE says."""
    named = os.environ.get("COMPOSE")
    return named.split() if named else [need("docker-compose")]


@dataclass
class Stack:
    docker: Docker
    project: str
    folder: Path
    secrets: Secrets
    digests: dict[str, str]  #: of the origin's files, by name
    flower_port: int
    files: tuple[Path, ...]  #: of Compose

    def attempt(self, *args: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run Compose, whatever comes of it."""
        files = [arg for path in self.files for arg in ("--file", str(path))]
        return subprocess.run(
            [
                *_program(), "--project-name", self.project, "--project-directory", str(ROOT),
                "--env-file", str(self.folder / ".env"), *files, *args,
            ],
            env=self.docker.environment, cwd=ROOT, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def compose(self, *args: str) -> str:
        """Run Compose, which has to work; what it prints on stdout."""
        done = self.attempt(*args)
        assert done.returncode == 0, f"compose {' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *, workers: int) -> None:
        """What the README says, and then wait until all are well."""
        self.compose("up", "-d", "--scale", f"worker={workers}")
        for service, count in (("redis", 1), ("control", 1), ("worker", workers), ("flower", 1)):
            self.wait_until_healthy(service, count)

    def wait(self, condition: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for something that has to come true; if it does not, the containers' logs are shown."""
        try:
            wait_until(condition, seconds=seconds, what=what)
        except BaseException:
            done = self.attempt("logs", "--no-color", "--tail", "60")
            print(done.stdout + done.stderr)
            raise

    def wait_until_healthy(self, service: str, count: int) -> None:
        self.wait(
            lambda: self.healths(service) == ["healthy"] * count,
            f"the health of {count} containers of {service}",
        )

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        labels = {"project": self.project, "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        return self.docker.run("ps", "--quiet", "--all", "--no-trunc", *filters).split()

    def healths(self, service: str) -> list[str]:
        states = [self.docker.inspect(each)["State"] for each in self.containers(service)]
        return [state["Health"]["Status"] if state["Running"] else "down" for state in states]

    def orchestrator(self, *args: str) -> str:
        """Run a command line in the running control container."""
        (control,) = self.containers("control")
        return self.docker.run("exec", control, "orchestrator", *args)

    def submit(self, name: str, *options: str, place: str = "slow/", output: str | None = None) -> str:
        """Submit a file of the origin and do not wait; the job's id."""
        url = f"http://origin/{place}{name}"
        return self.orchestrator("submit", url, "-o", output or name, "--detach", *options).strip()

    def status(self, job_id: str) -> dict[str, Any]:
        return dict(json.loads(self.orchestrator("status", job_id, "--json")))

    def wait_until_midway(self, job_id: str, *, share: float) -> None:
        """Wait until so much of a job's bytes are there; it must not be complete by then."""

        def has_come() -> bool:
            record = self.status(job_id)
            assert record["state"] in ("queued", "planning", "fetching"), record
            return bool(record["size_bytes"]) and record["bytes_done"] >= share * record["size_bytes"]

        self.wait(has_come, f"{share:.0%} of the job")

    def wait_until_complete(self, job_id: str) -> None:
        def is_over() -> bool:
            record = self.status(job_id)
            assert record["state"] not in ("failed", "cancelled"), record
            return record["state"] == "complete"

        self.wait(is_over, "the job's end", seconds=2 * PATIENCE_SECONDS)

    def sha256(self, name: str) -> str:
        """The digest of a file on the volume."""
        (control,) = self.containers("control")
        return self.docker.run("exec", control, "sha256sum", f"/volume/{name}").split()[0]

    def kill(self, container: str) -> None:
        """End a container's first process as the kernel does when memory is short; Docker is not asked to."""
        os.kill(self.docker.inspect(container)["State"]["Pid"], signal.SIGKILL)

    @property
    def gateway(self) -> str:
        """An address of this machine, which containers of all stacks reach."""
        network = self.docker.run("network", "inspect", f"{self.project}_default")
        return str(json.loads(network)[0]["IPAM"]["Config"][0]["Gateway"])

    def end(self) -> None:
        """Remove all of it."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def memory_bytes(self, container: str) -> int:
        """What ``docker stats`` shows: the memory of a container without the file cache that is at rest."""
        shown = self.docker.run("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
        match = re.match(r"([\d.]+)(\w+) /", shown)
        assert match, shown
        return round(float(match[1]) * _UNITS[match[2]])


@contextmanager
def stack(
    docker: Docker, images: Images, folder: Path, sizes_bytes: dict[str, int], **variables: str
) -> Iterator[Stack]:
    """A stack that is not up yet; afterwards its containers, networks and volumes are gone."""
    own, port = Secrets(), free_port()
    (folder / ".env").write_text(settings(images, own, port, **variables))
    digests = add_origin(folder, images, sizes_bytes)
    files = (ROOT / "docker-compose.yml", folder / "origin.yml")
    one = Stack(docker, new_project(), folder, own, digests, port, files)
    try:
        yield one
    finally:
        one.end()


@contextmanager
def further_host(head: Stack, folder: Path, volume: Path, **variables: str) -> Iterator[Stack]:
    """Workers of deploy/compose.worker.yml, which have nothing of the head's stack but Redis and the volume."""
    known = {
        "ORCHESTRATOR_REDIS_URL": f"redis://:{head.secrets.redis}@{head.gateway}:6379/0",
        "ORCHESTRATOR_SECRET_KEY": head.secrets.key,
        "VOLUME_DEVICE": str(volume),
        **variables,
    }
    folder.mkdir()
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in known.items()))
    (folder / "often.yml").write_text(json.dumps({"services": asked_often("worker")}))
    files = (ROOT / "deploy/compose.worker.yml", folder / "often.yml")
    one = dataclasses.replace(head, project=new_project(), folder=folder, files=files)
    try:
        yield one
    finally:
        one.end()


def new_project() -> str:
    """A name that no other test run has."""
    return f"mh{os.getpid():x}{secrets.token_hex(2)}"
