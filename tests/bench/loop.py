"""A filesystem of a wanted kind on a sparse file, mounted through a loop device; for root only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The quiet options of each mkfs; ext4 keeps no blocks back for root.
_MKFS = {"ext4": ("-q", "-m", "0"), "xfs": ("-q",), "btrfs": ("-q",)}
KINDS = tuple(_MKFS)
#: Those that copy by cloning extents.
CLONING_KINDS = ("xfs", "btrfs")
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
#: xfs refuses less than 300 MiB.
_LEAST_BYTES = 512 * 1024 * 1024
#: Journal and tables.
_SPARE_BYTES = 256 * 1024 * 1024
_UNMOUNT_SECONDS = 20.0


class LoopFailed(Exception):
    """The filesystem could not be made, mounted or unmounted; the one argument is the sentence."""


@contextmanager
def loop_filesystem(folder: Path, kind: str, room_bytes: int) -> Iterator[Path]:
    """A new filesystem with room for so many bytes; yields where it is mounted, and unmounts it at the end.

    Args:
        folder: where the sparse file and the mount point are made.
        kind: one of `KINDS`.
        room_bytes: for files.

    Raises:
        LoopFailed: the user is not root, or one of the programs is missing or fails.
    """
    if os.geteuid() != 0:
        raise LoopFailed("--loop mounts a filesystem, which only root may.")
    image, mount_point = folder / "loop.img", folder / "loop"
    image.touch()
    os.truncate(image, max(int(room_bytes * 1.05) + _SPARE_BYTES, _LEAST_BYTES))
    mount_point.mkdir()
    device = _attach(image)
    try:
        _run(f"mkfs.{kind}", *_MKFS[kind], device)
        _run("mount", device, str(mount_point))
        try:
            yield mount_point
        finally:
            _unmount(mount_point)
    finally:
        _run("losetup", "-d", device)


def _attach(image: Path) -> str:
    options = ("--find", "--show", str(image))
    # Else each byte lies in the page cache twice: once for the filesystem and once for the file under it.
    with contextlib.suppress(LoopFailed):
        return _run("losetup", "--direct-io=on", *options)
    return _run("losetup", *options)


def _unmount(mount_point: Path) -> None:
    ends = time.monotonic() + _UNMOUNT_SECONDS
    while True:
        try:
            _run("umount", str(mount_point))
        except LoopFailed:
            # The last process that was ended may not be gone yet.
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)
        else:
            return


def _run(name: str, *arguments: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        raise LoopFailed(f"--loop needs {name}, which is not on this machine.")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise LoopFailed(f"{name} failed: {done.stderr.strip()}")
    return done.stdout.strip()
