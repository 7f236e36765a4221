"""What a killed worker leaves, and how far that is believed: by a checkpoint's CRC, where the bytes may be lost."""

from __future__ import annotations

import contextlib
import json
import random

import pytest

from support.files import MIB
from support.manifests import manifest_of_file
from tasks.transfer.attempt import AttemptStopped
from tasks.transfer.digests import crc32c
from tasks.transfer.manifest import JobSpec, LayoutName
from tasks.transfer.merge_parts import Incomplete, Merged, merge_parts
from tasks.transfer.volume import PartWriter, Volume

CONTENT = random.Random(5).randbytes(10 * MIB)
CHUNK_BYTES = 5 * MIB
BLOCK_BYTES = 256 * 1024


@pytest.fixture(params=[LayoutName.PARTS, LayoutName.SHARED])
def job(request, tmp_path):
    return _Job(tmp_path, request.param)


class _Job:
    def __init__(self, root, layout):
        self.volume = Volume(root)
        self.manifest = manifest_of_file(
            len(CONTENT), chunk_size_bytes=CHUNK_BYTES, layout=layout, spec=JobSpec(sync=False)
        )
        self.folder = self.volume.job("0123456789ab")
        self.folder.create()
        assert self.folder.write_first_manifest(self.manifest)
        self.seconds = 0.0

    @property
    def plan_folder(self):
        (folder,) = self.folder.path.glob("plan-*")
        return folder

    def open(self, number=0, *, sync=False):
        """An attempt; one that is never closed was killed."""
        manifest = self.manifest.model_copy(update={"spec": JobSpec(sync=sync)})
        return PartWriter(self.plan_folder, manifest, manifest.chunk(number), clock=lambda: self.seconds)

    def bring(self, part, stop, *, number=0):
        """Write up to there, as a reading thread does."""
        start = number * CHUNK_BYTES
        while part.done_bytes < stop:
            size = min(BLOCK_BYTES, stop - part.done_bytes)
            part.write(CONTENT[start + part.done_bytes : start + part.done_bytes + size])
            part.keep_pace("h")

    def complete(self, number, *, sync=False):
        with self.open(number, sync=sync) as part:
            self.bring(part, CHUNK_BYTES, number=number)
            part.complete("h")

    def change(self, name, **fields):
        """Change a receipt or a checkpoint on the volume."""
        path = self.plan_folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    def damage(self, name):
        """What a crash of the host does to bytes that were not synced: zeros, and the length as it was."""
        state = json.loads((self.plan_folder / name).read_text())
        with (self.plan_folder / state["file_name"]).open("r+b") as file:
            file.seek(MIB)
            file.write(bytes(4096))

    def merged(self):
        merged = merge_parts(self.volume, self.manifest)
        assert isinstance(merged, Merged)
        assert merged.crc32c == crc32c(CONTENT)
        return merged.path.read_bytes()


def test_a_killed_attempt_leaves_all_but_the_last_two_mib(job):
    job.bring(job.open(), 5 * MIB - BLOCK_BYTES)
    with job.open() as part:
        assert part.done_bytes == 4 * MIB
        job.bring(part, CHUNK_BYTES)
        assert part.complete("h").brought_bytes == {"h": CHUNK_BYTES}
    job.complete(1)
    assert job.merged() == CONTENT


def test_of_a_slow_connection_there_is_a_checkpoint_after_two_seconds(job):
    part = job.open()
    job.bring(part, BLOCK_BYTES)
    assert not list(job.plan_folder.glob("*.checkpoint"))
    job.seconds = 2.0
    job.bring(part, 2 * BLOCK_BYTES)
    assert job.open().done_bytes == 2 * BLOCK_BYTES


def test_a_volume_that_is_slow_at_checkpoints_gets_fewer(job):
    part = job.open()
    write = part._write_checkpoint
    written = []

    def slowly(checkpoint, **options):
        write(checkpoint, **options)
        job.seconds += 1.0  # as a far server may take
        written.append(checkpoint.length_bytes)

    part._write_checkpoint = slowly
    for stop in range(BLOCK_BYTES, CHUNK_BYTES, BLOCK_BYTES):
        job.bring(part, stop)
        job.seconds += 1.0
    # The second not before 10 s after the first.
    assert written == [3 * BLOCK_BYTES, 13 * BLOCK_BYTES]


def test_one_checkpoint_that_took_long_does_not_make_a_slow_volume(job):
    part = job.open()
    write = part._write_checkpoint
    costs = iter([0.0001, 1.0, 0.0001, 0.0001])

    def once_slowly(checkpoint, **options):
        write(checkpoint, **options)
        job.seconds += next(costs)

    part._write_checkpoint = once_slowly
    for stop in range(BLOCK_BYTES, CHUNK_BYTES, BLOCK_BYTES):
        job.bring(part, stop)
        job.seconds += 0.01
    assert job.open().done_bytes == 4 * MIB


def test_an_attempt_that_lives_on_beside_its_successor_harms_nothing(job):
    first = job.open()
    job.bring(first, 3 * MIB)
    second = job.open()
    assert second.done_bytes == 2 * MIB
    job.bring(second, 4 * MIB)
    # The first one's rest was taken over, and it ends its file there.
    first.cut_to(3 * MIB + BLOCK_BYTES)
    job.bring(first, 3 * MIB + BLOCK_BYTES)
    is_shared = job.manifest.layout is LayoutName.SHARED
    with contextlib.nullcontext() if is_shared else pytest.raises(AttemptStopped, match="taken"):
        first.complete("h")
    job.bring(second, CHUNK_BYTES)
    second.complete("h")
    job.complete(1)
    assert job.merged() == CONTENT


