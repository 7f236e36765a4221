"""Files with contents that tell where they came from."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from support.tools import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


def make_file(path: Path, size_bytes: int, *, seed: int = 1) -> str:
    """Write a file whose every MiB differs, and return its SHA-256."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        left_bytes = size_bytes
        while left_bytes:
            block = chance.randbytes(min(MIB, left_bytes))
            digest.update(block)
            file.write(block)
            left_bytes -= len(block)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leftovers(volume: Path) -> list[str]:
    """What a volume has besides published files: what is in the orchestrator's own folder, and the folder."""
    folder = volume / ".orchestrator"
    try:
        return [folder.name, *sorted(path.name for path in folder.iterdir())]
    except FileNotFoundError:
        return []


def wait_until_clean(volume: Path) -> None:
    """Wait until nothing but published files is left: a job is complete a moment before it is cleaned up."""
    wait_until(lambda: leftovers(volume) == [], what="a volume without leftovers")


class Endless:
    """Contents of any length that take no memory: whoever slices them gets one block again and again."""

    def __init__(self, length_bytes: int, *, seed: int = 1) -> None:
        self._length_bytes = length_bytes
        self._block = random.Random(seed).randbytes(64 * 1024)

    def __len__(self) -> int:
        return self._length_bytes

    def __getitem__(self, index: slice) -> bytes:
        """Bytes from one place to another within a block."""
        begin = index.start % len(self._block)
        return (self._block * 2)[begin : begin + index.stop - index.start]
