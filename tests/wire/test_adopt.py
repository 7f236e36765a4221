"""Taking over an unfinished job's folder: by one rename, which one wins, and which may be cut short."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from orchestrator.adoption import MayBeActive, adopt, is_active
from tasks.jobs import JobState
from tasks.transfer.http_source import Identity
from tasks.transfer.manifest import JobSpec, LayoutName, Manifest, Validator
from tasks.transfer.volume import Volume

OLD, NEW, THIRD = "0" * 12, "1" * 12, "2" * 12


@dataclass
class Place:
    """What adoption needs of a host: its volume, and which jobs its Redis knows."""

    volume: Volume
    states: dict[str, JobState] = field(default_factory=dict)

    @property
    def records(self):
        return SimpleNamespace(state=self.states.get)


@pytest.fixture
def place(tmp_path):
    return Place(Volume(tmp_path))


def manifest(job_id, *, url="http://host/file.bin", etag='"v1"', plan_name=None):
    return Manifest(
        job_id=job_id,
        generation=3 if job_id == OLD else 1,
        plan_name=plan_name or job_id,
        destination="file.bin",
        source_name=url,
        size_bytes=100,
        validator=Validator(etag=etag),
        honours_ranges=True,
        chunk_size_bytes=10 if job_id == OLD else 100,
        layout=LayoutName.SHARED if job_id == OLD else LayoutName.PARTS,
        spec=JobSpec(),
        sealed_request=f"plain:{job_id}",
        created_at=0.0,
    )


def left(place, **fields):
    """What an old job has on the volume."""
    place.volume.job(OLD).create()
    assert place.volume.job(OLD).write_first_manifest(manifest(OLD, **fields))
    assert place.volume.leave(OLD)


def try_to_adopt(place, job_id=NEW, **fields):
    place.volume.job(job_id).create()
    wanted = manifest(job_id, **fields)
    return adopt(place, wanted, SimpleNamespace(identity=Identity(100, wanted.validator)), OLD)


def folders(place):
    return sorted(path.name for path in (place.volume.root / ".orchestrator").iterdir())


def test_the_new_job_has_the_old_ones_parts_and_nothing_else_of_it(place):
    left(place)
    adopted = try_to_adopt(place)
    assert folders(place) == [NEW]
    assert place.volume.job(NEW).read_manifest() == adopted
    assert (adopted.job_id, adopted.generation, adopted.sealed_request) == (NEW, 1, f"plain:{NEW}")
    assert (adopted.plan_name, adopted.chunk_size_bytes, adopted.layout) == (OLD, 10, LayoutName.SHARED)
    assert sorted(path.name for path in place.volume.job(NEW).path.iterdir()) == [
        "manifest.json", f"plan-{OLD}"
    ]  # fmt: skip


def test_of_two_one_adopts(place):
    left(place)
    assert try_to_adopt(place, NEW) is not None
    assert try_to_adopt(place, THIRD) is None
    assert place.volume.job(NEW).read_manifest().job_id == NEW


def test_an_adoption_that_died_midway_is_done_again(place):
    left(place)
    place.volume.job(NEW).create()
    assert place.volume.job(OLD).move_to(place.volume.job(NEW))
    adopted = try_to_adopt(place)
    assert adopted.plan_name == OLD
    assert place.volume.job(NEW).read_manifest() == adopted


def test_if_the_file_has_changed_since_it_died_it_is_started_over(place):
    left(place)
    place.volume.job(NEW).create()
    assert place.volume.job(OLD).move_to(place.volume.job(NEW))
    assert try_to_adopt(place, etag='"v2"') is None
    assert list(place.volume.job(NEW).path.iterdir()) == []


def test_what_is_of_no_use_is_removed(place):
    left(place, etag='"v0"')
    place.states[OLD] = JobState.FAILED
    assert try_to_adopt(place) is None
    assert folders(place) == [NEW]


@pytest.mark.parametrize("state", [None, JobState.FAILED])
@pytest.mark.parametrize("text", ["", "{}", "[" * 200_000, None])
def test_what_has_no_manifest_that_can_be_read_is_removed_unless_redis_knows_of_it(place, text, state):
    left(place)
    path = place.volume.job(OLD).path / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    if state is not None:
        place.states[OLD] = state
    assert try_to_adopt(place) is None
    assert folders(place) == ([NEW] if state is None else [OLD, NEW])


@pytest.mark.parametrize("state", [None, JobState.FAILED])
def test_another_urls_job_is_kept_if_somebody_can_resume_it(place, state):
    left(place, url="http://host/other.bin")
    if state is not None:
        place.states[OLD] = state
    assert try_to_adopt(place) is None
    assert folders(place) == ([NEW] if state is None else [OLD, NEW])


def test_a_reservation_tells_who_had_it_before_also_when_it_is_asked_twice(place):
    reserve = place.volume.reserve
    assert reserve("file.bin", OLD, is_active=lambda _: False) is None
    assert reserve("file.bin", NEW, is_active=lambda _: False) == OLD
    assert reserve("file.bin", NEW, is_active=lambda _: True) == OLD
    place.volume.release("file.bin", OLD)  # not its own any more
    assert reserve("file.bin", NEW, is_active=lambda _: True) == OLD
    place.volume.release("file.bin", NEW)
    assert reserve("file.bin", THIRD, is_active=lambda _: True) is None


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_that_redis_knows_is_active_as_redis_says(place, state):
    left(place)
    place.states[OLD] = state
    expected = state.is_active or state is JobState.PAUSED
    assert is_active(place, OLD, touched_before=None) is expected


def test_a_job_that_redis_does_not_know_is_active_while_its_files_are_written(place):
    left(place)
    folder = place.volume.job(OLD)
    assert not is_active(place, OLD, touched_before=None)  # it said that nobody is at it
    (folder.path / "left").unlink()
    with pytest.raises(MayBeActive) as first:
        is_active(place, OLD, touched_before=None)
    assert not is_active(place, OLD, touched_before=first.value.touched_at)
    os.utime(folder.path / "manifest.json", (time.time() + 1, time.time() + 1))
    assert is_active(place, OLD, touched_before=first.value.touched_at)


def test_a_job_whose_files_are_old_or_gone_is_not_active(place):
    assert not is_active(place, OLD, touched_before=None)
    left(place)
    folder = place.volume.job(OLD)
    (folder.path / "left").unlink()
    for path in (*folder.path.rglob("*"), folder.path):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    assert not is_active(place, OLD, touched_before=None)
