"""What the records decide in Redis: who takes over from whom, and whose reports still count."""

from __future__ import annotations

import dataclasses
import time

import pytest

from support.fetching_jobs import records_of_jobs
from tasks.jobs import JobState
from tasks.records import NewJob, Progress, RedisError, Search
from tasks.transfer.manifest import JobSpec, Receipt, Span

JOB = "0123456789ab"
ORIGIN = "http://h:80"
CHUNK_BYTES = 8 * 1024 * 1024


@pytest.fixture
def records(redis):
    with records_of_jobs(redis, JOB, size_bytes=3 * CHUNK_BYTES, chunks_count=3) as one:
        yield one


def progress(holder, span, done_bytes=None, *, generation=1, bytes_per_second=None):
    return Progress(JOB, span, generation, done_bytes, bytes_per_second, holder, ORIGIN)


def begin(records, *numbers):
    for number in numbers:
        asked = progress(f"h/{number}", Span(number))
        assert records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES).is_given


def end(records, number, **values):
    search = Search(
        chunks_count=3, chunk_size_bytes=CHUNK_BYTES, size_bytes=3 * CHUNK_BYTES, bytes_per_second=1e6
    )
    done = progress(f"h/{number}", Span(number), CHUNK_BYTES, **values)
    return records.span_done(done, {"h": CHUNK_BYTES}, is_whole=True, search=search)


def test_what_a_worker_gave_back_is_taken_over_at_once(records):
    begin(records, 0, 1, 2)
    records.attempt_ended(progress("h/1", Span(1), 5))
    assert end(records, 0).span == Span(1, 0, CHUNK_BYTES)


def test_a_span_that_somebody_failed_with_is_left_to_its_message_for_a_while(records, redis):
    begin(records, 0, 1, 2)
    records.attempt_ended(progress("h/1", Span(1), 5), has_failed=True)
    following = end(records, 0)
    assert following.span is None
    assert following.is_to_help
    again = records.acquire(progress("h/3", Span(1)), origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES)
    assert again.is_given
    records.attempt_ended(progress("h/3", Span(1), 5), has_failed=True)
    _, _, until = redis.client().hget(f"t:job:{JOB}:speeds", "1").partition("@")
    redis.client().hset(f"t:job:{JOB}:speeds", "1", f"-1 @{int(until) - 10}")
    assert end(records, 2).span == Span(1, 0, CHUNK_BYTES)


def test_nothing_is_taken_over_while_the_origin_has_asked_to_wait(records, redis):
    begin(records, 0, 1, 2)
    records.attempt_ended(progress("h/1", Span(1), 5))
    records.cool_down(ORIGIN, 50)
    following = end(records, 0)
    assert following.span is None
    assert following.is_to_help
    redis.client().delete(f"t:origin:{ORIGIN}:wait")
    assert end(records, 2).span == Span(1, 0, CHUNK_BYTES)


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.CANCELLED, JobState.PLANNING])
def test_nothing_is_taken_over_of_a_job_that_is_not_being_fetched(records, state):
    begin(records, 0, 1, 2)
    records.attempt_ended(progress("h/1", Span(1), 5))
    assert records.transition(JOB, state)
    assert end(records, 0).span is None


def test_what_an_older_sending_brought_does_not_count_for_a_newer_plan(records):
    begin(records, 0, 1, 2)
    records.transition(JOB, JobState.FETCHING, fields={"generation": 2}, forgets_progress=True)
    following = end(records, 0, generation=1)
    assert following.span is None
    assert following.chunks_done == 0
    assert records.read(JOB).bytes_done == 0
    assert records.read(JOB).connections_count == 2
    assert end(records, 1, generation=2).chunks_done == 1


def receipt(number):
    return Receipt(
        number=number,
        length_bytes=CHUNK_BYTES,
        crc32c=0,
        file_name=f"{number:05d}",
        brought_bytes={"h": CHUNK_BYTES},
    )


