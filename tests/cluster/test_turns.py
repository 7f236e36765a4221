"""What the records decide in Redis: whose turn it is, and how many workers died at a span."""

from __future__ import annotations

import pytest

from support.fetching_jobs import records_of_jobs
from tasks.jobs import JobState
from tasks.records import Progress, Search, Starving
from tasks.records.queues import CHUNKS_LISTS, MESSAGE_PRIORITIES
from tasks.transfer.manifest import Priority, Receipt, Span

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
ORIGIN, OTHER_ORIGIN = "http://h:80", "http://other:80"
CHUNK_BYTES = 8 * 1024 * 1024
SEARCH = Search(
    chunks_count=3, chunk_size_bytes=CHUNK_BYTES, size_bytes=3 * CHUNK_BYTES, bytes_per_second=1e6
)


@pytest.fixture
def records(redis):
    with records_of_jobs(redis, A, B, C, size_bytes=3 * CHUNK_BYTES, chunks_count=3) as one:
        yield one


def progress(job_id, number, *, who="h/x", done_bytes=None, rank=1):
    span = None if number is None else Span(number)
    return Progress(job_id, span, 1, done_bytes, None, who, ORIGIN, rank)


def ask(records, job_id, number, *, limit=2, **of_progress):
    who = f"h/{job_id[0]}{number}"
    asked = progress(job_id, number, **{"who": who, **of_progress})
    return records.acquire(asked, origin_limit=limit, job_limit=limit, length_bytes=CHUNK_BYTES)


def free(records, job_id, number):
    records.attempt_ended(progress(job_id, number, who=f"h/{job_id[0]}{number}", done_bytes=0))


def starving(records, job_id, number):
    """What the watch hears of an attempt."""
    who = f"h/{job_id[0]}{number}"
    return [
        (each.job_id, each.rank, each.has_connections)
        for each in records.report([progress(job_id, number, who=who, done_bytes=0)])[who].starving
    ]


def test_a_freed_connection_goes_to_the_job_that_has_none(records):
    assert ask(records, A, 0).is_given
    assert ask(records, A, 1).is_given
    assert starving(records, A, 0) == []
    assert not ask(records, B, 0).is_given
    assert [each[:2] for each in starving(records, A, 0) if not each[2]] == [(B, 1)]
    free(records, A, 1)
    refused = ask(records, A, 2)
    assert not refused.is_given
    assert refused.others_starve
    assert ask(records, B, 0).is_given
    assert [each for each in starving(records, A, 0) if not each[2]] == []


def test_connections_are_not_kept_for_a_job_where_enough_are_free(records):
    assert ask(records, A, 0, limit=1).is_given
    assert not ask(records, B, 0, limit=1).is_given
    assert ask(records, A, 1, limit=3).is_given
    assert not ask(records, A, 2, limit=3).is_given
    assert ask(records, B, 0, limit=3).is_given


def test_a_job_that_asks_no_more_is_not_waited_for(records, redis):
    assert ask(records, A, 0).is_given
    assert ask(records, A, 1).is_given
    assert not ask(records, B, 0).is_given
    free(records, A, 1)
    redis.client().zincrby(f"t:origin:{ORIGIN}:asked", -4, B)
    assert ask(records, A, 1).is_given
    assert redis.client().zcard(f"t:origin:{ORIGIN}:starving") == 0


def test_a_lower_priority_gets_no_connection_while_a_higher_one_was_just_refused(records, redis):
    assert ask(records, A, 0, rank=0).is_given
    assert ask(records, C, 0).is_given
    assert not ask(records, A, 1, rank=0).is_given
    assert (A, 0, True) in starving(records, C, 0)
    free(records, C, 0)
    assert not ask(records, B, 0).is_given
    assert ask(records, A, 1, rank=0).is_given
    free(records, A, 1)
    redis.client().delete(f"t:origin:{ORIGIN}:refused0")
    assert ask(records, B, 0).is_given


def test_a_job_whose_chunks_were_sent_waits_for_a_slot_until_one_is_begun(records):
    assert ask(records, A, 0, limit=9).is_given
    records.sent(B, Priority.NORMAL, ORIGIN)
    records.sent(C, Priority.HIGH, ORIGIN)
    heard = starving(records, A, 0)
    assert heard.index((C, 0, False)) < heard.index((B, 1, False))
    for job_id in (C, B):
        assert ask(records, job_id, 0, limit=9).is_given
    assert starving(records, A, 0) == []
    # It had a slot, and lost it while chunks of it have not begun.
    free(records, B, 0)
    assert starving(records, A, 0) == [(B, 1, False)]


def test_messages_of_a_higher_priority_that_wait_for_a_slot_are_heard_of(records, redis):
    assert ask(records, A, 0, rank=2).is_given
    redis.client().lpush("t:chunks.4\x06\x163", "x")
    assert starving(records, A, 0) == [(None, 1, True)]
    assert records.waiting_counts(CHUNKS_LISTS, MESSAGE_PRIORITIES) == (1, 0)
    assert records.waiting_counts(CHUNKS_LISTS, MESSAGE_PRIORITIES[:1]) == (0, 0)
    assert set(CHUNKS_LISTS) - set(records.shortest(CHUNKS_LISTS, MESSAGE_PRIORITIES)) == {"chunks.4"}


