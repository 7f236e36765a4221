"""A chunk that several workers bring together: what one has not fetched yet, another takes over."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from support.manifests import manifest_of_file
from support.origin import Origin, origin
from tasks.transfer.attempt import Attempt, AttemptStopped
from tasks.transfer.digests import crc32c
from tasks.transfer.errors import DestinationExists, OriginBusy, VolumeMissing
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.manifest import JobSpec, LayoutName, SourceRequest, Span
from tasks.transfer.merge_parts import Incomplete, Merged, merge_parts
from tasks.transfer.volume import Volume
from tasks.transfer.volume.part_writer import PartWriter

KIB = 1024
CONTENT = random.Random(3).randbytes(1000 * KIB + 7)
CHUNK_BYTES = 400 * KIB


@pytest.fixture(params=[LayoutName.PARTS, LayoutName.SHARED])
def job(request, tmp_path):
    with origin(CONTENT) as served:
        yield _Job(tmp_path, served, request.param)


class _Job:
    def __init__(self, root, served: Origin, layout):
        self.served = served
        self.volume = Volume(root)
        self.source = Source(SourceRequest(url=served.url), HttpLimits())
        self.manifest = manifest_of_file(
            len(CONTENT),
            source_name=self.source.name,
            chunk_size_bytes=CHUNK_BYTES,
            layout=layout,
            spec=JobSpec(sync=False),
        )
        self.folder = self.volume.job("0123456789ab")
        self.folder.create()
        assert self.folder.write_first_manifest(self.manifest)
        self.count = 0

    def fetch(self, number, span=None, *, cut_bytes=None):
        self.count += 1
        attempt = Attempt(f"a{self.count}")
        attempt.cut_bytes = cut_bytes
        chunk = self.manifest.chunk(number)
        return fetch_chunk(self.source, self.folder, self.manifest, chunk, attempt, "h", span=span)

    def merged(self):
        merged = merge_parts(self.volume, self.manifest)
        assert isinstance(merged, Merged)
        assert merged.crc32c == crc32c(CONTENT)
        return merged.path.read_bytes()

    def fetch_others(self, number):
        for other in range(3):
            if other != number:
                self.fetch(other)


def test_a_cut_chunk_and_its_rest_are_joined(job):
    assert not job.fetch(0, cut_bytes=128 * KIB).proven.is_whole
    assert job.fetch(0, Span(0, 128 * KIB)).proven.is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT
    # Nothing was fetched twice, but what was on its way when the first connection was closed.
    assert "bytes=131072-409599" in job.served.requests


def test_the_rest_may_be_there_first(job):
    assert not job.fetch(0, Span(0, 320 * KIB)).proven.is_whole
    assert not job.fetch(0, Span(0, 64 * KIB, 320 * KIB)).proven.is_whole
    assert job.fetch(0, cut_bytes=64 * KIB).proven.is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_a_rest_that_nobody_brought_is_missing_and_fetched_again(job):
    job.fetch(0, cut_bytes=128 * KIB)
    job.fetch(0, Span(0, 256 * KIB))  # between the two there is a gap
    job.fetch_others(0)
    missing = merge_parts(job.volume, job.manifest)
    assert isinstance(missing, Incomplete)
    assert [chunk.number for chunk in missing.chunks] == [0]
    assert not (job.volume.root / "file.bin").exists()
    assert job.fetch(0).proven.is_whole
    assert job.merged() == CONTENT


def test_a_cut_that_comes_too_late_harms_nothing(job):
    job.served.gate.clear()
    attempt = Attempt("late")
    chunk = job.manifest.chunk(0)
    done = []
    first = threading.Thread(
        target=lambda: done.append(
            fetch_chunk(job.source, job.folder, job.manifest, chunk, attempt, "h", span=None)
        )
    )
    first.start()
    job.served.gate.set()
    attempt.cut_bytes = 1  # it is past that
    first.join(30)
    job.fetch(0, Span(0, 64 * KIB))
    assert done[0].proven.is_whole or job.fetch(0).proven.is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_what_was_written_beyond_a_cut_is_given_up(job):
    """A slow one that hears of a cut too late would have the job wait until it has the rest, too."""
    chunk = job.manifest.chunk(0)
    with job.folder.open_part(job.manifest, chunk) as part:
        part.write(CONTENT[: 300 * KIB])
        part.cut_to(128 * KIB)
        assert part.is_whole
        receipt = part.complete("h")
    assert (receipt.length_bytes, receipt.crc32c) == (128 * KIB, crc32c(CONTENT[: 128 * KIB]))
    assert receipt.brought_bytes == {"h": 128 * KIB}
    assert job.fetch(0, Span(0, 128 * KIB)).proven.is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_what_an_earlier_attempt_has_left_is_not_given_up(job):
    chunk = job.manifest.chunk(0)
    with job.folder.open_part(job.manifest, chunk) as part:
        part.write(CONTENT[: 200 * KIB])
        part.save("g")
    with job.folder.open_part(job.manifest, chunk) as part:
        part.cut_to(128 * KIB)
        assert part.left_bytes == 200 * KIB
        part.write(CONTENT[200 * KIB : CHUNK_BYTES])
        part.complete("h")
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_who_comes_second_leaves_the_receipt_that_proves_as_much(job):
    """The first one's file is gone by then, in the layout of parts: the other has copied what was there of it."""
    chunk, seconds = job.manifest.chunk(0), [0.0]
    plan_folder = job.folder._plan_folder(job.manifest)
    with PartWriter(plan_folder, job.manifest, chunk, clock=lambda: seconds[0]) as slow:
        slow.write(CONTENT[: 100 * KIB])
        seconds[0] = 60.0
        slow.keep_pace("slow")
        assert job.fetch(0).proven.is_whole
        slow.write(CONTENT[100 * KIB : CHUNK_BYTES])
        assert set(slow.complete("slow").brought_bytes) == {"slow", "h"}
    assert job.folder.proven(job.manifest, chunk).is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_who_was_cut_leaves_the_receipt_of_who_brought_all(job):
    chunk = job.manifest.chunk(0)
    with job.folder.open_part(job.manifest, chunk) as slow:
        slow.write(CONTENT[: 100 * KIB])
        assert job.fetch(0).proven.is_whole
        slow.cut_to(128 * KIB)
        slow.write(CONTENT[100 * KIB : 128 * KIB])
        slow.complete("slow")
    assert job.folder.proven(job.manifest, chunk).is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_who_was_taken_over_underway_leaves_nothing_and_ends(job):
    """Before, it failed the job: a cut had it read its own file, which the other one had removed."""
    chunk, seconds = job.manifest.chunk(0), [0.0]
    plan_folder = job.folder._plan_folder(job.manifest)
    is_shared = job.manifest.layout is LayoutName.SHARED
    ends = contextlib.nullcontext() if is_shared else pytest.raises(AttemptStopped, match="taken")
    with PartWriter(plan_folder, job.manifest, chunk, clock=lambda: seconds[0]) as slow:
        slow.write(CONTENT[: 100 * KIB])
        seconds[0] = 60.0
        slow.keep_pace("slow")
        with job.folder.open_part(job.manifest, chunk) as quick:
            assert quick.done_bytes == 100 * KIB
            slow.write(CONTENT[100 * KIB : 300 * KIB])
            seconds[0] = 120.0
            with ends:
                slow.keep_pace("slow")
            slow.cut_to(200 * KIB)
            assert slow.is_whole
            if not is_shared:
                slow.save("slow")
                with pytest.raises(AttemptStopped, match="taken"):
                    slow.complete("slow")
            quick.write(CONTENT[100 * KIB : 150 * KIB])
            quick.save("quick")
    with job.folder.open_part(job.manifest, chunk) as part:
        assert part.done_bytes == (300 if is_shared else 150) * KIB
    assert job.fetch(0).proven.is_whole
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_what_is_completed_while_another_takes_it_over_stays(job):
    """Its file was removed under its receipt, and a merge that had seen that failed the job."""
    chunk, seconds, asked = job.manifest.chunk(0), [0.0], []
    plan_folder = job.folder._plan_folder(job.manifest)
    with PartWriter(plan_folder, job.manifest, chunk, clock=lambda: seconds[0]) as slow:
        slow.write(CONTENT[: 300 * KIB])
        seconds[0] = 60.0
        slow.keep_pace("slow")

        def complete_meanwhile():
            asked.append(None)
            if len(asked) == 2:
                slow.write(CONTENT[300 * KIB : CHUNK_BYTES])
                slow.complete("slow")

        with PartWriter(plan_folder, job.manifest, chunk, check_lease=complete_meanwhile) as quick:
            quick.write(CONTENT[300 * KIB : CHUNK_BYTES])
            assert job.folder.proven(job.manifest, chunk).is_whole
            assert quick.complete("quick").brought_bytes == {"slow": CHUNK_BYTES}
    job.fetch_others(0)
    assert job.merged() == CONTENT