def test_a_receipt_of_which_nobody_told_counts_when_others_are_sent_again(records):
    begin(records, 0, 1, 2)
    records.report([progress("h/1", Span(1), 5)])  # and then it died
    records.rejoin(JOB, [receipt(1)])
    record = records.read(JOB)
    assert record.chunks_done == 1
    assert record.bytes_done == record.workers["h"].bytes == CHUNK_BYTES


def test_chunks_that_several_brought_keep_their_shares_when_others_are_sent_again(records):
    begin(records, 0, 1, 2)
    for span, count_bytes in ((Span(0), 3), (Span(0, 3), CHUNK_BYTES - 3), (Span(1, 7), 7)):
        is_whole = span == Span(0, 3)
        records.span_done(progress("h/0", span, count_bytes), {"h": count_bytes}, is_whole=is_whole)
    records.rejoin(JOB, [receipt(0)])
    record = records.read(JOB)
    assert record.bytes_done == CHUNK_BYTES
    assert record.workers["h"].bytes == CHUNK_BYTES
    assert record.chunks_done == 1
    # Its bytes turned out not to be those that came.
    records.rejoin(JOB, [])
    record = records.read(JOB)
    assert record.bytes_done == 0
    assert record.workers == {}
    assert record.chunks_done == 0


def test_bytes_that_two_brought_count_once_in_the_end(records):
    begin(records, 0, 1, 2)
    # Cut too late: who was at the beginning had brought the rest as well.
    records.span_done(progress("h/0", Span(0, 7), CHUNK_BYTES - 7), {"i": CHUNK_BYTES - 7}, is_whole=False)
    for number in range(3):
        end(records, number)
    assert sum(share.bytes for share in records.read(JOB).workers.values()) > 3 * CHUNK_BYTES
    records.settle_shares(JOB, [receipt(number) for number in range(3)])
    assert records.transition(JOB, JobState.COMPLETE)
    records.span_done(progress("h/1", Span(0, 7), CHUNK_BYTES - 7), {"i": CHUNK_BYTES - 7}, is_whole=False)
    workers = records.read(JOB).workers
    assert {name: share.bytes for name, share in workers.items()} == {"h": 3 * CHUNK_BYTES}


