"""A filesystem that shows a folder as a host of a shared volume sees it; run as a program, once for each host.

As on NFS, a file that another host removed, or replaced by a rename, ends for who has it open: ESTALE. One that this
host removes while it has it open, libfuse gives another name until it is closed. Names and attributes, those of files
that another has removed included, are known for a while without asking; who opens a file asks. That a file could not be
written may be told as late as when it is closed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
from pathlib import Path

from mfusepy import FUSE, Operations

#: What libfuse gives for "now" (linux/stat.h: UTIME_NOW), with no seconds.
_NOW_NS = (1 << 30) - 1
#: What there is room for on a full volume.
_SMALL_BYTES = 64 * 1024
_STAT = ("st_atime", "st_mtime", "st_ctime")


class Host(Operations):
    """All that happens goes on to a folder; nothing is kept here."""

    use_ns = True

    def __init__(self, folder: str, full_mark: str) -> None:
        self._folder = folder
        self._full_mark = Path(full_mark)

    def _at(self, path: str) -> Path:
        return Path(self._folder + path)

    def getattr(self, path, fh=None):
        found = self._at(path).lstat() if fh is None else _living(fh)
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        return {name: getattr(found, name) for name in names} | {
            name: getattr(found, f"{name}_ns") for name in _STAT
        }

    def statfs(self, path):
        found = os.statvfs(self._at(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {name: getattr(found, name) for name in (*names, "f_namemax")}

    def readdir(self, path, fh):
        with os.scandir(self._at(path)) as entries:
            # Any number but 0 does for those two.
            inodes = {".": 1, "..": 1} | {entry.name: entry.inode() for entry in entries}
        return [(name, {"st_ino": inode}, 0) for name, inode in inodes.items()]

    def readlink(self, path):
        return str(self._at(path).readlink())

    def mkdir(self, path, mode):
        self._at(path).mkdir(mode)

    def rmdir(self, path):
        self._at(path).rmdir()

    def unlink(self, path):
        self._at(path).unlink()

    def rename(self, old, new):
        self._at(old).rename(self._at(new))

    def link(self, target, source):
        self._at(target).hardlink_to(self._at(source))

    def symlink(self, target, source):
        self._at(target).symlink_to(source)

    def chmod(self, path, mode):
        self._at(path).chmod(mode)

    def utimens(self, path, times=None):
        if times is None or times[1] == _NOW_NS:
            os.utime(self._at(path))
        else:
            os.utime(self._at(path), ns=times)

    def open(self, path, flags):
        return os.open(self._at(path), flags)

    def create(self, path, mode, flags):
        return os.open(self._at(path), flags | os.O_CREAT, mode)

    def truncate(self, path, length, fh=None):
        os.truncate(self._at(path) if fh is None else fh, length)

    def read(self, path, size, offset, fh):
        _living(fh)
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        _living(fh)
        return os.pwrite(fh, data, offset)

    def flush(self, path, fh):
        # Of what was only read there is nothing to tell.
        if fcntl.fcntl(fh, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            return
        if _living(fh).st_size > _SMALL_BYTES and self._full_mark.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fsync(self, path, datasync, fh):
        _living(fh)

    def release(self, path, fh):
        os.close(fh)


def _living(fh: int) -> os.stat_result:
    found = os.fstat(fh)
    if found.st_nlink == 0:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("mount_point")
    parser.add_argument("known_seconds", type=float)
    parser.add_argument("full_mark")
    given = parser.parse_args()
    # What it says of its end by a signal: it is always ended so.
    with contextlib.suppress(RuntimeError):
        FUSE(
            Host(given.folder, given.full_mark),
            given.mount_point,
            foreground=True,
            nothreads=True,
            # What another host wrote is read, and what cannot be written is told at once.
            direct_io=True,
            use_ino=True,
            attr_timeout=given.known_seconds,
            entry_timeout=given.known_seconds,
        )
