"""Joining parts in order: by cloning their extents, else copying in the kernel, else reading and writing."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
from typing import TYPE_CHECKING

from tasks.transfer.volume.files import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

# linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_FICLONERANGE = 0x4020940D
_CANNOT = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF}
)
_COPY_BYTES = 4 * 1024 * 1024
#: What the kernel copies at once: nobody can end it meanwhile.
_KERNEL_COPY_BYTES = 32 * 1024 * 1024


def join(
    parts: Iterable[tuple[Path, int]], target: Path, *, check: Callable[[], object] = lambda: None
) -> None:
    """Write the parts, each given with its length in bytes, one after the other into a new `target`.

    Args:
        parts: in order.
        target: must not be there.
        check: asked now and then; what it raises ends the join.

    Raises:
        OSError: nothing of the target is left then, nor after what `check` raises.
    """
    offset = 0
    # O_EXCL: an older merge's file may have been published under a second name, and must not be written again.
    out = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for path, length_bytes in parts:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _append(source, out, offset, length_bytes, check)
            finally:
                os.close(source)
            offset += length_bytes
    except BaseException:
        # On a volume that is full it would take the space that the next merge needs.
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(out)


def can_clone(folder: Path) -> bool:
    """Whether the filesystem at `folder` shares extents between files, found by cloning a small one."""
    # Names of chance: two plans may try it at the same time.
    name = f"clone.{secrets.token_hex(4)}"
    one, two = folder / f"{name}.from", folder / f"{name}.to"
    try:
        one.write_bytes(b"\0" * 4096)
        source, target = os.open(one, os.O_RDONLY), os.open(two, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            return _clone(source, target, 0)
        finally:
            os.close(source)
            os.close(target)
    finally:
        one.unlink(missing_ok=True)
        two.unlink(missing_ok=True)


def _append(source: int, out: int, offset: int, length_bytes: int, check: Callable[[], object]) -> None:
    check()
    if os.fstat(source).st_size == length_bytes and _clone(source, out, offset):
        return
    copied_bytes = _copy_in_kernel(source, out, offset, length_bytes, check)
    while copied_bytes < length_bytes:
        check()
        block = os.pread(source, min(_COPY_BYTES, length_bytes - copied_bytes), copied_bytes)
        if not block:
            raise OSError(errno.EIO, "a part is shorter than its receipt says")
        write_all(out, block, offset + copied_bytes)
        copied_bytes += len(block)


def _clone(source: int, out: int, offset: int) -> bool:
    # A source length of 0 means to its end, which need not be at a block's border.
    try:
        fcntl.ioctl(out, _FICLONERANGE, struct.pack("qQQQ", source, 0, 0, offset))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def _copy_in_kernel(
    source: int, out: int, offset: int, length_bytes: int, check: Callable[[], object]
) -> int:
    copied_bytes = 0
    try:
        while copied_bytes < length_bytes:
            check()
            most_bytes = min(length_bytes - copied_bytes, _KERNEL_COPY_BYTES)
            count = os.copy_file_range(source, out, most_bytes, copied_bytes, offset + copied_bytes)
            if count == 0:
                break
            copied_bytes += count
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    return copied_bytes
