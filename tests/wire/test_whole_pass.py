"""The pass over all parts: what it finds, and when it need not be made."""

from __future__ import annotations

import hashlib
import random

import pytest

from support.manifests import manifest_of_file
from tasks.transfer.digests import crc32c
from tasks.transfer.errors import DigestMismatch
from tasks.transfer.manifest import Followed, JobSpec, LayoutName, Span
from tasks.transfer.merge_parts import Incomplete, Merged, merge_parts
from tasks.transfer.volume import Volume
from tasks.transfer.whole_pass import WholePass, digests_of_follower, expected_digests

KIB = 1024
CONTENT = random.Random(5).randbytes(1000 * KIB + 7)
CHUNK_BYTES = 400 * KIB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
CRC32C = f"{crc32c(CONTENT):08x}"
WRONG = "0" * 64


class _Job:
    """A job whose parts are written without an origin."""

    def __init__(self, root, layout=LayoutName.PARTS, offered=None, **spec):
        self.volume = Volume(root)
        self.manifest = manifest_of_file(
            len(CONTENT),
            source_name="http://h/file.bin",
            offered_digests=offered or {},
            chunk_size_bytes=CHUNK_BYTES,
            layout=layout,
            spec=JobSpec(sync=False, **spec),
        )
        self.folder = self.volume.job("0123456789ab")
        self.folder.create()
        assert self.folder.write_first_manifest(self.manifest)

    def bring(self, number, start=0, stop=None):
        chunk = self.manifest.chunk(number)
        stop = chunk.length_bytes if stop is None else stop
        with self.folder.open_part(self.manifest, chunk, Span(number, start, stop)) as part:
            part.start_over()
            part.write(CONTENT[chunk.start + start : chunk.start + stop])
            part.complete("h")

    def bring_all(self):
        for number in range(3):
            self.bring(number)
        return self

    def receipts(self):
        return [
            receipt
            for chunk in self.manifest.chunks()
            for receipt in self.folder.proven(self.manifest, chunk).receipts
        ]

    def file_of(self, receipt):
        path = self.folder.path / "plan-0123456789ab" / receipt.file_name
        is_shared = self.manifest.layout is LayoutName.SHARED
        return path, self.manifest.chunk(receipt.number).start + receipt.start if is_shared else 0

    def spoil(self, receipt, offset=100):
        """Change one byte on the volume."""
        path, base = self.file_of(receipt)
        with path.open("r+b") as file:
            file.seek(base + offset)
            byte = file.read(1)[0]
            file.seek(base + offset)
            file.write(bytes([byte ^ 1]))

    def next_generation(self):
        self.manifest = self.manifest.model_copy(update={"generation": self.manifest.generation + 1})
        self.folder.write_manifest(self.manifest)

    def follow(self, receipts):
        whole_pass = WholePass(self.folder, self.manifest)
        for receipt in receipts:
            for _ in whole_pass.read(receipt):
                pass
        return whole_pass.followed()

    def merge(self):
        return merge_parts(self.volume, self.manifest)

    @property
    def published(self):
        path = self.volume.root / "file.bin"
        return path.read_bytes() if path.exists() else None


@pytest.fixture(params=[LayoutName.PARTS, LayoutName.SHARED])
def job(request, tmp_path):
    return _Job(tmp_path, request.param, digests={"sha-256": SHA256}).bring_all()


OFFERED = {"crc32c": CRC32C, "sha-256": SHA256, "md5": MD5}


@pytest.mark.parametrize(
    ("offered", "spec", "expected"),
    [
        ({}, {}, {}),
        (OFFERED, {}, {"crc32c": CRC32C, "sha-256": SHA256}),  # one pass: for the strongest
        ({"md5": MD5}, {}, {"md5": MD5}),
        (OFFERED, {"verifies_offered": False}, {}),
        # The user's word decides: no other is asked for.
        (OFFERED, {"digests": {"md5": "1" * 32}}, {"md5": "1" * 32}),
        ({}, {"digests": {"sha-512": "1" * 128, "crc32c": CRC32C}}, {"sha-512": "1" * 128, "crc32c": CRC32C}),
    ],
)
def test_what_is_compared(tmp_path, offered, spec, expected):
    assert expected_digests(_Job(tmp_path, offered=offered, **spec).manifest) == expected