@pytest.mark.parametrize("job", [LayoutName.PARTS], indirect=True)
def test_who_is_taken_over_while_it_takes_over_makes_no_file_that_begins_with_zeros(job):
    """Its receipt, of what it thinks to be on disk, would be believed without a look."""
    chunk, seconds, asked = job.manifest.chunk(0), [0.0], []
    plan_folder = job.folder._plan_folder(job.manifest)

    def be_taken_over():
        asked.append(None)
        if len(asked) == 3:
            with job.folder.open_part(job.manifest, chunk) as third:
                assert third.done_bytes == 300 * KIB

    with PartWriter(plan_folder, job.manifest, chunk, clock=lambda: seconds[0]) as slow:
        slow.write(CONTENT[: 300 * KIB])
        seconds[0] = 60.0
        slow.keep_pace("slow")
        with pytest.raises(AttemptStopped, match="taken"):
            PartWriter(plan_folder, job.manifest, chunk, check_lease=be_taken_over)
    with job.folder.open_part(job.manifest, chunk) as part:
        assert part.done_bytes == 300 * KIB
        part.write(CONTENT[300 * KIB : CHUNK_BYTES])
        part.complete("h")
    job.fetch_others(0)
    assert job.merged() == CONTENT


@pytest.mark.parametrize("job", [LayoutName.PARTS], indirect=True)
@pytest.mark.parametrize("is_brought_again", [False, True])
def test_a_part_whose_file_goes_away_under_a_merge_is_missing(job, is_brought_again):
    for number in range(3):
        job.fetch(number)
    (receipt,) = job.folder.proven(job.manifest, job.manifest.chunk(2)).receipts
    path = job.folder._plan_folder(job.manifest) / receipt.file_name

    def take_away():
        if path.exists():
            path.unlink()
            if is_brought_again:
                job.fetch(2)

    result = merge_parts(job.volume, job.manifest, check=take_away)
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == ([] if is_brought_again else [2])
    job.fetch(2)
    assert job.merged() == CONTENT


