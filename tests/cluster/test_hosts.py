"""What the records decide in Redis about hosts: who gets an origin's connections, and what an origin allows to each."""

from __future__ import annotations

import pytest

from support.fetching_jobs import records_of_jobs
from tasks.records import Progress
from tasks.transfer.manifest import Priority, Span

JOB, OTHER_JOB = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
ORIGIN = "http://h:80"
WANTED, WANTING = f"t:origin:{ORIGIN}:wanted", f"t:origin:{ORIGIN}:wanting"
ALLOWED, ASIDE = f"t:origin:{ORIGIN}:allowed", f"t:origin:{ORIGIN}:aside"


@pytest.fixture
def records(redis):
    with records_of_jobs(redis, JOB, OTHER_JOB, chunks_count=99) as one:
        for host in ("a", "b"):
            one.is_alive(f"{host}/1", fetches_on=host)
        yield one


def progress(host, number, *, job_id=JOB):
    """Of an attempt; without a number it only looks for something."""
    span = None if number is None else Span(number)
    return Progress(job_id, span, 1, 0, None, f"{host}/{job_id[0]}{number}", ORIGIN)


def ask(records, host, number, *, limit=4, job_id=JOB, **options):
    asked = progress(host, number, job_id=job_id)
    return records.acquire(asked, origin_limit=limit, length_bytes=9, **options)


def take(records, host, *numbers, **options):
    for number in numbers:
        assert ask(records, host, number, **options).is_given, (host, number)


def free(records, host, *numbers):
    for number in numbers:
        records.attempt_ended(progress(host, number))


def in_need(records, host, number):
    one = progress(host, number)
    return records.report([one])[one.holder].host_in_need


def pass_seconds(redis, seconds):
    """Have what hosts want be so much older."""
    for key in (WANTED, WANTING):
        for host in redis.client().zrange(key, 0, -1):
            redis.client().zincrby(key, -seconds, host)


def test_when_chunks_are_sent_each_host_has_its_first_connection_before_one_has_two(records, redis):
    records.sent(JOB, Priority.NORMAL, ORIGIN)
    take(records, "a", 0)
    second = ask(records, "a", 1)
    assert (second.is_given, second.is_for_another_host, second.others_starve) == (False, True, True)
    take(records, "b", 2)
    take(records, "a", 1)
    # Not for long: the other may have no slot, or not look for work at all.
    assert ask(records, "a", 3).is_for_another_host
    pass_seconds(redis, 0.4)
    take(records, "a", 3)


def test_a_host_alone_waits_for_nobody(records, redis):
    redis.client().zrem("t:hosts", "b")
    records.sent(JOB, Priority.NORMAL, ORIGIN)
    take(records, "a", 0, 1, 2, 3)
    assert not ask(records, "a", 4).is_given
    assert redis.client().exists(WANTED, WANTING) == 0
    assert in_need(records, "a", 0) is None


def test_hosts_that_are_added_are_yielded_to_until_all_have_equally_many(records, redis):
    take(records, "a", 0, 1, 2, 3)
    for number, needs in ((4, True), (5, True), (6, False)):
        assert not ask(records, "b", number).is_given
        if number == 4:
            assert in_need(records, "a", 3) is None, "as a rule one is free in a moment"
        redis.client().zincrby(WANTING, -0.5, "b")
        assert in_need(records, "a", 3) == ("b" if needs else None)
        if needs:
            free(records, "a", number - 4)
            assert ask(records, "a", 7).is_for_another_host
            take(records, "b", number)
    pass_seconds(redis, 1.1)
    assert in_need(records, "a", 3) is None


def test_one_attempt_yields_to_a_host(records):
    assert [records.claim_host_turn(ORIGIN, host) for host in ("b", "b", "c")] == [True, False, True]


def test_a_host_without_any_connection_that_looks_for_something_to_help_with_is_yielded_to(records, redis):
    take(records, "a", 0, 1, 2, 3)
    assert not ask(records, "a", None).is_given
    assert redis.client().zrange(WANTED, 0, -1) == []
    assert not ask(records, "b", None).is_given
    redis.client().zincrby(WANTING, -0.5, "b")
    assert in_need(records, "a", 0) == "b"


def test_no_host_keeps_a_job_from_its_first_connection(records):
    take(records, "a", 0, 1, 2, 3)
    assert not ask(records, "b", 4).is_given
    free(records, "a", 3)
    take(records, "a", 0, job_id=OTHER_JOB)


def test_several_processes_of_a_host_count_as_one(records, redis):
    records.is_alive("a/2", fetches_on="a")
    records.is_alive("control/1")
    assert records.hosts_count() == 2
    redis.client().zadd("t:hosts", {"b": 1})  # long ago
    assert records.hosts_count() == 1


