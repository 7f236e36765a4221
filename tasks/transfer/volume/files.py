"""File operations with this project's errors, and writes that are seen whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.transfer.errors import VolumeFailed, VolumeFull, VolumeMissing, VolumeReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What filesystems without hard links answer to link().
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_READ_BYTES = 256 * 1024
#: How often a small file is opened that others replace, each time between its opening and its reading.
_READS_COUNT = 10
#: The most that the kernel keeps or forgets of a file at once.
_CACHED_BYTES = 2 * 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_MISSING = frozenset({errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENOTDIR})


@contextlib.contextmanager
def volume_errors(path: Path, *, needed_bytes: int = 0) -> Iterator[None]:
    """Within, an OSError becomes the `VolumeError` that says what a person must do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            limit = "" if error.errno == errno.ENOSPC else error.strerror or type(error).__name__
            raise VolumeFull(str(path), needed_bytes, free_bytes(path), limit) from error
        if error.errno in _READ_ONLY:
            raise VolumeReadOnly(str(path)) from error
        if error.errno in _MISSING:
            raise VolumeMissing(str(path)) from error
        raise VolumeFailed(str(path), error.strerror or type(error).__name__) from error


@functools.cache
def this_boot() -> str | None:
    """Names this host from its start to its end: what was written meanwhile is read back from here, synced or not.

    With the host's name, because virtual machines that were made from one snapshot share the kernel's id.
    """
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{socket.gethostname()}"
    except OSError:
        return None


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is or would be; 0 if that cannot be told."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0


def make_folder(path: Path) -> None:
    """Make a folder and its parent, for the owner alone; harmless if they are there.

    Not the parent's parent: that is the volume, and one that is not mounted must not be made.
    """
    is_made = False
    while not is_made:
        try:
            # os.mkdir, not pathlib's: that looks once more when there is a folder, and fails if it is gone by then.
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)  # noqa: PTH102
            is_made = True
        except FileNotFoundError:
            is_made = _make_both(path)


def _make_both(path: Path) -> bool:
    """Make a folder in a parent that is not there or empty; False if there is something else in it by now."""
    # By a rename: made one after the other, the last job to end would remove the empty parent in between.
    temporary = path.parent.with_name(f"{path.parent.name}.{secrets.token_hex(4)}.new")
    os.mkdir(temporary, 0o700)  # noqa: PTH102
    try:
        os.mkdir(temporary / path.name, 0o700)  # noqa: PTH102
        temporary.rename(path.parent)
    except OSError as error:
        shutil.rmtree(temporary)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def write_whole(path: Path, text: str, *, sync: bool) -> None:
    """Replace a small file so that readers see the old text or the new, never half of it."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(fd, text.encode(), 0)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def read_whole(path: Path) -> bytes:
    """What is in a small file that others may replace meanwhile, by `write_whole`."""
    for _ in range(_READS_COUNT - 1):
        try:
            return path.read_bytes()
        except OSError as error:
            # NFS has nothing of a file any more that another host has replaced since it was opened.
            if error.errno != errno.ESTALE:
                raise
    return path.read_bytes()


def size_bytes_now(path: Path) -> int:
    """How long a file is, for certain; `FileNotFoundError` if it is not there.

    Who opens a file asks the server of NFS. What a host knows of a name without that may be a minute old: others may
    have removed it since.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def is_gone(path: Path) -> bool:
    """Whether a file is not there, for certain: see `size_bytes_now`."""
    try:
        size_bytes_now(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESTALE)
    return False


def write_first(path: Path, text: str, *, sync: bool) -> bool:
    """Write a small file unless there is one; False then. One of several writers wins.

    Readers see all of it or nothing; without hard links, for a moment, an empty file.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.first")
    write_whole(temporary, text, sync=sync)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Without hard links: an exclusive create picks the winner, who then replaces it by the whole.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)
    return True


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write `data` at `offset`; a short write (a signal, a nearly full volume) is gone on with."""
    written_bytes = os.pwrite(fd, data, offset)
    if written_bytes == len(data):
        return
    view = memoryview(data)
    while written_bytes < len(data):
        written_bytes += os.pwrite(fd, view[written_bytes:], offset + written_bytes)


def read_blocks(
    path: Path, offset: int = 0, length_bytes: int | None = None, *, from_disk: bool = False
) -> Iterator[memoryview]:
    """The bytes of a file in order, from an offset on; fewer than asked for if the file ends before.

    Each block is good until the next is asked for: then its memory is written anew.

    Args:
        path: of the file.
        offset: where to begin.
        length_bytes: how much to read; None: to the end.
        from_disk: read what is on the disk, or will be: see `_forget`.

    Raises:
        FileNotFoundError: it is not there, or on NFS, another host has removed it meanwhile.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if from_disk:
            _forget(fd, offset, length_bytes)
        yield from blocks_of(fd, offset, length_bytes)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        # As it would be had it been opened a moment later.
        raise FileNotFoundError(errno.ENOENT, "removed while it was read", str(path)) from error
    finally:
        os.close(fd)


def blocks_of(fd: int, offset: int, length_bytes: int | None) -> Iterator[memoryview]:
    """The bytes of an open file, as `read_blocks` has them."""
    # Larger than that leaves a core's cache, and each block is read more than once by who hashes it.
    buffer = memoryview(bytearray(_READ_BYTES))
    left_bytes = length_bytes
    while left_bytes is None or left_bytes > 0:
        wanted = buffer if left_bytes is None else buffer[:left_bytes]
        count = os.preadv(fd, [wanted], offset)
        if not count:
            return
        yield buffer[:count]
        offset += count
        left_bytes = None if left_bytes is None else left_bytes - count


def _forget(fd: int, offset: int, length_bytes: int | None) -> None:
    """Have the kernel forget what it keeps of a file in memory, but for what is still to be written.

    Linux drops nothing of what a disk failed to take: it reads well until the memory is needed, and the failure
    is told once, to who syncs first.
    """
    start = offset // _CACHED_BYTES * _CACHED_BYTES
    # 0: to the end.
    most_bytes = (
        0 if length_bytes is None else -(-(offset + length_bytes) // _CACHED_BYTES) * _CACHED_BYTES - start
    )
    os.posix_fadvise(fd, start, most_bytes, os.POSIX_FADV_DONTNEED)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file; a symbolic link is none of what it leads to."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def has_same_bytes(one: Path, other: Path, *, check: Callable[[], object]) -> bool:
    """Whether two files have the same bytes; `check` is asked before each block, and what it raises ends it."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            check()
            block = first.read(_READ_BYTES)
            if block != second.read(_READ_BYTES):
                return False
            if not block:
                return True


def sync_folder(folder: Path) -> None:
    """Make names in `folder` survive a crash of the host: a file's own fsync does not cover its name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network filesystems have no fsync for folders, and need none.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
