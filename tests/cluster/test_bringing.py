"""What a delivery of a chunk's message knows of its job."""

from __future__ import annotations

from pydantic import SecretStr

from support.manifests import JOB_ID, manifest_of_file
from tasks.bringing import Bringing
from tasks.host import Host, records_of
from tasks.jobs import JobState
from tasks.records import NewJob
from tasks.settings import Settings
from tasks.transfer.manifest import JobSpec, LayoutName
from tasks.transfer.retry import RetryPolicy
from tasks.transfer.volume import Volume
from tasks.watch import Watch
from tasks.watched import LowSpeed


def test_a_volume_that_fails_does_not_keep_a_chunk_from_telling_of_it(redis, tmp_path):
    redis.client().flushall()
    settings = Settings(redis_url=SecretStr(redis.url), volume=tmp_path)
    records = records_of(settings)
    watch = Watch(records, LowSpeed(0, 30), tick_seconds=None)
    here = Host("h", settings, records, Volume(tmp_path), watch, RetryPolicy())
    records.create([NewJob(JOB_ID, "http://h/f", JobSpec(), "plain:{}")], now=1.0)
    records.transition(JOB_ID, JobState.FETCHING)
    folder = here.volume.job(JOB_ID)
    folder.create()
    manifest = manifest_of_file(9, chunk_size_bytes=9, layout=LayoutName.PARTS)
    assert folder.write_first_manifest(manifest)
    bringing = Bringing(here, JOB_ID, 1)
    path = folder.path / "manifest.json"
    path.unlink()
    path.mkdir()  # what cannot be read
    assert not bringing.is_fenced()
    records.transition(JOB_ID, JobState.CANCELLED)
    assert bringing.is_fenced()
    records.close()
