"""What `support.crashes` runs and kills: the engine's use cases on a volume that the test prepared."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from support.files import MIB
from support.manifests import JOB_ID, manifest_of_file
from support.scripted import file_answer, scripted_server
from tasks.transfer.attempt import Attempt
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.manifest import LayoutName, SourceRequest
from tasks.transfer.merge_parts import Merged, merge_parts
from tasks.transfer.volume import Volume

CONTENT = random.Random(5).randbytes(3 * MIB + 5)
BLOCK_BYTES = 256 * 1024


def warm_up() -> None:
    """Run all once, so that no run loads a module."""
    with tempfile.TemporaryDirectory() as root, scripted_server(file_answer(CONTENT)) as server:
        for layout in (LayoutName.PARTS, LayoutName.SHARED):
            volume = Volume(Path(root))
            manifest = manifest_of_file(len(CONTENT), chunk_size_bytes=2 * MIB, layout=layout)
            volume.job(JOB_ID).create()
            volume.job(JOB_ID).write_first_manifest(manifest)
            write_in_two(root, "0")
            fetch(root, "1", server.url)
            merge(root)
            remove(root)
            (Path(root) / "file.bin").unlink()


def merge(root: str) -> None:
    volume = Volume(Path(root))
    manifest = volume.job(JOB_ID).read_manifest()
    assert manifest is not None
    assert isinstance(merge_parts(volume, manifest), Merged)


def remove(root: str) -> None:
    Volume(Path(root)).remove_job(JOB_ID)


def fetch(root: str, number: str, url: str) -> None:
    folder = Volume(Path(root)).job(JOB_ID)
    manifest = folder.read_manifest()
    assert manifest is not None
    source = Source(SourceRequest(url=url), HttpLimits())
    brought = fetch_chunk(source, folder, manifest, manifest.chunk(int(number)), Attempt("a"), "h")
    assert brought.proven.is_whole


def write_in_two(root: str, number: str) -> None:
    """Write a part by two attempts, the first of which saves what it has."""
    folder = Volume(Path(root)).job(JOB_ID)
    manifest = folder.read_manifest()
    assert manifest is not None
    chunk = manifest.chunk(int(number))
    if folder.proven(manifest, chunk).is_whole:
        return
    assert chunk.length_bytes is not None
    for stop in (chunk.length_bytes // 2, chunk.length_bytes):
        with folder.open_part(manifest, chunk) as part:
            while part.done_bytes < stop:
                offset = chunk.start + part.done_bytes
                part.write(CONTENT[offset : offset + min(BLOCK_BYTES, stop - part.done_bytes)])
            if part.is_whole:
                part.complete("h")
                return
            part.save("h")
