"""Where the benchmark happens: one folder, the origin's files, one origin, one warm cluster.

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

from bench import origins
from bench.loop import loop_filesystem
from support.cluster import Cluster, cluster
from support.files import leftovers, make_file
from support.redis_server import redis_server
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.origins import OpenOrigin, Origin

#: What a program calls the file it downloads, where there is only one.
RESULT = "result.bin"
_READ_BYTES = 1024 * 1024
#: The origin, one result and, in the parts layout without cloning, the parts.
_COPIES = 3
#: A file takes whole blocks.
_BLOCK_BYTES = 4096
#: For a thousand jobs: each is cleaned up by a task of its own.
_TIDY_SECONDS = 120.0


class NotEnoughSpace(Exception):
    """The folder has no room for what the benchmark writes; the one argument is the sentence."""


@dataclass(frozen=True)
class Site:
    """Where the user wants it to happen."""

    parent: Path | None = None  #: None: the machine's folder for temporary files
    loop: str | None = None  #: the kind of a filesystem to make and mount there; None: as the folder is

    @property
    def shown_as(self) -> str:
        """What is measured on: ``loop ext4``, or the filesystem of the folder, such as ``tmpfs``."""
        if self.loop is not None:
            return f"loop {self.loop}"
        return _filesystem(self.parent or Path(tempfile.gettempdir()))


@dataclass(frozen=True)
class Place:
    """A folder with an origin that serves files."""

    folder: Path
    documents: Path
    files: Mapping[str, str]  #: the SHA-256 of each, by the name that a result has
    origin: Origin

    @property
    def sha256(self) -> str:
        """Of the one file."""
        return self.files[RESULT]

    def origin_file(self, name: str = RESULT) -> Path:
        """What a result has to be the same as."""
        return self.documents / name

    def new_folder(self, name: str) -> Path:
        """An empty folder for one program."""
        path = self.folder / name
        path.mkdir()
        return path


@contextmanager
def place(
    site: Site, size_bytes: int, *, files_count: int = 1, open_origin: OpenOrigin = origins.plain
) -> Iterator[Place]:
    """An origin with files of this size, in a new folder that is removed at the end.

    Args:
        site: where to make the folder.
        size_bytes: how large each file is to be.
        files_count: how many of them.
        open_origin: which server.

    Raises:
        NotEnoughSpace: there is no room.
        LoopFailed: the filesystem that the user wants cannot be made.
    """
    names = [RESULT] if files_count == 1 else [f"{number:04}.bin" for number in range(files_count)]
    room_bytes = _COPIES * files_count * -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
    with ExitStack() as stack:
        outer = Path(tempfile.mkdtemp(prefix="manyhands-bench-", dir=site.parent))
        stack.callback(shutil.rmtree, outer, ignore_errors=True)
        _check_space(outer, room_bytes)
        folder = outer
        if site.loop is not None:
            folder = stack.enter_context(loop_filesystem(outer, site.loop, room_bytes))
        # Started by root, nginx reads as a user who may not enter a folder of mode 0700.
        outer.chmod(0o755)
        documents, state = folder / "documents", folder / "origin"
        documents.mkdir()
        state.mkdir()
        files = {
            name: make_file(documents / name, size_bytes, seed=seed)
            for seed, name in enumerate(names, start=1)
        }
        origin = stack.enter_context(open_origin(state, documents))
        yield Place(folder, documents, files, origin)


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
    wait_until(lambda: not leftovers(volume), seconds=_TIDY_SECONDS, what="the end of a job's cleaning up")


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


def _filesystem(folder: Path) -> str:
    """The kind of filesystem that a folder is on, by its device in the kernel's list of mounts."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0]
    return "the folder"  # btrfs numbers its subvolumes otherwise


def _check_space(folder: Path, room_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < room_bytes:
        raise NotEnoughSpace(
            f"{folder.parent} has {free_bytes:,} bytes free and {room_bytes:,} are needed; "
            f"give another --folder or a smaller --size."
        )
