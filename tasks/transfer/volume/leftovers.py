"""What is on the volume besides published files: folders of jobs, and what writers left that died."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from typing import TYPE_CHECKING

from tasks.transfer.volume.files import volume_errors
from tasks.transfer.volume.root import FOLDER_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.transfer.volume.root import Volume

#: A job's folder that is being removed, or whose remover died.
_REMOVED = re.compile(r"removed\.[0-9a-f]{12}\.[0-9a-f]{8}", re.ASCII)
#: A folder on its way to be that of all jobs.
_NEW_FOLDER = re.compile(re.escape(FOLDER_NAME) + r"\.[0-9a-f]{8}\.new", re.ASCII)
#: A reservation on its way, or aside.
_NEW_RESERVATION = re.compile(r"[0-9a-f]{32}(?:\.[0-9a-f]{8}(?:\.new|\.first)?)+", re.ASCII)
_BLOCK_BYTES = 512  # of st_blocks, whatever the filesystem's own are


class Leftovers:
    """What is left on one volume. Of symbolic links, which are nobody's here, nothing is followed or removed."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._root = volume.root
        self._folder = volume.root / FOLDER_NAME

    def now(self) -> float | None:
        """The volume's own time, in seconds since the epoch, which may not be this host's; None: nothing is here."""
        with volume_errors(self._folder), contextlib.suppress(FileNotFoundError):
            if self._folder.is_symlink():
                return None
            os.utime(self._folder)
            return self._folder.stat().st_mtime
        return None

    def job_ids(self) -> list[str]:
        """The jobs that have a folder."""
        return [job_id for job_id in self._volume.job_ids() if _is_folder(self._folder / job_id)]

    def debris(self, *, before: float) -> list[Path]:
        """What writers and removers left that died: half removed folders, and temporary files not touched since."""
        new = [path for path in _entries(self._root, _NEW_FOLDER) if _is_folder(path)]
        new += _entries(self._folder / "reserved", _NEW_RESERVATION)
        removed = [path for path in _entries(self._folder, _REMOVED) if _is_folder(path)]
        return [*removed, *(path for path in new if _touched_at(path) < before)]

    def bytes_of(self, path: Path) -> int:
        """How many bytes the volume gets back if this is removed: those of a published file stay."""
        total = 0
        for each in (path, *path.rglob("*")):
            with contextlib.suppress(OSError):
                stat = each.lstat()
                total += stat.st_blocks * _BLOCK_BYTES if stat.st_nlink == 1 else 0
        return total

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all in it; harmless if it is gone."""
        with contextlib.suppress(OSError):
            if _is_folder(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the folders of all jobs if they are empty."""
        for path in (self._folder / "reserved", self._folder):
            with contextlib.suppress(OSError):
                path.rmdir()


def _entries(folder: Path, names: re.Pattern[str]) -> list[Path]:
    with volume_errors(folder), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [path for path in folder.iterdir() if names.fullmatch(path.name)]
    return []


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _touched_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf
