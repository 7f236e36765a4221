"""The peers: other programs that download, and the least that Python can do."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bench.place import RESULT
from bench.programs import CommandLine
from support.cluster import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.origins import Origin
    from bench.place import Place

_SCRIPTS = Path(__file__).parent
_HF_CHUNK_BYTES = 10 * 1024 * 1024
_ARIA2 = ("--no-conf=true", "-q", "--file-allocation=none")

#: What the tables call each.
SHOWN_AS = {
    "floor": "floor: 8 threads of Python",
    "hf8": "hf_transfer, 8 files",
    "hf16": "hf_transfer, 16 files",
    "aria2c": "aria2c -x16 -s16",
    "aria2c-k1M": "aria2c -x16 -s16 -k1M",
    "aria2c-x8": "aria2c -x8 -s8 -k1M",
    "axel": "axel -n8",
    "curl": "curl",
}
PEER_PROGRAMS = ("floor", "hf8", "hf16", "aria2c", "axel", "curl")


class LeftOut(Exception):
    """A peer cannot be measured here; the one argument says why."""


def peer(name: str, where: Place, origin: Origin | None = None) -> CommandLine:
    """A peer by its name; it downloads from the origin of `where` if none is given.

    Raises:
        LeftOut: it is not on this machine, or cannot do what is asked for.
    """
    origin = origin or where.origin
    arguments = _arguments(name, origin.url_of(RESULT), origin.ca_file)
    folder = where.new_folder(f"{name}-{origin.pid}")
    return CommandLine(name, SHOWN_AS[name], folder, origin, arguments, _environment(name, origin))


def available(names: list[str], where: Place, say: Callable[[str], object]) -> list[CommandLine]:
    """Those of some peers that can be measured; the others are named."""
    found = []
    for name in names:
        try:
            found.append(peer(name, where))
        except LeftOut as why:
            say(f"left out: {why}")
    return found


def program_path(name: str) -> str:
    """Where a program is; `LeftOut` if it is missing."""
    path = shutil.which(name)
    if path is None:
        raise LeftOut(f"{name} is not on this machine")
    return path


def _arguments(name: str, url: str, ca_file: Path | None) -> tuple[str, ...]:
    ca = () if ca_file is None else (str(ca_file),)
    script = (sys.executable, "-P")
    if name == "floor":
        return (*script, str(_SCRIPTS / "floor.py"), url, RESULT, *ca)
    if name in ("hf8", "hf16"):
        if importlib.util.find_spec("hf_transfer") is None:
            raise LeftOut(f"{name}: hf_transfer is not installed (the group `bench` has it)")
        return (*script, str(_SCRIPTS / "hf.py"), url, RESULT, name[2:], str(_HF_CHUNK_BYTES))
    if name == "axel":
        if ca:
            raise LeftOut("axel: it cannot be told which authority to trust")
        return (program_path("axel"), "-n8", "-q", "-o", RESULT, url)
    if name == "curl":
        return (program_path("curl"), "-q", "-f", "-s", *(("--cacert", *ca) if ca else ()), "-o", RESULT, url)
    connections = SHOWN_AS[name].split()[1:]
    trusted = [f"--ca-certificate={path}" for path in ca]
    return (program_path("aria2c"), *_ARIA2, *connections, *trusted, "-o", RESULT, url)


def _environment(name: str, origin: Origin) -> dict[str, str]:
    if name in ("hf8", "hf16") and origin.ca_file is not None:
        # It has no option for it; OpenSSL has a variable.
        return clean_environment(SSL_CERT_FILE=str(origin.ca_file))
    return clean_environment()


def versions() -> dict[str, str]:
    """The first line that each program says of its version; a missing one is left out."""
    said = {}
    for name, option in (
        ("aria2c", "-v"),
        ("axel", "-V"),
        ("curl", "-V"),
        ("nginx", "-v"),
        ("redis-server", "-v"),
    ):
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if path is None:
            continue
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=10, check=False)
        said[name] = (done.stdout or done.stderr).partition("\n")[0].strip()
    if importlib.util.find_spec("hf_transfer") is not None:
        said["hf_transfer"] = metadata.version("hf_transfer")
    return said
