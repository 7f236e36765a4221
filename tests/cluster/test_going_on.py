"""What the records decide in Redis about who is done: what it goes on with, and when a job is merged."""

from __future__ import annotations

import dataclasses
import time

import pytest

from support.fetching_jobs import records_of_jobs
from tasks.records import Progress, Search
from tasks.transfer.manifest import Priority, Span

JOB, OTHER_JOB = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
ORIGIN, OTHER_ORIGIN = "http://h:80", "http://other:80"
CHUNK_BYTES = 8 * 1024 * 1024
SEARCH = Search(
    chunks_count=4, chunk_size_bytes=CHUNK_BYTES, size_bytes=4 * CHUNK_BYTES - 7, bytes_per_second=1e6
)


@pytest.fixture
def records(redis):
    with records_of_jobs(redis, JOB, OTHER_JOB, chunks_count=4) as one:
        for host in ("h", "i"):
            one.is_alive(f"{host}/1", fetches_on=host)
        yield one


def progress(number, *, job_id=JOB, host="h", done_bytes=0, origin=ORIGIN):
    return Progress(job_id, Span(number), 1, done_bytes, None, f"{host}/{job_id[0]}{number}", origin)


def ask(records, number, *, limit=9, **of_progress):
    asked = progress(number, **of_progress)
    return records.acquire(asked, origin_limit=limit, length_bytes=CHUNK_BYTES)


def begin(records, *numbers, **options):
    for number in numbers:
        assert ask(records, number, **options).is_given


def end(records, number, holder=None, *, bytes_per_second=1e6, races=True):
    done = progress(number, done_bytes=CHUNK_BYTES)
    if holder is not None:
        done = Progress(JOB, Span(number), 1, CHUNK_BYTES, None, holder, ORIGIN)
    search = dataclasses.replace(SEARCH, bytes_per_second=bytes_per_second, races=races)
    return records.span_done(done, {"h": CHUNK_BYTES}, is_whole=True, search=search)


def test_who_is_done_goes_on_with_what_nobody_has_begun_and_then_all_is_merged(records):
    begin(records, 0, 1)
    following = end(records, 0)
    assert following.span == Span(2, 0, CHUNK_BYTES)
    # Its message waits for who is at it now.
    assert ask(records, 2).is_held
    assert records.read(JOB).connections_count == 2
    following = end(records, 2, "h/a0")
    assert following.span == Span(3, 0, CHUNK_BYTES - 7)
    assert not end(records, 1).merge_is_late
    last = end(records, 3, "h/a0")
    assert (last.span, last.chunks_done, last.merge_is_late) == (None, 4, True)
    assert records.read(JOB).connections_count == 0


def test_a_job_of_which_each_brought_its_own_is_merged_by_its_chord(records):
    begin(records, 0, 1, 2, 3)
    for number in range(4):
        assert not end(records, number).merge_is_late


def message_waits(records, redis):
    redis.client().lpush("t:chunks.3", "x")


def job_waits_for_a_slot(records, redis):
    records.sent(OTHER_JOB, Priority.NORMAL, OTHER_ORIGIN)


def job_has_a_connection(records, redis):
    begin(records, 0, job_id=OTHER_JOB)


def job_was_refused_one(records, redis):
    assert not ask(records, 0, job_id=OTHER_JOB, limit=2).is_given


def host_was_refused_one(records, redis):
    assert not ask(records, 3, host="i", limit=2).is_given


def origin_allows_less(records, redis):
    redis.client().hset(f"t:origin:{ORIGIN}:allowed", mapping={"all": 1, "at": time.time(), "pause": 60})


def origin_has_asked_to_wait(records, redis):
    records.cool_down(ORIGIN, 50)


@pytest.mark.parametrize(
    "happens",
    [
        message_waits,
        job_waits_for_a_slot,
        job_has_a_connection,
        job_was_refused_one,
        host_was_refused_one,
        origin_allows_less,
        origin_has_asked_to_wait,
    ],
)
def test_who_is_done_gives_its_connection_back_where_somebody_else_could_use_it(records, redis, happens):
    begin(records, 0, 1)
    happens(records, redis)
    following = end(records, 0)
    assert (following.span, following.is_to_help) == (None, False)
    assert "h/a0" not in redis.client().zrange(f"t:job:{JOB}:leases", 0, -1)


def test_messages_of_lower_priority_keep_nobody_from_going_on(records, redis):
    begin(records, 0, 1)
    redis.client().lpush("t:chunks\x06\x166", "x")
    assert end(records, 0).span == Span(2, 0, CHUNK_BYTES)


def fall_silent(redis, holder, seconds):
    """Have its last report be so long ago."""
    redis.client().zadd(f"t:job:{JOB}:leases", {holder: int(time.time()) + 10 - seconds})


def hear(redis, seconds):
    """Have reports have come without a break for so long."""
    redis.client().set("t:heard", int(time.time()) - seconds)


def test_what_one_that_fell_silent_is_at_is_fetched_a_second_time(records, redis):
    begin(records, 0, 1, 2, 3)
    # A moment ago it would have been done soon.
    records.report([Progress(JOB, Span(1), 1, CHUNK_BYTES - 9, 1e6, "h/a1", ORIGIN)])
    hear(redis, 5)
    assert end(records, 0).span is None
    fall_silent(redis, "h/a1", 4)
    assert end(records, 2).span == Span(1, 0, CHUNK_BYTES)
    assert end(records, 3).span is None, "one is at it"


