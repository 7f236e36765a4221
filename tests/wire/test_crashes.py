"""Killed right before each system call in turn: the merge, the receipt, the checkpoint, the cleaning up."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.crash_steps import BLOCK_BYTES, CONTENT
from support.crashes import Crashes, crashes
from support.files import MIB, leftovers
from support.manifests import JOB_ID, manifest_of_file
from support.scripted import file_answer, scripted_server
from tasks.transfer.digests import combine_crc32c, crc32c
from tasks.transfer.manifest import JobSpec, LayoutName
from tasks.transfer.volume import Volume

LAYOUTS = [LayoutName.PARTS, LayoutName.SHARED]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BEFORE = b"what had the name before"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with crashes(tmp_path_factory.mktemp("crashes")) as one:
        yield one


@dataclass
class Prepared:
    """A volume as it is before each run."""

    template: Path
    root: Path

    def lay_out(self) -> Volume:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root)
        return Volume(self.root)

    @property
    def published(self) -> Path:
        return self.root / "file.bin"


def prepared(
    folder: Path, *, layout: LayoutName, is_fetched: bool, chunk_size_bytes: int = MIB, **spec
) -> Prepared:
    """A volume with a planned job, whose parts are there if it `is_fetched`."""
    one = Prepared(folder / "template", folder / "volume")
    one.template.mkdir()
    volume = Volume(one.template)
    manifest = manifest_of_file(
        len(CONTENT), chunk_size_bytes=chunk_size_bytes, layout=layout, spec=JobSpec(**spec)
    )
    job = volume.job(JOB_ID)
    job.create()
    assert volume.reserve("file.bin", JOB_ID, is_active=lambda _: False) is None
    assert job.write_first_manifest(manifest)
    for chunk in manifest.chunks() if is_fetched else ():
        with job.open_part(manifest, chunk) as part:
            part.write(CONTENT[chunk.start : chunk.range.stop])
            part.complete("h")
    if spec.get("overwrite"):
        (one.template / "file.bin").write_bytes(BEFORE)
    return one


@pytest.mark.parametrize(
    ("layout", "spec", "refuses"),
    [
        (LayoutName.SHARED, {"digests": {"sha-256": SHA256}}, None),
        (LayoutName.SHARED, {"overwrite": True, "sync": False}, None),
        (LayoutName.PARTS, {"digests": {"sha-256": SHA256}}, None),
        (LayoutName.PARTS, {"overwrite": True}, "copy_file_range"),
        (LayoutName.PARTS, {"sync": False}, None),
    ],
)
def test_a_merge(runs: Crashes, tmp_path, layout, spec, refuses):
    one = prepared(tmp_path, layout=layout, is_fetched=True, **spec)
    allowed = {BEFORE, CONTENT} if spec.get("overwrite") else {None, CONTENT}
    one.lay_out()
    calls = runs.calls("merge", str(one.root), refuses=refuses)
    seen = {one.published.read_bytes()}
    for number in calls:
        one.lay_out()
        assert runs.is_killed_at(number, "merge", str(one.root), refuses=refuses), number
        present = one.published.read_bytes() if one.published.exists() else None
        assert present in allowed, number
        seen.add(present)
        runs.run("merge", str(one.root))
        assert one.published.read_bytes() == CONTENT, number
        assert {path.name for path in one.root.iterdir()} == {"file.bin", ".orchestrator"}, number
        runs.run("remove", str(one.root))
        assert leftovers(one.root) == [], number
    assert seen == allowed
    print(f"{layout} {sorted(spec)}: killed at each of {len(calls)} calls")


def test_what_a_killed_merge_had_joined_does_not_stay(runs: Crashes, tmp_path):
    one = prepared(tmp_path, layout=LayoutName.PARTS, is_fetched=True)
    folder = one.lay_out().job(JOB_ID)
    assert runs.is_killed_at(("copy_file_range", 3), "merge", str(one.root))
    (joined,) = folder.path.glob("plan-*/merged.*")
    # The next sending of the job: the killed merge is fenced off, should it be only frozen.
    folder.write_manifest(folder.read_manifest().model_copy(update={"generation": 2}))
    runs.run("merge", str(one.root))
    assert one.published.read_bytes() == CONTENT
    assert not joined.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cleaning_up(runs: Crashes, tmp_path, layout):
    one = prepared(tmp_path, layout=layout, is_fetched=True)
    runs.run("merge", str(one.template))
    one.lay_out()
    calls = runs.calls("remove", str(one.root))
    for number in calls:
        one.lay_out()
        assert runs.is_killed_at(number, "remove", str(one.root)), number
        assert one.published.read_bytes() == CONTENT, number
        runs.run("remove", str(one.root))
        assert [path.name for path in one.root.iterdir()] == ["file.bin"], number
    assert ("rmdir", 1) in calls or ("unlinkat", 1) in calls
    print(f"{layout}: killed at each of {len(calls)} calls")


def assert_whole(one: Prepared, number: object) -> None:
    """The first chunk has its receipts, and they are true."""
    folder = Volume(one.root).job(JOB_ID)
    manifest = folder.read_manifest()
    chunk = manifest.chunk(0)
    proven = folder.proven(manifest, chunk)
    assert proven.is_whole, number
    expected = CONTENT[: chunk.length_bytes]
    found = b"".join(
        bytes(block) for receipt in proven.receipts for block in folder.blocks_of(manifest, receipt)
    )
    assert found == expected, number
    told = combine_crc32c((receipt.crc32c, receipt.length_bytes) for receipt in proven.receipts)
    assert told == crc32c(expected), number


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_that_is_written_by_two_attempts(runs: Crashes, tmp_path, layout, sync):
    one = prepared(tmp_path, layout=layout, is_fetched=False, sync=sync)
    one.lay_out()
    calls = runs.calls("write_in_two", str(one.root), "0")
    for number in calls:
        one.lay_out()
        assert runs.is_killed_at(number, "write_in_two", str(one.root), "0"), number
        runs.run("write_in_two", str(one.root), "0")
        assert_whole(one, number)
    assert ("pwrite64", MIB // BLOCK_BYTES) in calls
    print(f"{layout} sync={sync}: killed at each of {len(calls)} calls")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fetching_of_a_chunk_up_to_its_receipt(runs: Crashes, tmp_path, layout):
    one = prepared(tmp_path, layout=layout, is_fetched=False, chunk_size_bytes=len(CONTENT))
    resumed, killed_count = [], 0
    with scripted_server(file_answer(CONTENT)) as server:
        one.lay_out()
        calls = runs.calls("fetch", str(one.root), "0", server.url)
        for number in calls:
            one.lay_out()
            server.requests.clear()
            # Not always: how much a read brings is the network's to say.
            killed_count += runs.is_killed_at(number, "fetch", str(one.root), "0", server.url)
            runs.run("fetch", str(one.root), "0", server.url)
            assert_whole(one, number)
            asked = [request.range for request in server.requests]
            resumed.append(max((first for first, _ in asked), default=0))
    assert killed_count > len(CONTENT) // BLOCK_BYTES
    # The checkpoint of the first 2 MiB was gone on from.
    assert max(resumed) >= 2 * MIB
    print(
        f"{layout}: killed at {killed_count} of {len(calls)} calls, gone on from bytes {sorted(set(resumed))}"
    )
