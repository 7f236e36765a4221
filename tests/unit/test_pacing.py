"""Buckets, with a clock of the test's: nobody waits."""

import contextlib
import threading

import pytest

from support.tools import wait_until
from tasks.transfer.attempt import Attempt, AttemptStopped, StopReason
from tasks.transfer.pacing import Bucket, Pace

KIB = 1024


class Clock:
    now = 0.0

    def __call__(self):
        return self.now

    def hold(self, seconds, by_job):
        """What a wait is: time passes."""
        assert seconds > 0
        self.held_by.append("job" if by_job else "host")
        self.now += seconds

    def __init__(self):
        self.held_by = []


@pytest.fixture
def clock():
    return Clock()


def bucket(clock, rate):
    one = Bucket(clock=clock)
    one.rate = rate
    return one


def read_until(clock, pace, seconds, wanted_bytes=256 * KIB):
    """Read without end from a source that is quicker than any limit; how much came."""
    total = 0
    while clock.now < seconds:
        total += pace.wait(wanted_bytes, clock.hold)
    return total


@pytest.mark.parametrize("rate", [1, 300, 10 * KIB, 1000 * KIB, 500 * KIB * KIB])
def test_reads_keep_to_the_rate_and_no_read_is_large(clock, rate):
    pace = Pace(bucket(clock, rate), None)
    largest = max(pace.wait(256 * KIB, clock.hold) for _ in range(10))
    assert largest <= max(rate / 10, 256)
    seconds = clock.now + max(20, 100 * 256 / rate)
    began, total = clock.now, read_until(clock, pace, seconds)
    # The last read may have been waited for beyond the end.
    assert total == pytest.approx(rate * (clock.now - began), rel=0.02)


def test_what_was_not_read_for_a_while_is_caught_up_on_in_part_only(clock):
    one = bucket(clock, 1000)
    pace = Pace(one, None)
    read_until(clock, pace, 5)
    clock.now = begin = 100.0
    assert read_until(clock, pace, begin + 10, wanted_bytes=10) <= 1000 * 10.25 + 256


def test_a_rate_that_changes_holds_at_once_for_those_who_wait(clock):
    one = bucket(clock, 1)
    tickets = [one.take(1000) for _ in range(4)]
    assert one.wait_seconds(tickets[0]) == 0
    assert one.wait_seconds(tickets[3]) > 0
    one.rate = 1000
    clock.now += 2.9
    assert one.wait_seconds(tickets[2]) == 0
    assert one.wait_seconds(tickets[3]) == pytest.approx(0.1, abs=0.01)
    one.rate = None
    assert one.wait_seconds(tickets[3]) == 0


def test_without_a_share_nobody_reads_more_than_a_block_and_goes_on_when_there_is_one(clock):
    one = bucket(clock, 0)
    pace = Pace(one, None)
    assert pace.wait(256 * KIB, clock.hold) == 256
    held = []

    def hold(seconds, by_job):
        held.append(seconds)
        clock.hold(seconds, by_job)
        if len(held) == 8:
            one.rate = 10_000

    assert pace.wait(100, hold) == 100
    assert max(held) <= 0.25, "a share that comes is heard of soon"


def test_several_readers_share_a_rate_in_turn(clock):
    one = bucket(clock, 1000)
    tickets = [one.take(100) for _ in range(10)]
    due = [one.wait_seconds(ticket) for ticket in tickets]
    # None is told more than a quarter of a second, for the rate may change.
    assert due == pytest.approx([0, 0.1, 0.2] + [0.25] * 7)
    for number, ticket in enumerate(tickets):
        clock.now = number * 0.1 + 0.001
        assert one.wait_seconds(ticket) == 0


def test_what_a_read_did_not_bring_is_for_others(clock):
    one = bucket(clock, 1000)
    first, second = one.take(1000), one.take(1000)
    assert one.wait_seconds(first) == 0
    assert one.wait_seconds(second) > 0
    one.put_back(1000)
    assert one.wait_seconds(second) == 0
    assert one.look()[0] == 1000


def test_the_tighter_of_two_limits_holds_and_it_is_known_which(clock):
    for job_rate, host_rate, who in [(1000, 5000, "job"), (5000, 1000, "host")]:
        clock.held_by.clear()
        one, other = bucket(clock, job_rate), bucket(clock, host_rate)
        began = clock.now
        total = read_until(clock, Pace(one, other), began + 20, wanted_bytes=100)
        assert total == pytest.approx(1000 * (clock.now - began), rel=0.05)
        assert set(clock.held_by) == {who}
        assert (one.look()[1], other.look()[1]) == (who == "job", who == "host")


def test_a_wait_ends_with_the_attempt_and_leaves_its_turn_to_others(clock):
    one = bucket(clock, 1000)
    one.take(10_000)
    attempt = Attempt("a1")
    attempt.stop(AttemptStopped(StopReason.DRAIN))
    with pytest.raises(AttemptStopped):
        Pace(one, None).wait(1000, attempt.hold)
    assert one.look()[0] == 10_000


def test_an_attempt_counts_how_long_it_was_held_back():
    attempt, times = Attempt("a1"), iter([0.0, 2.0, 5.0, 6.0])
    attempt.hold(0.001, True, lambda: next(times))
    attempt.hold(0.001, False, lambda: next(times))
    assert (attempt.held_seconds, attempt.held_by_job_seconds) == (3.0, 2.0)


def test_a_wait_that_goes_on_counts_too(clock):
    """A thread may wake late: meanwhile who is held back must not look like who is slow."""
    attempt = Attempt("a1")

    def hold():
        with contextlib.suppress(AttemptStopped):
            attempt.hold(60, True, clock)

    thread = threading.Thread(target=hold)
    thread.start()
    wait_until(lambda: attempt._held_since is not None, what="the wait")
    for clock.now in (2.0, 5.0):
        attempt.count_held(clock)
        assert (attempt.held_seconds, attempt.held_by_job_seconds) == (clock.now, clock.now)
    clock.now = 7.0
    attempt.stop(AttemptStopped(StopReason.DRAIN))
    thread.join(10)
    clock.now = 9.0
    attempt.count_held(clock)
    assert attempt.held_by_job_seconds == 7.0, "it waits no more"