def test_a_beginning_that_is_there_is_not_taken_over_when_the_rest_is_sent_again(records, redis):
    begin(records, 0, 1, 2)
    end(records, 0)
    end(records, 2)
    # Cut there, because another worker fetched what follows; and complete.
    redis.client().hset(f"t:job:{JOB}:stops", "1", CHUNK_BYTES // 2)
    records.span_done(progress("h/1", Span(1), CHUNK_BYTES // 2), {"h": CHUNK_BYTES // 2}, is_whole=False)
    records.rejoin(JOB, [receipt(0), receipt(2)])
    asked = progress("h/4", None)
    search = Search(
        chunks_count=3, chunk_size_bytes=CHUNK_BYTES, size_bytes=3 * CHUNK_BYTES, bytes_per_second=1e6
    )
    assert records.span_done(asked, {}, is_whole=False, search=search).span is None
    assert records.read(JOB).bytes_done == 5 * CHUNK_BYTES // 2


def test_what_is_told_of_a_job_whose_record_is_gone_does_not_stay_for_ever(records, redis):
    begin(records, 0, 1, 2)
    redis.client().flushall()
    late = progress("h/0", Span(0), 5, bytes_per_second=1e6)
    assert records.report([late])["h/0"].state is None
    records.retried(JOB)
    records.adopt(JOB, [receipt(2)])
    end(records, 1)
    records.attempt_ended(progress("h/0", Span(0), 5), has_failed=True)
    keys = redis.client().keys()
    assert {f"t:job:{JOB}:{kind}" for kind in ("bytes", "done", "shares", "speeds")} <= set(keys)
    assert [key for key in keys if redis.client().ttl(key) < 0] == []


@pytest.mark.parametrize("ends", [True, False])
def test_what_is_told_of_a_job_after_its_end_goes_with_its_record(records, redis, ends):
    begin(records, 0, 1, 2)
    records.attempt_ended(progress("h/0", Span(0), 5))
    records.attempt_ended(progress("h/1", Span(1), 5))
    records.attempt_ended(progress("h/2", Span(2), 5))
    records.transition(JOB, JobState.CANCELLED)
    late = progress("h/0", Span(0), 6, bytes_per_second=1e6)
    if ends:
        records.attempt_ended(late, has_failed=True)
    else:
        records.report([late])
    assert redis.client().hget(f"t:job:{JOB}:bytes", "0") == "6"
    for kind in ("bytes", "speeds"):
        assert 0 < redis.client().ttl(f"t:job:{JOB}:{kind}") <= records.age_seconds


def test_nothing_of_a_job_that_goes_on_expires(records, redis):
    begin(records, 0, 1, 2)
    records.report([progress("h/0", Span(0), 5, bytes_per_second=1e6)])
    end(records, 1)
    records.attempt_ended(progress("h/2", Span(2), 5))
    for kind in ("bytes", "done", "shares", "speeds"):
        assert redis.client().ttl(f"t:job:{JOB}:{kind}") == -1


def test_a_record_never_says_more_bytes_than_the_file_has(records):
    for number in (0, 1, 2):
        records.attempt_ended(progress("h/0", Span(number), CHUNK_BYTES))
    records.attempt_ended(progress("h/1", Span(1, 64), CHUNK_BYTES - 64))
    assert records.read(JOB).bytes_done == 3 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("", "state", "dancing"),
        ("", "created_at", "x"),
        (":bytes", "0", "x"),
        (":shares", "0", "[1]"),
        (":shares", "0", "{"),
        ("", "digests", "[1]"),
        ("", "digests", "{"),
    ],
)
def test_a_damaged_record_is_an_error_with_a_sentence(records, redis, kind, field, value):
    redis.client().hset(f"t:job:{JOB}{kind}", field, value)
    with pytest.raises(RedisError, match=f"The record of job {JOB} in Redis is damaged"):
        records.read(JOB)


@pytest.mark.parametrize(
    "forget",
    [
        lambda records: records.rejoin(JOB, []),
        lambda records: records.transition(JOB, JobState.FETCHING, forgets_progress=True),
    ],
    ids=["rejoin", "start over"],
)
def test_a_job_that_is_sent_again_is_helped_again(records, forget):
    """Whoever helped before was sent for the older plan or sending, and has ended."""
    begin(records, 0, 1, 2)
    assert end(records, 0).is_to_help
    assert not records.claim_help(JOB, "h")
    forget(records)
    assert records.claim_help(JOB, "h")


def test_who_only_looks_does_not_try_one_connection_more_than_an_origin_allows(records, redis):
    begin(records, 0, 1, 2)
    assert records.refused(progress("h/2", Span(2)))
    allowed = f"t:origin:{ORIGIN}:allowed"
    redis.client().hset(allowed, "at", 1)  # long ago: one more may be tried
    before = redis.client().hgetall(allowed)
    assert not records.acquire(progress("h/3", None), origin_limit=9, job_limit=9, length_bytes=None).is_given
    assert redis.client().hgetall(allowed) == before
    begin(records, 2)
    assert redis.client().hget(allowed, "count") == "3"


def test_what_was_refused_when_tried_is_not_tried_sooner_for_another_refusal(records, redis):
    """An origin may take a connection that has just ended for one that stands, and refuse the next."""
    begin(records, 0, 1, 2)
    allowed = f"t:origin:{ORIGIN}:allowed"

    def asks(number: int) -> bool:
        asked = progress(f"h/{number}", Span(number))
        return records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=9).is_given

    assert records.refused(progress("h/2", Span(2)))
    redis.client().hset(allowed, "at", 1)  # long ago: one more may be tried
    assert asks(2)
    assert records.refused(progress("h/2", Span(2)))
    redis.client().hset(allowed, mapping={"over_pause": 16, "over_until": time.time() + 16})
    # One ends, and the next in its place is refused.
    assert records.refused(progress("h/1", Span(1)))
    assert not asks(1)
    redis.client().hset(allowed, "at", 1)
    assert asks(1)
    # Two went well before; the third has time.
    redis.client().hset(allowed, "at", 1)
    assert not asks(2)
    redis.client().hset(allowed, "over_until", 1)
    assert asks(2)
    assert records.refused(progress("h/2", Span(2)))
    assert redis.client().hget(allowed, "count") == "2"
    assert redis.client().hget(allowed, "pause") == "32"