def test_who_fell_silent_counts_as_dead_until_it_speaks(records, redis):
    """A part that ends every worker is taken over before the leases of the dead end: nobody would count them."""
    begin(records, 0, 1, 2, 3)
    hear(redis, 5)
    fall_silent(redis, "h/a1", 4)
    assert end(records, 0).deaths_count == 1
    fall_silent(redis, "h/a0", 4)
    following = end(records, 2)
    assert (following.span, following.deaths_count) == (Span(1, 0, CHUNK_BYTES), 2)
    records.report([progress(1)])
    fall_silent(redis, "h/a2", 4)
    assert end(records, 3).deaths_count == 1


def test_nobody_is_taken_for_silent_who_could_not_report(records, redis):
    begin(records, 0, 1, 2, 3)
    fall_silent(redis, "h/a1", 4)
    redis.client().delete("t:heard")  # Redis was away
    records.report([progress(2)])
    assert end(records, 0).span is None
    hear(redis, 5)
    assert end(records, 2).span == Span(1, 0, CHUNK_BYTES)


def test_who_was_taken_for_silent_may_be_done_first(records, redis):
    begin(records, 0, 1, 2, 3)
    hear(redis, 5)
    fall_silent(redis, "h/a1", 4)
    assert end(records, 0).span == Span(1, 0, CHUNK_BYTES)
    for number in (1, 2, 3):
        end(records, number)
    assert records.report([progress(1, done_bytes=5)])["h/a1"].is_done
    again = end(records, 1, "h/a0")
    assert (again.chunks_done, again.merge_is_late) == (4, True)
    assert records.read(JOB).bytes_done == 4 * CHUNK_BYTES


def report(records, number, *, left_bytes, bytes_per_second):
    done_bytes = CHUNK_BYTES - left_bytes
    records.report([Progress(JOB, Span(number), 1, done_bytes, bytes_per_second, f"h/a{number}", ORIGIN)])


def test_a_small_rest_of_a_slow_one_is_fetched_twice_by_who_is_several_times_as_quick(records):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=150_000, bytes_per_second=100_000)
    assert end(records, 0, bytes_per_second=1e6).span == Span(1, 0, CHUNK_BYTES)
    # Of more than that, it is told to leave the rest.
    report(records, 2, left_bytes=600_000, bytes_per_second=100_000)
    assert end(records, 3, bytes_per_second=1e7).span.start > 0


def test_nothing_is_fetched_twice_to_be_there_sooner_where_a_limit_holds(records):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=80_000, bytes_per_second=100_000)
    assert end(records, 0, races=False).span is None
    assert end(records, 2).span == Span(1, 0, CHUNK_BYTES)


def test_what_one_fetches_a_second_time_no_third_does_while_both_report(records):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=150_000, bytes_per_second=100_000)
    assert end(records, 0).span == Span(1, 0, CHUNK_BYTES)
    report(records, 1, left_bytes=140_000, bytes_per_second=100_000)
    assert end(records, 2).span is None
    # Who came second has ended without it: the first one counts again.
    second = dataclasses.replace(progress(1, done_bytes=CHUNK_BYTES - 150_000), holder="h/a0")
    records.attempt_ended(second)
    report(records, 1, left_bytes=130_000, bytes_per_second=100_000)
    assert end(records, 3).span == Span(1, 0, CHUNK_BYTES)


def test_what_is_done_in_a_moment_is_left_to_who_is_at_it(records):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=50_000, bytes_per_second=100_000)
    assert end(records, 0, bytes_per_second=1e6).span is None


def test_who_is_slow_takes_nothing_from_the_quick(records):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=CHUNK_BYTES, bytes_per_second=1_000_000)
    assert end(records, 0, bytes_per_second=400_000).span is None
    following = end(records, 2, bytes_per_second=1_000_000)
    assert following.span == Span(1, CHUNK_BYTES // 2, CHUNK_BYTES)


def test_a_span_is_cut_where_who_is_at_it_has_not_come_by_the_time_it_hears_of_that(records, redis):
    begin(records, 0, 1, 2, 3)
    report(records, 1, left_bytes=4_000_000, bytes_per_second=1_000_000)
    fall_silent(redis, "h/a1", 2)  # so old is its report
    span = end(records, 0).span
    assert span.number == 1
    assert span.start >= CHUNK_BYTES - 4_000_000 + 2_700_000
    report(records, 2, left_bytes=2_000_000, bytes_per_second=1_000_000)
    fall_silent(redis, "h/a2", 2)
    assert end(records, 3).span is None


def test_each_host_has_one_look_for_what_it_could_take_over(records):
    begin(records, 0, 1)
    begin(records, 2, 3, host="i")
    assert end(records, 0).is_to_help
    assert not end(records, 1).is_to_help
    assert end(records, 2, "i/a2").is_to_help
    assert [records.claim_help(JOB, host) for host in ("h", "i", "k")] == [False, False, True]
    records.helps_on(JOB, "l")
    assert not records.claim_help(JOB, "l")


def test_of_many_hosts_few_look(records):
    assert [records.claim_help(JOB, f"h{number}") for number in range(100)] == [True] * 8 + [False] * 92
