"""What the records know of jobs that stand still, with a real Redis and its clock."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.tools import wait_until
from tasks.host import Host, records_of
from tasks.jobs import JobState
from tasks.records import NewJob, Progress, Records
from tasks.settings import Settings
from tasks.transfer.manifest import JobSpec, Span

JOB, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
def records(redis):
    redis.client().flushall()
    one = records_of(Settings(redis_url=redis.url, key_prefix="t:", record_age_seconds=60))
    one.create([NewJob(JOB, "http://h/f", JobSpec(), "plain:{}")], now=1.0)
    yield one
    one.close()


def stalled(records: Records, *, grace_seconds: float = 5.0) -> list[str]:
    return list(records.stalled(records.active(), seconds=1, grace_seconds=grace_seconds)[0])


def wait_until_stalled(records: Records) -> None:
    wait_until(lambda: stalled(records) == [JOB], what="a job that stands still")


def progress(done_bytes: int | None) -> Progress:
    return Progress(
        job_id=JOB, span=Span(0), generation=1, done_bytes=done_bytes, bytes_per_second=None,
        holder="h/1", origin="http://h:80",
    )  # fmt: skip


def message(task: str, *args: object, eta: str | None = None) -> str:
    body = base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()
    return json.dumps({"headers": {"task": task, "eta": eta}, "body": body})


def test_a_job_stands_still_when_nothing_moved_for_a_while(records):
    assert stalled(records) == [], "seen for the first time"
    wait_until_stalled(records)


def test_what_moves_does_not_stand_still(records):
    wait_until_stalled(records)
    records.transition(JOB, JobState.FETCHING, fields={"generation": 1})
    records.report([progress(5)])
    assert stalled(records) == []


def test_who_holds_a_lease_is_at_it(records):
    assert stalled(records) == []
    records.acquire(progress(None), origin_limit=1, job_limit=1, length_bytes=9)
    records.attempt_ended(progress(None))
    wait_until_stalled(records)
    records.acquire(progress(None), origin_limit=1, job_limit=1, length_bytes=9)
    assert stalled(records) == []


def test_who_plans_or_merges_is_at_it(records):
    wait_until_stalled(records)
    records.begun(JOB)
    assert stalled(records) == []
    records.goes_on([JOB])
    records.ended(JOB)
    wait_until_stalled(records)


def test_what_was_while_nobody_looked_is_not_held_against_a_job(records):
    """Redis was away: nobody could say that he was at it."""
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (1, 0)
    wait_until_stalled(records)
    found, _, _ = records.stalled([JOB], seconds=1, grace_seconds=5, anew=True)
    assert found == {}
    assert stalled(records) == []
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (2, 0), "what was in vain stays so"


def test_who_looks_is_told_whether_somebody_did_before(records, redis):
    assert not records.was_looking(60)
    assert records.was_looking(60)
    assert 0 < redis.client().ttl("t:sweep:looked") <= 60


def test_a_job_that_ended_while_the_sweep_was_on_its_way_leaves_nothing(records, redis):
    wait_until_stalled(records)
    records.transition(JOB, JobState.FAILED)
    assert records.stalled([JOB], seconds=1, grace_seconds=5) == ({}, [], [])
    assert records.sent_again(JOB) == (0, 0)
    records.let_be([JOB])
    assert redis.client().hlen("t:stalls") == 0


def test_a_job_that_ended_leaves_those_that_are_active(records, redis):
    records.transition(JOB, JobState.FAILED)
    records.look_after([JOB])
    assert records.active() == [JOB]
    assert stalled(records) == []
    assert records.active() == []


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("", "ends_at", "soon"),
        ("", "retries_count", "a few"),
        (":bytes", "0", "many"),
    ],
)
def test_a_damaged_value_keeps_no_job_from_being_sent_again(records, redis, kind, field, value):
    redis.client().hset(f"t:job:{JOB}{kind}", field, value)
    wait_until_stalled(records)


@pytest.mark.parametrize("kind", ["", ":bytes", ":done", ":leases"])
def test_a_damaged_job_keeps_nobody_from_the_others(records, redis, kind):
    records.create([NewJob(OTHER, "http://h/f", JobSpec(), "plain:{}")], now=1.0)
    redis.client().delete(f"t:job:{JOB}{kind}")
    redis.client().set(f"t:job:{JOB}{kind}", "nonsense")

    def look() -> tuple[list[str], list[str]]:
        found, _, damaged = records.stalled([JOB, OTHER], seconds=1, grace_seconds=5)
        return list(found), damaged

    wait_until(lambda: look() == ([OTHER], [JOB]), what="the other job")


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.COMPLETE, JobState.FAILED, JobState.CANCELLED])
def test_a_job_at_rest_is_not_looked_at(records, redis, state):
    wait_until_stalled(records)
    records.transition(JOB, state)
    assert records.active() == []
    assert redis.client().hlen("t:stalls") == 0
    records.transition(JOB, JobState.QUEUED, allowed={state})
    assert records.active() == [JOB]


def test_it_is_counted_how_often_a_job_was_sent_again_in_vain(records):
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (1, 0)
    assert stalled(records) == []
    wait_until_stalled(records)
    records.let_be([JOB])  # somebody will be at it
    assert stalled(records) == []
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (2, 0)
    records.retried(JOB)  # something came of it
    assert stalled(records) == []
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (1, 0)


def test_a_job_that_is_resumed_begins_with_no_worker_dead(records):
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (1, 0)
    records.begun(JOB)
    records.transition(JOB, JobState.FAILED)
    records.transition(JOB, JobState.QUEUED, allowed={JobState.FAILED})
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (1, 0)


def test_workers_that_died_planning_or_merging_are_counted(records, redis):
    for deaths in (1, 2):
        records.begun(JOB)
        redis.client().delete(f"t:job:{JOB}:busy")  # runs out
        wait_until_stalled(records)
        assert records.sent_again(JOB) == (deaths, deaths)
    records.begun(JOB)
    records.ended(JOB)
    wait_until_stalled(records)
    assert records.sent_again(JOB) == (3, 2)


def test_a_job_is_awaited_by_messages_in_queues_and_by_those_whose_time_will_come(records, redis):
    client = redis.client()
    later = (datetime.now(tz=UTC) + timedelta(minutes=1)).isoformat()
    sooner = (datetime.now(tz=UTC) - timedelta(minutes=1)).isoformat()
    just_now = (datetime.now(tz=UTC) - timedelta(seconds=1)).isoformat()

    def awaited() -> tuple[set[str], set[str]]:
        return records.awaited(["q", "r"], {"a.task", "many"})

    client.lpush("t:q", message("a.task", JOB, 1), message("another", OTHER), "nonsense", "[]", "{}")
    assert awaited() == ({JOB}, set())
    client.delete("t:q")
    client.lpush("t:r\x06\x163", message("many", [JOB, OTHER]))
    assert awaited() == ({JOB, OTHER}, set())
    client.delete("t:r\x06\x163")
    delivery = json.dumps([json.loads(message("a.task", JOB, eta=later)), "", "q"])
    client.hset("t:unacked", mapping={"1": delivery, "2": "nonsense", "3": "[]"})
    assert awaited() == (set(), {JOB})
    delivery = json.dumps([json.loads(message("a.task", JOB, eta=just_now)), "", "q"])
    client.hset("t:unacked", "1", delivery)
    assert awaited() == (set(), {JOB}), "on its way to a slot"
    for eta in (sooner, None, "nonsense"):
        delivery = json.dumps([json.loads(message("a.task", JOB, eta=eta)), "", "q"])
        client.hset("t:unacked", "1", delivery)
        assert awaited() == (set(), set()), eta


def test_a_worker_that_is_not_heard_of_has_died_and_one_that_said_so_has_not(records, redis):
    records.is_alive("h/1")
    records.is_alive("h/2")
    assert not records.somebody_died()
    records.has_ended("h/1")
    redis.client().zincrby("t:workers", -20, "h/2")
    assert records.somebody_died()
    redis.client().zincrby("t:workers", -60, "h/2")
    records.is_alive("h/3")
    assert not records.somebody_died(), "that was long ago"


def test_a_job_is_restored_only_where_there_is_none(records, redis):
    new = NewJob(JOB, "http://h/f", JobSpec(), "plain:{}")
    assert not records.restore(new, JobState.PLANNING, created_at=1.0, fields={})
    redis.client().flushall()
    records.report([progress(5)])  # of an attempt that goes on: forgotten soon, as things are
    assert records.restore(new, JobState.PLANNING, created_at=2.0, fields={"generation": 3})
    record = records.read(JOB)
    assert (record.state, record.created_at, record.bytes_done) == (JobState.PLANNING, 2.0, 5)
    # But for the leases, which are forgotten when nobody renews them.
    keys = set(redis.client().keys(f"t:job:{JOB}*")) - {f"t:job:{JOB}:leases"}
    assert [key for key in keys if redis.client().ttl(key) != -1] == []
    assert records.active() == [JOB]
    assert [each.job_id for each in records.list()] == [JOB]


def test_a_cluster_keeps_its_name_when_redis_is_emptied(records, redis):
    name = records.join("first")
    assert (name, records.join("second")) == ("first", "first")
    assert records.names(["first"]) == ({"first"}, False)
    redis.client().flushall()
    assert records.join("third") == "third"
    assert records.names(["first"]) == ({"first", "third"}, True)
    assert records.names(["third", "first"]) == ({"first", "third"}, False)


def process(records: Records) -> Host:
    """What of a worker process knows the cluster's names."""
    nothing: Any = None
    return Host("h", nothing, records, nothing, nothing, nothing)


def test_a_process_remembers_the_names_that_others_brought(records, redis):
    first = process(records)
    names, was_emptied = first.cluster_names()
    assert (names, was_emptied) == ({first.cluster}, False)
    redis.client().flushall()
    second = process(records)
    assert second.cluster != first.cluster
    assert first.cluster_names() == ({first.cluster, second.cluster}, True)
    assert second.cluster_names() == ({first.cluster, second.cluster}, False)
    # Emptied again, and the one that had the first name is dead.
    redis.client().flushall()
    assert process(records).cluster_names()[0].isdisjoint({first.cluster, second.cluster})
    names, was_emptied = second.cluster_names()
    assert was_emptied
    assert names >= {first.cluster, second.cluster}
