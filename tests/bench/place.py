"""Where the benchmark happens: one folder, one origin file, one nginx, one warm cluster.

Everything lies in a new folder inside the one the user names, and goes with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.usage import trees
from support.cluster import Cluster, cluster
from support.files import leftovers, make_file
from support.redis_server import redis_server
from support.tools import wait_until
from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

_READ_BYTES = 1024 * 1024
#: The origin, one result and, in the parts layout without cloning, the parts.
_COPIES = 3


class NotEnoughSpace(Exception):
    """The folder has no room for what the benchmark writes; the one argument is the sentence."""


@dataclass(frozen=True)
class Place:
    """A folder with an origin that serves one file."""

    folder: Path
    origin_file: Path
    sha256: str  #: of the origin's file
    url: str
    nginx_pid: int

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self.origin_file.stat().st_size

    def new_folder(self, name: str) -> Path:
        """An empty folder for one program."""
        path = self.folder / name
        path.mkdir()
        return path

    def origin_processes(self) -> list[psutil.Process]:
        """The processes of nginx."""
        return trees([self.nginx_pid])


@contextmanager
def place(parent: Path | None, size_bytes: int, *, extra: str = "", http_extra: str = "") -> Iterator[Place]:
    """An origin with a file of this size, in a new folder that is removed at the end.

    Args:
        parent: where to make the folder; None: the machine's folder for temporary files.
        size_bytes: how large the file is to be.
        extra: directives of nginx's server.
        http_extra: directives of nginx itself.

    Raises:
        NotEnoughSpace: `parent` has no room.
    """
    folder = Path(tempfile.mkdtemp(prefix="manyhands-bench-", dir=parent))
    try:
        _check_space(folder, size_bytes)
        # Started by root, nginx reads as a user who may not enter a folder of mode 0700.
        folder.chmod(0o755)
        documents, state = folder / "documents", folder / "nginx"
        documents.mkdir()
        state.mkdir()
        origin_file = documents / "file.bin"
        sha256 = make_file(origin_file, size_bytes)
        with nginx(state, documents, extra=extra, http_extra=http_extra) as base_url:
            pid = int((state / "nginx.pid").read_text())
            yield Place(folder, origin_file, sha256, f"{base_url}/{origin_file.name}", pid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def warm_cluster(where: Place, *worker_args: str) -> Iterator[Cluster]:
    """A Redis and one worker that is ready, with a volume in the folder of `where`."""
    folder = where.new_folder("cluster")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        one = stack.enter_context(cluster(redis, folder))
        one.start_worker(*worker_args)
        yield one


def wait_until_tidy(volume: Path) -> None:
    """Wait until the worker has removed what its last job left: that is not the next run's work."""
    wait_until(lambda: not leftovers(volume), what="the end of a job's cleaning up")


def settle(folder: Path) -> None:
    """Empty a folder, and let the disk come to rest: one run's dirty pages must not slow the next one down."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.sync()


def is_same(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes."""
    if one.stat().st_size != other.stat().st_size:
        return False
    block, other_block = bytearray(_READ_BYTES), bytearray(_READ_BYTES)
    with one.open("rb", buffering=0) as file, other.open("rb", buffering=0) as other_file:
        while count := file.readinto(block):
            view = memoryview(other_block)[:count]
            while view:
                read_count = other_file.readinto(view)
                if not read_count:
                    return False
                view = view[read_count:]
            if block[:count] != other_block[:count]:
                return False
    return True


def _check_space(folder: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _COPIES * size_bytes:
        raise NotEnoughSpace(
            f"{folder.parent} has {free_bytes:,} bytes free and {_COPIES * size_bytes:,} are needed; "
            f"give another --folder or a smaller --size."
        )
