"""A shared volume as several hosts see it that mount it by NFS, which needs no NFS; see `host_of_volume`."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.tools import end, lack, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROGRAM = Path(__file__).with_name("host_of_volume.py")
#: With the first word in the second one's place, become what follows.
_BIND = 'mount --bind "$0" "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class HostView:
    """The volume as one host has it."""

    folder: Path  #: where this host's view is mounted
    volume: Path  #: the folder itself
    full_mark: Path  #: while this file is there, the volume is full, and says so when a file is closed

    @property
    def inside(self) -> list[str]:
        """What a command begins with that finds this view where all others have the volume."""
        return [need("unshare"), "--mount", "--", "sh", "-c", _BIND, str(self.folder), str(self.volume)]


@contextmanager
def hosts_of(
    volume: Path, folder: Path, *, known_seconds: float, hosts_count: int = 2
) -> Iterator[list[HostView]]:
    """A view of a volume for each of some hosts; all of it is gone afterwards.

    Args:
        volume: the folder that they share.
        folder: where they are mounted.
        known_seconds: how long a host goes by what it knows of a name.
        hosts_count: how many.
    """
    need("fusermount3")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        lack("mounting a filesystem of one's own needs root and /dev/fuse")
    with ExitStack() as stack:
        yield [
            stack.enter_context(_host(volume, folder / f"host-{number}", known_seconds))
            for number in range(hosts_count)
        ]


@contextmanager
def _host(volume: Path, folder: Path, known_seconds: float) -> Iterator[HostView]:
    folder.mkdir()
    log, full_mark = folder.with_suffix(".log"), folder.with_suffix(".full")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", _PROGRAM, volume, folder, str(known_seconds), full_mark],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: folder.is_mount() or process.poll() is not None, what="a mounted volume")
        assert process.poll() is None, log.read_text()
        yield HostView(folder, volume, full_mark)
    finally:
        # It unmounts the folder at its end.
        end(process)
        if folder.is_mount():
            subprocess.run([need("fusermount3"), "-u", "-z", folder], check=True)
    assert "Traceback" not in log.read_text(), log.read_text()