def test_a_plan_keeps_its_span_when_it_forgets_what_was_before(records):
    begin(records, 0)
    records.transition(JOB, JobState.FETCHING, forgets_progress=True, stays=progress("h/0", Span(0)))
    asked = progress("h/1", Span(0))
    lease = records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES)
    assert lease.is_held
    assert not lease.is_given
    records.attempt_ended(progress("h/0", Span(0)))
    lease = records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES)
    assert lease.is_given
    assert not lease.is_held


def test_who_lost_its_lease_has_nothing_to_say_of_a_span_that_another_is_at(records, redis):
    begin(records, 0)
    redis.client().zrem(f"t:job:{JOB}:leases", "h/0")  # it ended, as no report came for ten seconds
    second = progress("h/1", Span(0), 7)
    assert records.acquire(second, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES).is_given
    records.report([second])
    for has_failed in (False, True):
        records.attempt_ended(progress("h/0", Span(0), 5), has_failed=has_failed)
        assert redis.client().hget(f"t:job:{JOB}:bytes", "0") == "7"
        assert redis.client().hget(f"t:job:{JOB}:speeds", "0") == "-1 h/1"


@pytest.mark.parametrize("loses", ["all that was known of the job", "its lease"])
def test_an_attempt_that_goes_on_has_its_lease_again(records, redis, loses):
    begin(records, 0)
    if loses == "its lease":  # as when Redis was away for a minute
        redis.client().delete(f"t:job:{JOB}:leases", f"t:origin:{ORIGIN}:leases")
    else:  # or when Redis was away when it began
        redis.client().delete(*(f"t:job:{JOB}:{kind}" for kind in ("leases", "bytes", "speeds")))
    records.report([progress("h/0", Span(0), 5)])
    assert records.read(JOB).connections_count == 1
    lease = records.acquire(progress("h/1", Span(0)), origin_limit=9, job_limit=9, length_bytes=9)
    assert lease.is_held
    assert not redis.client().exists(f"t:job:{JOB}:deaths")


def test_an_attempt_without_a_lease_takes_no_span_from_another(records, redis):
    begin(records, 0)
    redis.client().delete(f"t:job:{JOB}:leases")
    second = progress("h/1", Span(0), 7)
    assert records.acquire(second, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES).is_given
    records.report([second])
    assert records.report([progress("h/0", Span(0), 5)])["h/0"].state is JobState.FETCHING
    assert redis.client().hget(f"t:job:{JOB}:bytes", "0") == "7"
    assert redis.client().hget(f"t:job:{JOB}:speeds", "0") == "-1 h/1"
    assert records.read(JOB).connections_count == 1


@pytest.mark.parametrize("value", ["x", "", "-5", "1e3"])
def test_a_stop_that_is_no_number_is_none(records, redis, value):
    redis.client().hset(f"t:job:{JOB}:stops", "0", value)
    asked = progress("h/0", Span(0), 0)
    lease = records.acquire(asked, origin_limit=9, job_limit=9, length_bytes=CHUNK_BYTES)
    assert lease.is_given
    assert lease.stop is None
    assert records.report([asked])["h/0"].stop is None


