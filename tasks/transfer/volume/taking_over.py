"""Going on with what another attempt at a part left in a file of its own."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from tasks.transfer.digests import crc32c
from tasks.transfer.volume.files import read_blocks, write_all, write_whole
from tasks.transfer.volume.proof import has_receipt, stem_of, vouches_truly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.transfer.manifest import Checkpoint


def take_over(
    checkpoint: Checkpoint, folder: Path, own_name: str, *, check_lease: Callable[[], object], sync: bool
) -> Checkpoint | None:
    """Have what a checkpoint vouches for in a file of one's own.

    Args:
        checkpoint: the other attempt's.
        folder: of the plan.
        own_name: the file's.
        check_lease: asked right before the other one's file is removed; what it raises ends this.
        sync: what was on disk is to stay so.

    Returns:
        The checkpoint that takes the other's place on the volume, and names the own file; None: it was not true.

    Raises:
        OSError: the volume does not work.
    """
    own = folder / own_name
    if checkpoint.is_left:
        return _take_file(checkpoint, folder, own, sync=sync)
    return _take_copy(checkpoint, folder, own, check_lease)


def _take_file(checkpoint: Checkpoint, folder: Path, own: Path, *, sync: bool) -> Checkpoint | None:
    try:
        # A rename has one winner: two attempts never append to one file.
        (folder / checkpoint.file_name).rename(own)
    except FileNotFoundError:
        return None
    if not vouches_truly(checkpoint, own, 0):
        own.unlink()
        return None
    # At once: killed before its next checkpoint, this attempt would leave one that names no file.
    return _write(checkpoint, folder, own, is_left=False, sync=sync and checkpoint.is_synced)


def _take_copy(
    checkpoint: Checkpoint, folder: Path, own: Path, check_lease: Callable[[], object]
) -> Checkpoint | None:
    """Copy what a checkpoint vouches for that was left underway: its writer may live, and write or cut its file."""
    source = folder / checkpoint.file_name
    copied_bytes = crc = 0
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(FileNotFoundError):
            for block in read_blocks(source, 0, checkpoint.length_bytes):
                write_all(fd, block, copied_bytes)
                crc = crc32c(block, crc)
                copied_bytes += len(block)
        check_lease()
    except BaseException:
        own.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    if (copied_bytes, crc) != (checkpoint.length_bytes, checkpoint.crc32c):
        return None
    checkpoint = _write(checkpoint, folder, own, is_synced=False)
    # If its writer lives, it finds out by this that it was taken over, and ends. Unless it has completed it meanwhile:
    # a merge may be reading that.
    if not has_receipt(folder, checkpoint.number, checkpoint.start, source.name):
        source.unlink(missing_ok=True)
    return checkpoint


def _write(
    checkpoint: Checkpoint, folder: Path, own: Path, *, sync: bool = False, **changed: bool
) -> Checkpoint:
    checkpoint = checkpoint.model_copy(update={"file_name": own.name, **changed})
    path = folder / f"{stem_of(checkpoint.number, checkpoint.start)}.checkpoint"
    write_whole(path, checkpoint.model_dump_json(), sync=sync)
    return checkpoint
