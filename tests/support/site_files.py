"""The files of `support.sites`, each reachable under every path of the site."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.files import MIB
from support.passwords import write_htdigest, write_htpasswd
from support.sites import PASSWORD, USER

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = MIB
DATA_CHUNKS = 6  #: of data.bin
SIZES_BYTES = {
    "0": 0,
    "1": 1,
    "chunk-1": CHUNK_BYTES - 1,
    "chunk": CHUNK_BYTES,
    "chunk+1": CHUNK_BYTES + 1,
}
SPECIAL_NAME = "späße & 100% #1.bin"  #: what a URL has to quote

_FOLDERS = (
    "private", "digest", "digest-sha256", "compressed", "forced", "precompressed", "labelled", "named", "slow"
)  # fmt: skip


@dataclass
class SiteFiles:
    folder: Path  #: what servers have as their root
    passwords: Path
    digests: dict[str, str] = field(default_factory=dict)  #: name -> SHA-256
    sizes_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.write_bytes(content)
        # Apache calls the ETag of a file that changed a second ago weak.
        changed = 1_600_000_000 + len(self.digests)
        os.utime(path, (changed, changed))
        for folder in _FOLDERS:
            os.link(path, self.folder / folder / name)
        self.digests[name] = hashlib.sha256(content).hexdigest()
        self.sizes_bytes[name] = len(content)


def make_site_files(top: Path) -> SiteFiles:
    """Write them below `top`, which servers must be able to enter."""
    files = SiteFiles(top / "documents", top / "passwords")
    for folder in (files.folder, files.passwords, *(files.folder / name for name in _FOLDERS)):
        folder.mkdir(mode=0o755)
    chance = random.Random(29)
    lines = [f"{number} {chance.random()} line of a text\n" for number in range(100_000)]
    text = "".join(lines).encode()
    tar = _tar_gz(chance.randbytes(3 * MIB + 5))
    files.add("data.bin", chance.randbytes((DATA_CHUNKS - 1) * CHUNK_BYTES + 7))
    files.add("text.txt", text)
    files.add("text.json", b'["' + text.replace(b"\n", b'",\n"') + b'"]')
    files.add("text.txt.gz", gzip.compress(text, mtime=0))
    files.add("x.tar.gz", tar)
    files.add(SPECIAL_NAME, chance.randbytes(2 * MIB + 1))
    for name, size_bytes in SIZES_BYTES.items():
        files.add(name, chance.randbytes(size_bytes))
    write_htpasswd(files.passwords / "htpasswd", USER, PASSWORD)
    write_htdigest(files.passwords / "htdigest", USER, PASSWORD)
    write_htdigest(files.passwords / "htdigest-sha256", USER, PASSWORD, "sha256")
    return files


def _tar_gz(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("content")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