def test_a_receipt_for_a_file_that_is_taken_over_while_it_is_written_proves_nothing(tmp_path):
    job = _Job(tmp_path, LayoutName.PARTS)
    first = job.open()
    job.bring(first, 3 * MIB)
    second = None

    def take_over():
        nonlocal second
        # Asked twice: before it looks whether it was taken over, and before it writes the receipt.
        if looks == ["first look"]:
            second = job.open()
        looks.append("first look")

    looks = []
    job.bring(first, CHUNK_BYTES)
    first._check_lease = take_over
    first.complete("h")
    assert second is not None
    assert second.done_bytes == 4 * MIB
    assert not job.folder.proven(job.manifest, job.manifest.chunk(0)).is_whole
    job.bring(second, CHUNK_BYTES)
    second.complete("h")
    job.complete(1)
    assert job.merged() == CONTENT


def test_an_attempt_that_ends_late_does_not_take_back_what_another_has_left_meanwhile(job):
    with job.open() as first:
        job.bring(first, MIB)
        with job.open() as second:
            job.bring(second, 3 * MIB)
            second.save("h")
        first.save("h")
    with job.open() as part:
        assert part.done_bytes == 3 * MIB
        job.bring(part, CHUNK_BYTES)
        part.complete("h")
    job.complete(1)
    assert job.merged() == CONTENT


def test_an_attempt_that_did_not_believe_a_checkpoint_leaves_its_own(job):
    with job.open() as first:
        job.bring(first, 3 * MIB)
        first.save("h")
    job.damage("00000.checkpoint")
    with job.open() as second:
        assert second.done_bytes == 0
        job.bring(second, MIB)
        second.save("h")
    assert job.open().done_bytes == MIB


LEFT = {"is_left": True}


@pytest.mark.parametrize(
    ("fields", "is_damaged", "kept_mib"),
    [
        ({}, False, 4),
        ({}, True, 0),
        (LEFT, False, 4),  # it was written back in time
        (LEFT, True, 0),
        ({**LEFT, "is_synced": True}, True, 4),  # synced bytes are not read again: this is what that means
    ],
)
def test_after_a_crash_of_the_host_unsynced_bytes_are_read_before_they_are_believed(
    job, fields, is_damaged, kept_mib
):
    job.bring(job.open(), 4 * MIB)
    if is_damaged:
        job.damage("00000.checkpoint")
    job.change("00000.checkpoint", **fields)
    with job.open() as part:
        assert part.done_bytes == kept_mib * MIB
        if fields.get("is_synced"):
            return
        job.bring(part, CHUNK_BYTES)
        part.complete("h")
    job.complete(1)
    assert job.merged() == CONTENT


def test_a_checkpoint_of_a_file_that_became_shorter_is_not_believed(tmp_path):
    job = _Job(tmp_path, LayoutName.PARTS)
    job.bring(job.open(), 4 * MIB)
    job.change("00000.checkpoint", is_left=True, is_synced=True)
    (file,) = job.plan_folder.glob("00000.????????????")
    with file.open("r+b") as part:
        part.truncate(3 * MIB)
    assert job.open().done_bytes == 0


@pytest.mark.parametrize(
    ("sync", "boot", "is_read"),
    [
        (False, "another/host", True),
        (False, None, True),
        (True, "another/host", False),
    ],
)
def test_the_merge_reads_what_a_crash_may_have_taken(job, sync, boot, is_read):
    job.complete(0, sync=sync)
    job.complete(1)
    job.change("00000.receipt", boot=boot)
    job.damage("00000.receipt")
    result = merge_parts(job.volume, job.manifest)
    if not is_read:
        assert isinstance(result, Merged)
        return
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [0]
    job.complete(0)
    assert job.merged() == CONTENT


def test_a_part_that_lost_its_end_is_fetched_again(tmp_path):
    job = _Job(tmp_path, LayoutName.PARTS)
    job.complete(0)
    job.complete(1)
    state = json.loads((job.plan_folder / "00001.receipt").read_text())
    with (job.plan_folder / state["file_name"]).open("r+b") as file:
        file.truncate(MIB)
    result = merge_parts(job.volume, job.manifest)
    assert isinstance(result, Incomplete)
    job.complete(1)
    assert job.merged() == CONTENT


@pytest.mark.parametrize("job", [LayoutName.SHARED], indirect=True)
@pytest.mark.parametrize("left_bytes", [0, 100, CHUNK_BYTES + 1, None])
def test_a_shared_file_that_was_cut_is_not_believed_when_it_is_gone_on_with(job, left_bytes):
    job.complete(0, sync=True)
    job.complete(1, sync=True)
    shared = job.plan_folder / "shared"
    if left_bytes is None:
        shared.unlink()
    else:
        with shared.open("r+b") as file:
            file.truncate(left_bytes)
    # Sent again; its last chunk would make it as long as before, with zeros where bytes are missing.
    again = job.manifest.model_copy(update={"generation": 2})
    job.folder.write_manifest(again)
    assert [chunk.number for chunk in job.folder.missing(again)] == [0, 1]
    job.complete(1)
    assert isinstance(merge_parts(job.volume, again), Incomplete)
    job.complete(0)
    assert isinstance(merge_parts(job.volume, again), Merged)
    assert (job.volume.root / "file.bin").read_bytes() == CONTENT


def test_a_receipt_with_a_number_that_is_no_crc_proves_nothing(job):
    job.complete(0)
    job.complete(1)
    job.change("00001.receipt", crc32c=2**32)
    result = merge_parts(job.volume, job.manifest)
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [1]


def test_a_receipt_that_names_another_file_proves_nothing(job):
    job.complete(0)
    job.complete(1)
    job.change("00001.receipt", file_name="00001.0123456789ab")
    result = merge_parts(job.volume, job.manifest)
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [1]
    job.complete(1)
    assert job.merged() == CONTENT
