"""Records of jobs that are being fetched, by themselves in an emptied Redis."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import NewJob
from tasks.settings import Settings
from tasks.transfer.manifest import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.redis_server import RedisServer
    from tasks.records import Records


@contextmanager
def records_of_jobs(redis: RedisServer, *job_ids: str, **fields: int) -> Iterator[Records]:
    """Records of these jobs, in their first sending; `fields` are what their plan has put in besides."""
    redis.client().flushall()
    records = records_of(
        Settings(redis_url=redis.url, key_prefix="t:", redis_timeout_seconds=5, record_age_seconds=60)
    )
    records.create([NewJob(job_id, "http://h/f", JobSpec(), "plain:{}") for job_id in job_ids], now=1.0)
    for job_id in job_ids:
        records.transition(job_id, JobState.PLANNING)
        records.transition(job_id, JobState.FETCHING, fields={"generation": 1, **fields})
    yield records
    records.close()