@pytest.mark.parametrize(
    ("offered", "spec", "algorithm", "wrong", "actual"),
    [
        ({}, {"digests": {"sha-256": WRONG}}, "sha-256", WRONG, SHA256),
        ({}, {"digests": {"sha-256": SHA256, "md5": "1" * 32}}, "md5", "1" * 32, MD5),
        ({}, {"digests": {"crc32c": "00000001"}}, "crc32c", "00000001", CRC32C),
        ({"sha-256": WRONG}, {}, "sha-256", WRONG, SHA256),
        ({"crc32c": "00000001"}, {}, "crc32c", "00000001", CRC32C),
        ({"md5": "1" * 32}, {}, "md5", "1" * 32, MD5),  # weak, and better than nothing
        ({"crc32c": "00000001", "sha-256": SHA256}, {}, "crc32c", "00000001", CRC32C),
    ],
)
def test_a_mismatch_is_not_published_and_has_both_values(tmp_path, offered, spec, algorithm, wrong, actual):
    job = _Job(tmp_path, offered=offered, **spec).bring_all()
    with pytest.raises(DigestMismatch) as caught:
        job.merge()
    said_by = "user" if spec else "origin"
    assert caught.value.args == ("file.bin", algorithm, wrong, actual, said_by)
    assert ("--no-verify-offered" in str(caught.value)) is (said_by == "origin")
    assert job.published is None
    # Nothing was joined for it either: what is joined would lie there until somebody cancels.
    assert not list(job.folder.path.rglob("merged.*"))


@pytest.mark.parametrize(
    ("offered", "spec"),
    [
        (OFFERED, {}),
        (OFFERED | {"md5": "1" * 32}, {}),  # weaker than what was compared
        ({"sha-256": WRONG}, {"digests": {"sha-256": SHA256}}),  # the origin is wrong, the user right
        ({"sha-256": WRONG}, {"digests": {"crc32c": CRC32C}}),
        ({"sha-256": WRONG, "crc32c": "00000001"}, {"verifies_offered": False}),
    ],
)
def test_a_match_is_published(tmp_path, offered, spec):
    job = _Job(tmp_path, offered=offered, **spec).bring_all()
    merged = job.merge()
    assert isinstance(merged, Merged)
    assert merged.digests == expected_digests(job.manifest)
    assert job.published == CONTENT


def test_a_part_that_the_volume_changed_is_found_and_fetched_again(job):
    job.spoil(job.receipts()[1])
    result = job.merge()
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [1]
    assert job.published is None
    # Until it is there again, it is missing.
    assert [chunk.number for chunk in job.folder.missing(job.manifest)] == [1]
    job.next_generation()
    job.bring(1)
    assert isinstance(job.merge(), Merged)
    assert job.published == CONTENT


def test_a_part_that_is_changed_twice_fails_the_job_with_both_values(job):
    for _ in range(2):
        (receipt,) = (each for each in job.receipts() if each.number == 2)
        job.spoil(receipt)
        if job.manifest.generation == 1:
            assert isinstance(job.merge(), Incomplete)
            # The message of a merge may come twice; that is not another time.
            job.next_generation()
            job.bring(2)
    with pytest.raises(DigestMismatch) as caught:
        job.merge()
    where, algorithm, expected, actual, _ = caught.value.args
    assert where == f"file.bin, bytes {2 * CHUNK_BYTES}-{len(CONTENT) - 1} on the volume,"
    assert (algorithm, expected) == ("crc32c", f"{receipt.crc32c:08x}")
    assert actual != expected
    assert job.published is None
    # Who mends the disk and resumes gets it fetched anew.
    assert [chunk.number for chunk in job.folder.missing(job.manifest)] == [2]


def test_two_merges_that_find_the_same_bad_part_do_not_count_it_twice(job):
    job.spoil(job.receipts()[0])
    receipts = job.receipts()
    assert job.folder.refuse(job.manifest, receipts[:1]) is False
    assert job.folder.refuse(job.manifest, receipts[:1]) is False
    job.next_generation()
    assert job.folder.refuse(job.manifest, receipts[:1]) is True
    assert job.folder.refuse(job.manifest, receipts[1:2]) is False