@pytest.mark.parametrize("job", [LayoutName.PARTS], indirect=True)
def test_a_merge_says_so_when_all_goes_away_under_it(job):
    for number in range(3):
        job.fetch(number)
    with pytest.raises(VolumeMissing):
        merge_parts(job.volume, job.manifest, check=job.folder.remove)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_cut_and_taken_over_in_whatever_order_is_the_file(job, seed):
    chance = random.Random(seed)
    for _ in range(8):
        number = chance.randrange(3)
        length_bytes = job.manifest.chunk(number).length_bytes
        start, stop = sorted(chance.sample(range(0, length_bytes, 16 * KIB), 2))
        cut_bytes = chance.choice([None, (stop - start) // 2])
        job.fetch(number, Span(number, start, stop), cut_bytes=cut_bytes)
    for _ in range(50):
        result = merge_parts(job.volume, job.manifest)
        if isinstance(result, Merged):
            break
        for chunk in result.chunks:
            job.fetch(chunk.number)
    assert job.merged() == CONTENT


def test_an_attempt_that_comes_back_to_a_span_and_fails_does_not_take_its_bytes_away(job):
    attempt, chunk = Attempt("a"), job.manifest.chunk(0)
    fetch_chunk(job.source, job.folder, job.manifest, chunk, attempt, "h", span=Span(0, 0, 128 * KIB))
    job.served.statuses = [503]
    with pytest.raises(OriginBusy):
        fetch_chunk(job.source, job.folder, job.manifest, chunk, attempt, "h", span=Span(0, 0, 192 * KIB))
    job.fetch(0, Span(0, 128 * KIB))
    job.fetch_others(0)
    assert job.merged() == CONTENT


def test_an_attempt_at_a_whole_chunk_counts_its_own_span_only(job):
    job.fetch(0, cut_bytes=128 * KIB)
    job.fetch(0, Span(0, 128 * KIB))
    for span, count_bytes in ((None, 128 * KIB), (Span(0, 128 * KIB), CHUNK_BYTES - 128 * KIB)):
        attempt = Attempt("late")
        brought = fetch_chunk(
            job.source, job.folder, job.manifest, job.manifest.chunk(0), attempt, "h", span=span
        )
        assert brought.proven.is_whole
        assert attempt.done_bytes == count_bytes
        assert attempt.brought_bytes == 0


def test_a_merge_that_another_one_overtook_is_content_with_its_file(job):
    for number in range(3):
        job.fetch(number)

    def another_is_quicker():
        assert isinstance(merge_parts(job.volume, job.manifest), Merged)
        return True

    merged = merge_parts(job.volume, job.manifest, may_publish=another_is_quicker)
    assert isinstance(merged, Merged)
    assert merged.path.read_bytes() == CONTENT


def test_a_merge_does_not_take_a_file_of_somebody_elses_for_its_own(job):
    for number in range(3):
        job.fetch(number)

    def somebody_is_quicker():
        (job.volume.root / "file.bin").write_bytes(b"mine")
        return True

    with pytest.raises(DestinationExists):
        merge_parts(job.volume, job.manifest, may_publish=somebody_is_quicker)
    assert (job.volume.root / "file.bin").read_bytes() == b"mine"
