"""Small filesystems of their own, which can be filled, made read-only, torn away and broken."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.tools import need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
#: mkfs.xfs makes none below 300 MiB.
_IMAGE_BYTES = 512 * MIB
_TMPFS_BYTES = 128 * MIB
_STEPS_BYTES = (32 * MIB, MIB, 64 * 1024, 4096)
_MAKE = {"ext4": ["mkfs.ext4", "-q", "-m", "0"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}
#: ext4 becomes read-only at an error, as Debian's installer sets it up.
_OPTIONS = {"ext4": "errors=remount-ro"}
#: Both ext4 and xfs: _IOR('X', 125, __u32). From then on every operation fails, as on a disk that is gone.
_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSH = 2


@dataclass
class Disk:
    """A mounted filesystem."""

    kind: str
    folder: Path
    image: Path | None  #: None: tmpfs has none
    device: str = ""  #: where the image is attached

    def attach(self) -> None:
        """Make a device of the image."""
        attached = _run("losetup", "--find", "--show", str(self.image))
        if attached.returncode:
            pytest.skip(f"there are no loop devices here: {attached.stderr.strip()}")
        self.device = attached.stdout.strip()

    def detach(self) -> None:
        """Have the image be a file again."""
        _must("losetup", "--detach", self.device)

    def mount(self) -> None:
        options = _OPTIONS.get(self.kind, "defaults")
        if self.kind == "tmpfs":
            options = f"size={_TMPFS_BYTES}"
        done = _run("mount", "-t", self.kind, "-o", options, self.device or "tmpfs", str(self.folder))
        if done.returncode:
            pytest.skip(f"mounting {self.kind} is not permitted here: {done.stderr.strip()}")

    def unmount(self) -> None:
        """Unmount it, when those who still use it have closed their files."""
        wait_until(lambda: _run("umount", str(self.folder)).returncode == 0, what="the disk being free")

    def tear_away(self) -> None:
        """Unmount it from under those who use it: they keep their open files, and find nothing at its paths."""
        _must("umount", "--lazy", str(self.folder))

    def remount(self, option: str) -> None:
        """Change it to ``ro`` or ``rw`` as an administrator does; the kernel does it when no file is being written."""
        wait_until(
            lambda: _run("mount", "-o", f"remount,{option}", str(self.folder)).returncode == 0,
            what=f"the disk being {option}",
        )

    @contextmanager
    def quota(self) -> Iterator[None]:
        """Within, `allow` can limit what may be on it; btrfs is the one with quotas in every kernel."""
        _must("btrfs", "quota", "enable", str(self.folder))
        try:
            _must("btrfs", "quota", "rescan", "-w", str(self.folder))
            yield
        finally:
            _must("btrfs", "quota", "disable", str(self.folder))

    def allow(self, size_bytes: int | None) -> None:
        """Let only so many bytes be on it; None: as many as fit."""
        most = "none" if size_bytes is None else str(size_bytes)
        _must("btrfs", "qgroup", "limit", most, str(self.folder))

    def free_bytes(self) -> int:
        return os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take the space, all but so much."""
        with self._filler.open("ab") as file:
            for step_bytes in _STEPS_BYTES:
                while not leave_bytes or self.free_bytes() - leave_bytes >= step_bytes:
                    if not _allocate(file.fileno(), step_bytes):
                        break

    def make_space(self) -> None:
        self._filler.unlink()

    def become_read_only(self) -> None:
        """What ext4 does at an error of its disk."""
        trigger = Path("/sys/fs/ext4") / Path(self.device).name / "trigger_fs_error"
        trigger.write_text("1")
        # Not statvfs: since Linux 6.15 it does not show this.
        with pytest.raises(OSError, match="Read-only"):
            (self.folder / "probe").touch()

    def break_down(self) -> None:
        """Have every operation fail from now on; what was not synced is lost."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(fd)


def _allocate(fd: int, size_bytes: int) -> bool:
    """Make a file longer by blocks that are taken; False where there are none left."""
    try:
        os.posix_fallocate(fd, os.fstat(fd).st_size, size_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@contextmanager
def disk(kind: str, folder: Path, images: Path) -> Iterator[Disk]:
    """A new filesystem, mounted at a folder; its image is in another one."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a filesystem")
    if kind == "tmpfs":
        one = Disk(kind, folder, None)
        one.mount()
        try:
            yield one
        finally:
            _end(folder)
        return
    maker = need(_MAKE[kind][0])
    image = images / f"{kind}.img"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run([maker, *_MAKE[kind][1:], image], check=True)
    one = Disk(kind, folder, image)
    one.attach()
    try:
        one.mount()
        yield one
    finally:
        _end(folder)
        _run("losetup", "--detach", one.device)
        image.unlink(missing_ok=True)


def _end(folder: Path) -> None:
    while os.path.ismount(folder):
        if _run("umount", "--lazy", str(folder)).returncode:
            return


def _must(*command: str) -> None:
    done = _run(*command)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([need(command[0]), *command[1:]], capture_output=True, text=True, check=False)
