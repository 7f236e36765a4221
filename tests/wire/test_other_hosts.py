"""What a host has open of the volume, and another one removes or replaces, where that ends it: on NFS."""

from __future__ import annotations

import random
import threading

import pytest

from support.manifests import JOB_ID, manifest_of_file
from support.stale_volume import hosts_of
from tasks.transfer.attempt import AttemptStopped
from tasks.transfer.digests import crc32c
from tasks.transfer.errors import DestinationBusy, VolumeFull
from tasks.transfer.manifest import Followed, JobSpec, LayoutName
from tasks.transfer.merge_parts import Incomplete, Merged, merge_parts
from tasks.transfer.volume import Volume
from tasks.transfer.volume.part_writer import PartWriter

KIB = 1024
CONTENT = random.Random(4).randbytes(1000 * KIB + 7)
CHUNK_BYTES = 600 * KIB


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "volume").mkdir()
    # What a host knows of names, it knows to the end of a test.
    with hosts_of(folder / "volume", folder, known_seconds=600) as views:
        yield views


@pytest.fixture
def hosts(views, tmp_path):
    folder = views[0].volume / tmp_path.name
    folder.mkdir()
    return [_Host(view.folder / folder.name) for view in views]


class _Host:
    def __init__(self, root):
        self.volume = Volume(root)
        self.folder = self.volume.job(JOB_ID)
        self.seconds = 0.0

    def plan(self, *, sync=False, layout=LayoutName.PARTS):
        manifest = manifest_of_file(
            len(CONTENT),
            chunk_size_bytes=CHUNK_BYTES,
            layout=layout,
            spec=JobSpec(sync=sync),
        )
        self.folder.create()
        assert self.folder.write_first_manifest(manifest)
        return manifest

    def part(self, manifest, number=0):
        plan_folder = self.folder._plan_folder(manifest)
        return PartWriter(plan_folder, manifest, manifest.chunk(number), clock=lambda: self.seconds)

    def keep_pace(self, part):
        self.seconds += 60
        part.keep_pace("h")

    def bring(self, manifest, number):
        chunk = manifest.chunk(number)
        with self.part(manifest, number) as part:
            part.write(CONTENT[chunk.start + part.done_bytes : chunk.start + chunk.length_bytes])
            return part.complete("h")


def _write(host, slow):
    slow.write(CONTENT[300 * KIB : 400 * KIB])


def _leave_a_checkpoint(host, slow):
    host.keep_pace(slow)


def _be_cut(host, slow):
    slow.cut_to(200 * KIB)


def _complete(host, slow):
    slow.complete("slow")


def _save(host, slow):
    slow.save("slow")


def _close(host, slow):
    pass


def _be_taken_over(host, manifest, other, goes_on):
    """Have another host take a part over, and go on as if nothing had happened."""
    with host.part(manifest) as slow:
        slow.write(CONTENT[: 100 * KIB])
        host.keep_pace(slow)
        slow.write(CONTENT[100 * KIB : 300 * KIB])
        with other.part(manifest) as quick:
            assert quick.done_bytes == 100 * KIB
            quick.write(CONTENT[100 * KIB : 150 * KIB])
            quick.save("quick")
        goes_on(host, slow)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("goes_on", [_write, _leave_a_checkpoint, _be_cut, _complete, _save, _close])
def test_who_was_taken_over_by_another_host_ends_and_harms_nothing(hosts, goes_on, sync):
    one, other = hosts
    manifest = one.plan(sync=sync)
    with pytest.raises(AttemptStopped, match="taken"):
        _be_taken_over(one, manifest, other, goes_on)
    with other.part(manifest) as part:
        assert part.done_bytes == 150 * KIB
    other.bring(manifest, 0)
    other.bring(manifest, 1)
    merged = merge_parts(other.volume, manifest)
    assert isinstance(merged, Merged)
    assert merged.crc32c == crc32c(CONTENT)
    assert merged.path.read_bytes() == CONTENT


def test_a_part_is_missing_that_another_host_has_removed_since_it_was_there(hosts):
    """Who takes over what is completed meanwhile removes a file that a receipt names; a merge may have seen that."""
    one, other = hosts
    manifest = one.plan()
    one.bring(manifest, 0)
    receipt = one.bring(manifest, 1)
    assert other.folder.missing(manifest) == []
    (one.folder._plan_folder(manifest) / receipt.file_name).unlink()
    result = merge_parts(other.volume, manifest)
    assert isinstance(result, Incomplete)
    assert result.chunks == [manifest.chunk(1)]


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_what_a_full_volume_refuses_when_a_file_is_closed_has_no_receipt(hosts, views, layout):
    """Without sync: a receipt of this host's is believed here without a look, and the job may be resumed."""
    one, _ = hosts
    manifest = one.plan(layout=layout)
    views[0].full_mark.touch()
    try:
        with one.part(manifest) as part:
            part.write(CONTENT[:CHUNK_BYTES])
            with pytest.raises(VolumeFull):
                part.complete("h")
    except VolumeFull:
        pass  # it is told again at the end
    finally:
        views[0].full_mark.unlink()
    assert one.folder.missing(manifest)[0] == manifest.chunk(0)
    one.bring(manifest, 0)
    one.bring(manifest, 1)
    assert isinstance(merge_parts(one.volume, manifest), Merged)


def test_what_another_host_removes_while_it_is_read_ends_there(hosts):
    one, other = hosts
    manifest = one.plan()
    receipt = one.bring(manifest, 0)
    blocks = one.folder.blocks_of(manifest, receipt)
    length_bytes = len(next(blocks))
    other.folder.remove()
    assert length_bytes + sum(len(block) for block in blocks) < receipt.length_bytes


def test_what_another_host_replaces_is_read_whole(hosts):
    """A small file that has another version by now: the one that was opened is none any more."""
    one, other = hosts
    manifest = one.plan()
    writes, is_over = [], threading.Event()

    def replace():
        while not is_over.is_set():
            followed = Followed(receipts_id="0" * 64, length_bytes=len(writes), digests={})
            other.folder.write_followed(manifest, followed)
            other.folder.write_manifest(manifest)
            with other.part(manifest) as part:
                part.write(CONTENT[: 10 * KIB])
                part.save("h")
            writes.append(followed)

    def is_read():
        assert one.folder.read_manifest() == manifest
        one.folder.read_followed(manifest)
        one.folder.kept_bytes(manifest)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        while len(writes) < 50 and thread.is_alive():
            is_read()
    finally:
        is_over.set()
        thread.join()
    assert len(writes) >= 50


def test_a_destination_is_reserved_on_hosts_that_call_the_volume_otherwise_too(tmp_path):
    here, there = tmp_path / "mnt", tmp_path / "data" / "shared"
    here.mkdir()
    there.parent.mkdir()
    assert Volume(here).reserve("a/big.bin", JOB_ID, is_active=lambda _: True) is None
    here.rename(there)
    with pytest.raises(DestinationBusy):
        Volume(there).reserve("a/big.bin", "b" * 12, is_active=lambda _: True)