def test_all_bad_parts_are_found_at_once_also_spans(tmp_path):
    job = _Job(tmp_path, digests={"md5": MD5})
    job.bring(0, 0, 64 * KIB)
    job.bring(0, 64 * KIB)
    job.bring(1)
    job.bring(2)
    first, rest, _, last = job.receipts()
    for receipt in (rest, last):
        job.spoil(receipt)
    result = job.merge()
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [0, 2]
    assert job.receipts()[0] == first  # the good half of the chunk is kept
    job.bring(0, 64 * KIB)
    job.bring(2)
    assert isinstance(job.merge(), Merged)
    assert job.published == CONTENT


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_part_that_is_cut_or_gone_is_fetched_again(tmp_path, damage):
    job = _Job(tmp_path, digests={"sha-256": SHA256}).bring_all()
    path, _ = job.file_of(job.receipts()[1])
    if damage == "cut":
        with path.open("r+b") as file:
            file.truncate(CHUNK_BYTES - 1)
    else:
        path.unlink()
    result = job.merge()
    assert isinstance(result, Incomplete)
    assert [chunk.number for chunk in result.chunks] == [1]
    job.bring(1)
    assert isinstance(job.merge(), Merged)
    assert job.published == CONTENT


def test_what_was_followed_is_not_read_again(job):
    job.folder.write_followed(job.manifest, job.follow(job.receipts()))
    merged = job.merge()
    assert isinstance(merged, Merged)
    assert merged.was_followed
    assert job.published == CONTENT


def test_a_follower_of_other_receipts_is_not_believed(tmp_path):
    job = _Job(tmp_path, digests={"sha-256": SHA256}).bring_all()
    followed = job.follow(job.receipts())
    # Fetched again: the same bytes, in another file that nobody has read.
    job.file_of(job.receipts()[1])[0].unlink()
    job.bring(1)
    lying = followed.model_copy(update={"digests": {"sha-256": SHA256}})
    job.folder.write_followed(job.manifest, lying)
    job.spoil(job.receipts()[1])
    assert isinstance(job.merge(), Incomplete)


def test_a_follower_that_missed_the_end_or_an_algorithm_is_not_believed(job):
    receipts = job.receipts()
    clock = _Clock()
    for followed in (
        job.follow(receipts[:2]),
        job.follow(receipts[::-1]),
        job.follow(receipts).model_copy(update={"digests": {"md5": MD5}}),
        job.follow([]),
    ):
        job.folder.write_followed(job.manifest, followed)
        assert (
            digests_of_follower(job.folder, job.manifest, receipts, clock=clock.now, sleep=clock.sleep)
            is None
        )


class _Clock:
    def __init__(self):
        self.seconds, self.on_sleep = 0.0, lambda: None

    def now(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds
        self.on_sleep()


def test_a_follower_that_goes_on_is_waited_for_and_a_dead_one_is_not(job):
    receipts = job.receipts()
    clock = _Clock()
    whole = job.follow(receipts)
    turns = iter(range(1000))

    def on_sleep():
        # A follower that moves on seldom, for a minute.
        turn = next(turns)
        clock.seconds += 1
        is_done = turn == 60
        job.folder.write_followed(
            job.manifest,
            whole if is_done else Followed(receipts_id="x", length_bytes=turn, digests=whole.digests),
        )

    job.folder.write_followed(job.manifest, Followed(receipts_id="x", length_bytes=0, digests=whole.digests))
    clock.on_sleep = on_sleep
    found = digests_of_follower(job.folder, job.manifest, receipts, clock=clock.now, sleep=clock.sleep)
    assert found == {"sha-256": SHA256}
    assert clock.seconds > 60

    # One that says the same for ever is given up.
    clock.on_sleep = lambda: None
    job.folder.write_followed(job.manifest, Followed(receipts_id="x", length_bytes=5, digests=whole.digests))
    began = clock.seconds
    assert digests_of_follower(job.folder, job.manifest, receipts, clock=clock.now, sleep=clock.sleep) is None
    assert 1 < clock.seconds - began < 10


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"receipts_id": 1'])
def test_what_cannot_be_read_of_a_follower_is_nothing(job, text):
    (job.folder.path / "plan-0123456789ab" / "followed.json").write_text(text)
    merged = job.merge()
    assert isinstance(merged, Merged)
    assert not merged.was_followed
    assert job.published == CONTENT


def test_an_empty_file_has_digests_too(tmp_path):
    job = _Job(tmp_path, digests={"sha-256": hashlib.sha256().hexdigest()})
    job.manifest = job.manifest.model_copy(update={"size_bytes": 0})
    assert isinstance(job.merge(), Merged)
    assert job.published == b""