def test_a_turn_is_claimed_once(records):
    assert ask(records, A, 0, limit=1).is_given
    assert not ask(records, B, 0, limit=1).is_given
    who = "h/a0"
    (found, *_) = records.report([progress(A, 0, who=who, done_bytes=0)])[who].starving
    assert [records.claim_turn(found), records.claim_turn(found)] == [True, False]


def test_nobody_yields_to_a_job_that_was_cancelled_while_it_waited_or_has_all_its_chunks(records):
    assert ask(records, A, 0, limit=9).is_given
    records.sent(B, Priority.NORMAL, ORIGIN)
    records.transition(B, JobState.CANCELLED)
    who = "h/a0"
    found = records.report([progress(A, 0, who=who, done_bytes=0)])[who].starving
    assert {each.job_id for each in found} == {B}
    assert not any(records.claim_turn(each) for each in found)
    assert ask(records, C, 0, limit=9).is_given
    for number in (1, 2):
        done = progress(C, number, who="h/other", done_bytes=CHUNK_BYTES)
        records.span_done(done, {}, is_whole=True)
    records.span_done(progress(C, 0, who="h/other", done_bytes=CHUNK_BYTES), {}, is_whole=True)
    free(records, C, 0)  # another one was quicker
    assert not [each for each in starving(records, A, 0) if not each[2] and each[0] != B]


def die(records, redis, job_id, number, *, done_bytes=0, who):
    """A worker takes a span, brings so many bytes, and is gone."""
    lease = ask(records, job_id, number, limit=9, who=who)
    assert lease.is_given
    records.report([progress(job_id, number, who=who, done_bytes=done_bytes)])
    bury(redis, job_id, who)
    return lease.deaths_count


def bury(redis, job_id, who):
    for leases in (f"t:job:{job_id}:leases", f"t:origin:{ORIGIN}:leases"):
        redis.client().zrem(leases, who)


def test_deaths_at_a_span_are_counted_while_no_byte_comes(records, redis):
    counts = [die(records, redis, A, 0, who=f"h/{number}") for number in range(4)]
    assert counts == [0, 1, 2, 3]
    assert die(records, redis, A, 0, who="h/4", done_bytes=10) == 4
    # That one died too, but came further.
    assert die(records, redis, A, 0, who="h/5", done_bytes=10) == 1
    assert ask(records, A, 0, limit=9, who="h/6").deaths_count == 2


def test_who_gave_its_lease_back_did_not_die(records, redis):
    assert die(records, redis, A, 0, who="h/0") == 0
    for has_failed in (True, False):
        assert ask(records, A, 0, limit=9, who="h/1").deaths_count == 1
        records.attempt_ended(progress(A, 0, who="h/1"), has_failed=has_failed)


def test_deaths_are_counted_when_a_span_is_taken_over_or_sent_again_and_not_after_a_resume(records, redis):
    for number in (0, 2):
        assert ask(records, A, number, limit=9).is_given
    assert die(records, redis, A, 1, who="h/0") == 0
    done = progress(A, 0, who="h/a0", done_bytes=CHUNK_BYTES)
    following = records.span_done(done, {"h": CHUNK_BYTES}, is_whole=True, search=SEARCH)
    assert following.span == Span(1, 0, CHUNK_BYTES)
    assert following.deaths_count == 1
    bury(redis, A, "h/a0")
    whole = Receipt(
        number=0, length_bytes=CHUNK_BYTES, crc32c=0, file_name="00000", brought_bytes={"h": CHUNK_BYTES}
    )
    records.rejoin(A, [whole])
    lease = ask(records, A, 1, limit=9, who="h/9")
    assert lease.deaths_count == 2
    bury(redis, A, "h/9")
    records.transition(A, JobState.PAUSED)
    records.transition(A, JobState.QUEUED, allowed={JobState.PAUSED})
    records.rejoin(A, [whole])
    assert ask(records, A, 1, limit=9, who="h/10").deaths_count == 1  # of who had it last


def test_a_slot_that_was_yielded_is_for_who_waits_for_one(records):
    """A worker has messages in hand that found no connection before; they would be begun first."""
    assert ask(records, A, 0, limit=9).is_given
    records.sent(B, Priority.NORMAL, OTHER_ORIGIN)
    assert ask(records, A, 1, limit=9).is_given, "nobody has yielded yet"
    assert records.claim_turn(Starving(B, Priority.NORMAL.rank, 1.0))
    refused = ask(records, A, 2, limit=9)
    assert (refused.is_given, refused.others_starve) == (False, True)
    # Who has none at all takes nothing from anybody; and when the one that was waited for is there, all is as before.
    assert ask(records, B, 0, limit=9).is_given
    assert ask(records, A, 2, limit=9).is_given
