"""What a disk failed to take, and what reads well from memory all the same: it is not gone on from."""

from __future__ import annotations

import random

import pytest

from support.disks import disk
from support.files import MIB
from support.manifests import manifest_of_file
from tasks.transfer.errors import VolumeError
from tasks.transfer.manifest import LayoutName
from tasks.transfer.merge_parts import Merged, merge_parts
from tasks.transfer.volume import Volume

CONTENT = random.Random(5).randbytes(8 * MIB)
LOST_BYTES = 5 * MIB


@pytest.fixture
def disks(tmp_path):
    """A thin disk, and the one below it."""
    below_folder, folder = tmp_path / "below", tmp_path / "volume"
    below_folder.mkdir()
    folder.mkdir()
    # xfs goes on after such a failure; others become read-only.
    with disk("tmpfs", below_folder, tmp_path) as below, disk("xfs", folder, below_folder) as its:
        yield its, below


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_bytes_that_a_disk_did_not_take_are_written_again(disks, layout):
    its, below = disks
    volume = Volume(its.folder)
    manifest = manifest_of_file(len(CONTENT), chunk_size_bytes=len(CONTENT), layout=layout)
    folder = volume.job(manifest.job_id)
    folder.create()
    assert folder.write_first_manifest(manifest)
    below.fill()
    with folder.open_part(manifest, manifest.chunk(0)) as part:
        part.write(CONTENT[:LOST_BYTES])
        part.keep_pace("h")
        with pytest.raises(VolumeError, match="orchestrator resume"):
            part.save("h")
    below.make_space()
    with folder.open_part(manifest, manifest.chunk(0)) as part:
        part.write(CONTENT[part.done_bytes :])
        part.complete("h")
    assert isinstance(merge_parts(volume, manifest), Merged)
    # From the disk, not from memory.
    its.unmount()
    its.mount()
    assert (its.folder / "file.bin").read_bytes() == CONTENT