def test_where_nobody_says_how_many_there_are_some_for_each_host(records):
    take(records, "a", 0, 1, limit=2)
    assert not ask(records, "a", 2, limit=2).is_given
    take(records, "b", 2, 3, limit=2, each_host=2)
    assert not ask(records, "b", 4, limit=2, each_host=2).is_given
    # A file that cannot be split has one all the same.
    assert not ask(records, "b", 4, limit=9, each_host=9, job_limit=1).is_given


def refuse(records, *holders, **options):
    for host, number in holders:
        assert records.refused(progress(host, number), **options)


def let_try(redis):
    """Have the time come when one more is tried."""
    redis.client().hset(ALLOWED, mapping={"at": 1, "over_until": 1})


def test_an_origin_that_allows_each_host_two_is_used_by_a_third_host_without_being_asked(records, redis):
    for number in range(4):
        take(records, "a", number, limit=99)
        take(records, "b", 4 + number, limit=99)
    refuse(records, ("a", 3), ("b", 7), ("b", 6), ("a", 2))
    assert redis.client().hget(ALLOWED, "count") == "2"
    assert not ask(records, "a", 2, limit=99).is_given
    take(records, "c", 8, 9, limit=99)
    assert not ask(records, "c", 10, limit=99).is_given
    free(records, "a", 0)
    assert not ask(records, "b", 10, limit=99).is_given
    take(records, "a", 10, limit=99)


def test_of_an_origin_that_allows_four_in_all_four_are_used_wherever(records):
    for number in range(4):
        take(records, "a", number, limit=99)
        take(records, "b", 4 + number, limit=99)
    refuse(records, ("a", 3), ("b", 7), ("b", 6), ("b", 5))  # three stand on a, one on b
    take(records, "c", 8, limit=99)  # it may be one of those that have a limit of their own
    refuse(records, ("c", 8))
    assert not ask(records, "c", 8, limit=99).is_given
    free(records, "a", 0, 1)
    assert ask(records, "b", 9, limit=99).is_for_another_host
    take(records, "c", 8, limit=99)
    take(records, "b", 9, limit=99)
    assert not ask(records, "a", 0, limit=99).is_given
    free(records, "b", 4)
    take(records, "a", 0, limit=99)
    assert not ask(records, "c", 4, limit=99).is_given


def test_one_more_is_tried_by_one_host_before_others_have_it(records, redis):
    take(records, "a", 0, 1, 2, limit=99)
    take(records, "b", 4, 5, 6, limit=99)
    refuse(records, ("a", 2), ("b", 6))
    assert not ask(records, "a", 2, limit=99).is_given
    let_try(redis)
    take(records, "a", 2, limit=99)
    assert not ask(records, "b", 6, limit=99).is_given
    refuse(records, ("a", 2))
    assert redis.client().hget(ALLOWED, "pause") == "1"
    assert not ask(records, "a", 2, limit=99).is_given
    let_try(redis)
    take(records, "b", 6, limit=99)
    let_try(redis)  # nobody refused it
    take(records, "a", 2, limit=99)
    assert redis.client().hget(ALLOWED, "count") == "3"


def test_a_host_that_does_not_reach_an_origin_is_set_aside_alone(records, redis):
    take(records, "a", 0, 1, limit=99)
    take(records, "b", 2, 3, limit=99)
    refuse(records, ("b", 2), is_hosts_own=True)
    assert not redis.client().exists(ALLOWED)
    aside = ask(records, "b", 2, limit=99)
    assert (aside.is_given, aside.others_starve) == (False, True)
    take(records, "a", 2, limit=99)
    # When it is tried again, that is with one connection, until something comes.
    free(records, "b", 3)
    redis.client().hset(ASIDE, "b", "1 0.5")
    take(records, "b", 4, limit=99)
    assert not ask(records, "b", 5, limit=99).is_given
    refuse(records, ("b", 4), is_hosts_own=True)
    assert redis.client().hget(ASIDE, "b").endswith(" 1")
    take(records, "b", 5, limit=99, has_reached=True)
    assert not redis.client().exists(ASIDE)


def test_a_host_is_not_set_aside_where_no_other_is_served(records, redis):
    take(records, "a", 0, 1, limit=99)
    assert not records.refused(progress("a", 1), is_hosts_own=True, was_refused=False)
    assert redis.client().exists(ASIDE, ALLOWED) == 0
    take(records, "a", 1, limit=99)
    refuse(records, ("a", 1), is_hosts_own=True)
    assert redis.client().hget(ALLOWED, "count") == "1"