@pytest.mark.parametrize("field", ["state", "generation", "ends_at"])
def test_one_damaged_record_keeps_nobody_from_hearing_of_the_others(records, redis, field):
    other = "ba9876543210"
    records.create([NewJob(other, "http://h/f", JobSpec(), "plain:{}")], now=1.0)
    redis.client().hset(f"t:job:{other}", field, "nonsense")
    reports = [progress("h/1", Span(1), 5), dataclasses.replace(progress("h/2", Span(0), 5), job_id=other)]
    standings = records.report(reports)
    assert standings["h/1"].state is JobState.FETCHING
    assert not standings["h/2"].is_overdue


def test_jobs_that_may_be_planned_are_begun_in_one_step_whatever_became_of_the_others(records, redis):
    others = ["00000000000a", "00000000000b", "00000000000c"]
    records.create([NewJob(each, "http://h/f", JobSpec(output=each), "plain:{}") for each in others], now=2.0)
    records.transition(others[0], JobState.PAUSED)
    redis.client().hset(f"t:job:{others[1]}", "spec", "nonsense")
    asked = records.begin_plans([JOB, *others, "ffffffffffff"], allowed={JobState.QUEUED})
    assert {job_id: each.spec.output for job_id, each in asked.items()} == {others[2]: others[2]}
    states = [JobState.FETCHING, JobState.PAUSED, JobState.FAILED, JobState.PLANNING, None]
    assert records.states([JOB, *others, "ffffffffffff"]) == states
    assert "damaged" in records.read(others[1]).error.message


def test_an_ended_jobs_keys_expire_and_a_resumed_ones_do_not(records, redis):
    begin(records, 0)
    records.report([progress("h/0", Span(0), 5, bytes_per_second=1)])
    kinds = ("", ":bytes", ":speeds")
    for state, is_kept in ((JobState.FAILED, False), (JobState.QUEUED, True), (JobState.COMPLETE, False)):
        assert records.transition(JOB, state, allowed=JobState)
        for kind in kinds:
            assert (redis.client().ttl(f"t:job:{JOB}{kind}") == -1) is is_kept, kind


def test_the_list_forgets_jobs_whose_records_have_expired(records, redis):
    records.create([NewJob("00000000000a", "http://h/f", JobSpec(), "plain:{}")], now=2.0)
    redis.client().delete("t:job:00000000000a")
    assert [record.job_id for record in records.list()] == [JOB]
    assert redis.client().zrange("t:jobs", 0, -1) == [JOB]


@pytest.mark.parametrize("kind", ["", ":bytes", ":done", ":shares"])
def test_the_list_goes_without_what_is_damaged(records, redis, kind):
    other = "ba9876543210"
    records.create([NewJob(other, "http://h/f", JobSpec(), "plain:{}")], now=2.0)
    redis.client().delete(f"t:job:{JOB}{kind}")
    redis.client().set(f"t:job:{JOB}{kind}", "nonsense")
    assert [record.job_id for record in records.list()] == [other]
    assert redis.client().zrange("t:jobs", 0, -1) == [JOB, other]
    with pytest.raises(RedisError, match="damaged"):
        records.read(JOB)
    assert records.states([JOB, other])[1] is JobState.QUEUED
    assert records.endings([JOB, other])[1].state is JobState.QUEUED


@pytest.mark.parametrize("value", ["nonsense", None])
def test_ended_jobs_are_forgotten_though_one_is_damaged(records, redis, value):
    other = "ba9876543210"
    records.create([NewJob(other, "http://h/f", JobSpec(), "plain:{}")], now=2.0)
    for job_id in (JOB, other):
        records.transition(job_id, JobState.CANCELLED, fields={"finished_at": 5})
    if value is None:
        redis.client().set(f"t:job:{JOB}", "nonsense")
    else:
        redis.client().hset(f"t:job:{JOB}", "finished_at", value)
    assert records.forget_ended(6.0) == [other]


def test_a_deadline_that_is_no_time_is_none(records, redis):
    redis.client().hset(f"t:job:{JOB}", "ends_at", "soon")
    begin(records, 0)
