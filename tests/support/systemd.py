"""A host that systemd runs, in a container: this machine's own system below, and what is written to it in memory.

Needs root, and Debian's systemd-container. It has a network of its own, and starts nothing but what the test names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.cluster import clean_environment
from support.tools import end, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.namespaces import NetHost

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "systemd"
UNITS = ("manyhands-worker.service", "manyhands-control.service")
USER_ID = 10_001

_TARGET = "manyhands-test.target"
_SYSTEM = Path("etc/systemd/system")


@dataclass
class SystemdHost:
    """A host whose first process is systemd."""

    root: Path
    log: Path  #: what it prints on its console
    nspawn: subprocess.Popen[bytes]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, as root."""
        (first,) = psutil.Process(self.nspawn.pid).children()
        return subprocess.run(
            [need("nsenter"), "--all", f"--target={first.pid}", *command],
            env=clean_environment(**variables), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def systemctl(self, *args: str) -> str:
        done = self.run("systemctl", *args)
        assert done.returncode == 0, f"systemctl {' '.join(args)}: {done.stderr}{self.journal()}"
        return done.stdout

    def property_of(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat").stdout


def _install(root: Path, environment: dict[str, str]) -> None:
    """What deploy/README.md says: the user, the program, the units and their settings."""
    with (root / "etc/passwd").open("a") as file:
        file.write(f"manyhands:x:{USER_ID}:{USER_ID}::/nonexistent:/usr/sbin/nologin\n")
    with (root / "etc/group").open("a") as file:
        file.write(f"manyhands:x:{USER_ID}:\n")
    program = root / "opt/manyhands/bin/orchestrator"
    program.parent.mkdir(parents=True)
    # This Python with its packages, and this tree's program: what an installed one would be.
    python = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    program.write_text(
        "#!/bin/sh\n"
        "export PYTHONPATH=/opt/source:/opt/packages PYTHONDONTWRITEBYTECODE=1\n"
        # A Python that was built with a shared library looks for that where it was built.
        "export LD_LIBRARY_PATH=/opt/python/lib\n"
        f'exec {python} -P -m orchestrator "$@"\n'
    )
    program.chmod(0o755)
    # Nothing of what this machine starts.
    shutil.rmtree(root / _SYSTEM)
    (root / _SYSTEM).mkdir()
    for unit in UNITS:
        shutil.copy(FOLDER / unit, root / _SYSTEM)
    wants = " ".join(UNITS)
    (root / _SYSTEM / _TARGET).write_text(f"[Unit]\nWants={wants}\nAfter=basic.target\n")
    settings = root / "etc/manyhands/worker.env"
    settings.parent.mkdir()
    settings.write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    settings.chmod(0o600)
    for package in ("orchestrator", "tasks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / package, root / "opt/source" / package, ignore=ignored)
    subprocess.run(["chmod", "--recursive", "a+rX", str(root / "opt/source")], check=True)
    (root / "mnt/shared").mkdir(exist_ok=True)


def _need_root() -> None:
    need("systemd-nspawn")
    if os.geteuid() == 0:
        return
    sentence = "a container with systemd needs root"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def _mounted(stack: ExitStack, folder: Path, kind: str, options: str) -> None:
    folder.mkdir()
    subprocess.run([need("mount"), "-t", kind, "-o", options, kind, str(folder)], check=True)
    stack.callback(subprocess.run, [need("umount"), "--lazy", str(folder)], check=False)


@contextmanager
def systemd_host(
    folder: Path, network: NetHost, *, volume: Path, environment: dict[str, str]
) -> Iterator[SystemdHost]:
    """A host with the units, started, for as long as the context.

    Args:
        folder: an empty one.
        network: whose network it has.
        volume: what is mounted at ``/mnt/shared``.
        environment: the settings in ``/etc/manyhands/worker.env``.
    """
    _need_root()
    os.chown(volume, USER_ID, USER_ID)
    with ExitStack() as stack:
        memory, root = folder / "memory", folder / "root"
        _mounted(stack, memory, "tmpfs", "size=256m")
        for name in ("upper", "work"):
            (memory / name).mkdir()
        _mounted(stack, root, "overlay", f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work")
        _install(root, environment)
        log = folder / "console.log"
        with log.open("wb") as console:
            nspawn = subprocess.Popen(
                [
                    need("systemd-nspawn"), "--quiet", "--boot", f"--directory={root}",
                    # There may be no systemd outside whom one could ask.
                    "--register=no", "--keep-unit", f"--machine=mh-{os.getpid()}",
                    f"--network-namespace-path=/run/netns/{network.name}",
                    f"--bind={volume}:/mnt/shared",
                    # Mounted, so that its user may read them wherever they are.
                    f"--bind-ro={sys.base_prefix}:/opt/python",
                    f"--bind-ro={sysconfig.get_path('purelib')}:/opt/packages",
                    f"systemd.unit={_TARGET}",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        host = SystemdHost(root, log, nspawn)
        try:
            wait_until(
                lambda: nspawn.poll() is not None or _has_booted(host), seconds=60, what="systemd's start"
            )
            assert nspawn.poll() is None, log.read_text(errors="replace")
            yield host
        finally:
            end(nspawn, seconds=60)


def _has_booted(host: SystemdHost) -> bool:
    if len(psutil.Process(host.nspawn.pid).children()) != 1:
        return False  # while it starts, it has helpers
    told = host.run("systemctl", "is-system-running").stdout.strip()
    return told in ("running", "degraded")
