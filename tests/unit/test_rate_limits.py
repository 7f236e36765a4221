"""The limits of one process, with clocks of the test's and records that the test wrote."""

from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest

from tasks.rates import RateLimits
from tasks.records import RedisError
from tasks.transfer.attempt import Attempt

JOB = "0123456789ab"
MIB = 1024 * 1024
EVENING = datetime(2026, 11, 23, 17, 59, 50)


class Records:
    """Grants what there is, or what the test says; without a Redis."""

    def __init__(self):
        self.grants = {}
        self.is_away = False
        self.wishes = []
        self.given_back = []

    def job_rates(self, job_id):
        return f"job:{job_id}"

    def host_rates(self, host_name):
        return f"host:{host_name}"

    def share(self, process, wishes, *, unused):
        if self.is_away:
            raise RedisError("away")
        self.wishes = list(wishes)
        self.given_back += unused
        return {wish.key: self.grants.get(wish.key, wish.limit) for wish in self.wishes}


class World:
    """One process: its clocks, its limits, and an attempt at a job."""

    def __init__(self, host_rate=None):
        self.seconds = 100.0
        self.wall = EVENING
        self.records = Records()
        self.limits = RateLimits(
            self.records,
            process="p1",
            host_name="h",
            host_rate=host_rate,
            clock=lambda: self.seconds,
            now=lambda: self.wall,
        )

    def tick(self, seconds=0.5, **options):
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)
        self.limits.renew(**options)


def rates_of(attempt):
    """What holds an attempt back."""
    return None if attempt.pace is None else [bucket.rate for bucket in attempt.pace._buckets]


def test_without_a_limit_nothing_is_held_back_and_nobody_asked():
    world, attempt = World(), Attempt("a1")
    for rate in (None, "off", "0"):
        with world.limits.over(attempt, JOB, rate):
            world.limits.heard(JOB, rate)
            world.tick()
            assert rates_of(attempt) is None
    assert world.records.wishes == []


def test_a_share_is_there_before_the_first_read_and_is_given_back():
    world, attempt = World(), Attempt("a1")
    world.records.grants[f"job:{JOB}"] = 300.0
    with world.limits.over(attempt, JOB, "1M"):
        assert rates_of(attempt) == [300.0]
        world.tick()
        assert [(wish.limit, wish.wanted, wish.connections_count) for wish in world.records.wishes] == [
            (MIB, 75.0, 1)
        ]
    assert world.records.given_back == []
    world.tick()
    assert world.records.given_back == [f"job:{JOB}"]
    world.tick()
    assert world.records.given_back == [f"job:{JOB}"], "once"


def test_both_limits_hold():
    world, attempt = World("5M"), Attempt("a1")
    with world.limits.over(attempt, JOB, "1M"):
        assert rates_of(attempt) == [MIB, 5 * MIB]
        other = Attempt("a2")
        with world.limits.over(other, "ffffffffffff", None):
            assert rates_of(other) == [5 * MIB]
            world.tick()
            assert {wish.key: wish.connections_count for wish in world.records.wishes} == {
                f"job:{JOB}": 1,
                "host:h": 2,
            }


def test_who_is_held_back_wants_all_and_others_what_they_use():
    world, attempt = World(), Attempt("a1")
    with world.limits.over(attempt, JOB, "1M"):
        (bucket,) = attempt.pace._buckets
        bucket.wait_seconds(bucket.take(MIB // 5))
        world.tick()
        assert world.records.wishes[0].wanted == pytest.approx(MIB / 5 / 0.5 * 1.25)
        bucket.is_short()
        world.tick()
        assert world.records.wishes[0].wanted is None


def test_a_timetable_changes_what_runs():
    world, attempt = World(), Attempt("a1")
    with world.limits.over(attempt, JOB, "08:00 1M, 18:00 off"):
        assert rates_of(attempt) == [MIB]
        world.tick(10)
        assert rates_of(attempt) == [None]
        assert world.records.given_back == [f"job:{JOB}"]
        world.tick(14 * 3600)
        assert rates_of(attempt) == [MIB]


def test_another_rate_is_heard_of_while_the_job_runs():
    world, attempt, late = World(), Attempt("a1"), Attempt("a2")
    with world.limits.over(attempt, JOB, None), ExitStack() as stack:
        world.limits.heard(JOB, "2M")
        world.tick()
        assert rates_of(attempt) == [2 * MIB]
        # Whoever comes with what was said before goes by what is known here.
        for rate in (None, "9M"):
            with world.limits.over(Attempt("a3"), JOB, rate):
                world.tick()
                assert [wish.connections_count for wish in world.records.wishes] == [2]
        stack.enter_context(world.limits.over(late, JOB, "9M"))
        world.tick()
        assert rates_of(late) == [2 * MIB]
        world.limits.heard(JOB, "1M")
        world.tick()
        assert rates_of(attempt) == rates_of(late) == [MIB]
        world.limits.heard(JOB, "off")
        assert rates_of(attempt) is rates_of(late) is None


def test_without_redis_the_last_share_stands():
    world, attempt = World("4M"), Attempt("a1")
    world.records.grants["host:h"] = float(MIB)
    with world.limits.over(attempt, JOB, "08:00 2M, 18:00 1M"):
        assert rates_of(attempt) == [2 * MIB, MIB]
        world.records.is_away = True
        for is_known in (False, True):
            world.tick(redis_is_away=is_known)
            assert rates_of(attempt) == [2 * MIB, MIB]
        # The same part of what the timetable says by then.
        world.tick(10)
        assert rates_of(attempt) == [MIB, MIB]
        # Of what was never shared, nobody knows better than the limit.
        other = Attempt("a2")
        with world.limits.over(other, "ffffffffffff", "3M"):
            assert rates_of(other) == [3 * MIB, MIB]
    world.records.is_away = False
    world.tick()
    assert sorted(world.records.given_back) == sorted(["host:h", f"job:{JOB}", "job:ffffffffffff"])
