"""The cluster's figures for Prometheus, counted in a real Redis."""

from __future__ import annotations

import time

import pytest

from tasks.app import QUEUES, make_app
from tasks.host import records_of
from tasks.jobs import ACTIVE_STATES, JobState
from tasks.messages import urgency
from tasks.records import ClusterFigures, NewJob, Progress, Records, RedisAway
from tasks.records.queues import CHUNKS_LISTS, list_key
from tasks.settings import Settings
from tasks.transfer.manifest import JobSpec, Priority, Span

LISTS = {"control": ("control",), "merge": ("merge",), "chunks": CHUNKS_LISTS}


@pytest.fixture
def records(redis):
    redis.client().flushall()
    one = records_of(
        Settings(redis_url=redis.url, key_prefix="t:", redis_timeout_seconds=5, record_age_seconds=60)
    )
    yield one
    one.close()


@pytest.fixture
def app(redis):
    one = make_app(Settings(redis_url=redis.url, key_prefix="t:"))
    yield one
    one.close()


def figures(records: Records) -> ClusterFigures:
    """Counted anew."""
    records._redis.delete("t:figures")
    return records.cluster_figures(LISTS)


def create(records: Records, count: int, url: str = "http://h/f", first: int = 0) -> list[str]:
    ids = [f"{number:012x}" for number in range(first, first + count)]
    records.create([NewJob(job_id, url, JobSpec(), "plain:{}") for job_id in ids], now=1.0)
    return ids


def test_an_empty_redis_has_nothing(records):
    found = figures(records)
    assert found.jobs == dict.fromkeys(ACTIVE_STATES, 0)
    assert set(found.queues) == set(QUEUES)
    assert all(each.messages_count == 0 and each.is_age_known for each in found.queues.values())
    assert (found.unacknowledged_count, found.origins, found.processes_count) == (0, {}, 0)


def test_all_of_many_active_jobs_are_counted_once_each_by_state(records):
    ids = create(records, 3000)
    for job_id in ids[:1500]:
        records.transition(job_id, JobState.PLANNING)
    for job_id in ids[:700]:
        records.transition(job_id, JobState.FETCHING)
    for job_id in ids[:10]:
        records.transition(job_id, JobState.COMPLETE)
    for job_id in ids[10:20]:
        records.transition(job_id, JobState.PAUSED)
    assert figures(records).jobs == {"queued": 1500, "planning": 800, "fetching": 680, "merging": 0}


def test_a_damaged_record_keeps_nobody_from_the_others(records, redis):
    damaged, *_ = create(records, 3)
    redis.client().delete(f"t:job:{damaged}")
    redis.client().set(f"t:job:{damaged}", "no hash")
    redis.client().hset("t:job:000000000001", "url", "//:::")
    records.transition("000000000001", JobState.FETCHING)
    assert figures(records).jobs == {"queued": 1, "planning": 0, "fetching": 1, "merging": 0}


def test_leases_are_told_by_origin_of_the_jobs_that_fetch(records):
    create(records, 2, "https://me@H.example/a/b?q=1")
    create(records, 1, "http://other:8080/f", first=2)
    create(records, 1, "http://idle/f", first=3)
    for number in (0, 1, 2):
        records.transition(f"{number:012x}", JobState.PLANNING)
    for number, origin in ((0, "https://h.example:443"), (1, "https://h.example:443")):
        asked = Progress(f"{number:012x}", Span(0), 1, None, None, f"h/{number}", origin)
        assert records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=1).is_given
    found = figures(records).origins
    assert {origin: each.leases_count for origin, each in found.items()} == {
        "https://h.example:443": 2,
        "http://other:8080": 0,
    }
    assert all(each.allowed_count is None for each in found.values())
    # Of two, one is refused.
    assert records.refused(asked)
    (origin,) = (each for origin, each in figures(records).origins.items() if origin.startswith("https"))
    assert (origin.leases_count, origin.allowed_count) == (1, 1)


def test_queues_are_counted_over_all_lists_and_priorities_and_know_their_age(records, app):
    before = time.time()
    for priority in Priority:
        for name in ("chunks", "chunks.3"):
            app.send_task("tasks.fetch_chunk", args=("a", 1, 0), queue=name, **urgency(priority))
    app.send_task("tasks.merge_parts", args=("a", 1))
    found = figures(records).queues
    assert {queue: each.messages_count for queue, each in found.items()} == {
        "control": 0,
        "merge": 1,
        "chunks": 6,
    }
    assert before <= found["chunks"].oldest_sent_at <= found["merge"].oldest_sent_at <= time.time()


def test_the_age_is_that_of_the_oldest_wherever_it_came_back_to(records, app, redis):
    client = redis.client()
    for _ in range(3):
        app.send_task("tasks.merge_parts", args=("a", 1), **urgency(Priority.NORMAL))
    key = list_key("t:", "merge", urgency(Priority.NORMAL)["priority"])
    assert client.llen(key) == 3
    oldest = figures(records).queues["merge"].oldest_sent_at
    client.lmove(key, key, "RIGHT", "LEFT")  # given back by a worker: behind all others
    assert figures(records).queues["merge"].oldest_sent_at == oldest


def test_a_message_of_somebody_who_does_not_say_when_has_no_age(records, redis):
    redis.client().lpush("t:control", '{"headers": {}}')
    redis.client().lpush("t:control", "no message")
    found = figures(records).queues["control"]
    assert found.messages_count == 2
    assert not found.is_age_known


def test_who_asks_again_is_told_what_was_counted_just_now(records, redis):
    records.cluster_figures(LISTS)
    create(records, 1)
    calls = redis.client().info("commandstats")["cmdstat_get"]["calls"]
    assert records.cluster_figures(LISTS).jobs["queued"] == 0
    stats = redis.client().info("commandstats")
    assert stats["cmdstat_get"]["calls"] == calls + 1
    assert 0 < redis.client().ttl("t:figures") <= 60
    redis.client().set("t:figures", "of another version")
    assert records.cluster_figures(LISTS).jobs["queued"] == 1


def test_a_redis_that_is_away_gives_no_figures(records, redis):
    records.cluster_figures(LISTS)
    redis.kill()
    try:
        with pytest.raises(RedisAway):
            records.cluster_figures(LISTS)
    finally:
        redis.start()
