"""Root filesystems of Debian, to be imported as images; made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUITE = "bookworm"
#: What a user's base image has to have.
_BASE = ("ca-certificates", "python3", "python3-venv")
_SERVICES = ("nginx-light", "redis-server")
#: As in Debian's official slim images, which tests stand in for.
_LEFT_OUT = ("doc", "info", "locale", "man")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: Of what follows here, besides names of packages: another one makes new files.
_RECIPE = 1


@dataclass(frozen=True)
class Tarballs:
    base: Path  #: Debian with Python
    services: Path  #: the same with nginx and Redis


def debian_tarballs() -> Tarballs:
    """The root filesystems; to make them takes about a minute."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhands-tests"
    pip = _pip_settings()
    recipe = repr((_RECIPE, _SUITE, _BASE, _SERVICES, pip, _certificates()))
    mark = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    found = Tarballs(cache / f"debian-base-{mark}.tar", cache / f"debian-services-{mark}.tar")
    if not found.services.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _root_filesystem() as root:
            (root / "etc/pip.conf").write_text(pip)
            _pack(root, found.base)
            _add_services(root)
            _pack(root, found.services)
    return found


def _certificates() -> bytes:
    return _CERTIFICATES.read_bytes() if _CERTIFICATES.exists() else b""


def _pip_settings() -> str:
    """A pip.conf by which pip in an image finds packages as pip does here."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {"cert": str(_CERTIFICATES)} if _CERTIFICATES.exists() else {}
    settings.update(re.findall(r"^(?:global|:env:)\.(index-url)='(.*)'$", listed, re.MULTILINE))
    return "".join([f"{line}\n" for line in ("[global]", *(f"{k} = {v}" for k, v in settings.items()))])


@contextmanager
def _root_filesystem() -> Iterator[Path]:
    program = need("debootstrap")
    with tempfile.TemporaryDirectory(prefix="mh-debian-") as created:
        root = Path(created) / "root"
        subprocess.run(
            [program, "--variant=minbase", f"--include={','.join(_BASE)}", _SUITE, root],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # No package may start a server here.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        if _CERTIFICATES.exists():
            shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
        _slim(root)
        yield root


def _slim(root: Path) -> None:
    for path in [*root.glob("var/cache/apt/*"), *root.glob("var/lib/apt/lists/*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in _LEFT_OUT:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)


def _add_services(root: Path) -> None:
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    script = (
        f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {' '.join(_SERVICES)}"
        # As in the official image of Redis.
        " && install --directory --owner redis --group redis /data"
    )
    subprocess.run(
        [need("chroot"), root, "sh", "-c", script],
        check=True,
        stdout=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
    )
    _slim(root)


def _pack(root: Path, tarball: Path) -> None:
    """Pack it under a name that it has once it is whole: two test runs may do so at the same time."""
    part = tarball.with_name(f"{tarball.name}.{os.getpid()}")
    subprocess.run(
        ["tar", "--create", "--numeric-owner", "--one-file-system", f"--file={part}", f"--directory={root}",
         "--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "."],
        check=True,
    )  # fmt: skip
    part.replace(tarball)
