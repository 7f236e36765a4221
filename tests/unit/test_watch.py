"""The watch, with a clock of the test's and records that the test wrote."""

import contextlib
import time

import pytest

from tasks import metrics
from tasks.jobs import JobState
from tasks.records import Progress, RedisError, Standing, Starving
from tasks.transfer.attempt import Attempt, AttemptStopped, Pulse, StopReason
from tasks.transfer.errors import JobTimedOut, TooSlow
from tasks.transfer.manifest import Span
from tasks.watch import Watch
from tasks.watched import LowSpeed


class Records:
    """What the watch needs of the records, without a Redis."""

    def __init__(self):
        self.state = JobState.FETCHING
        self.generation = 1
        self.is_overdue = False
        self.stop = None
        self.is_done = False
        self.is_away = False
        self.reported = []
        self.asked = []
        self.connections_count = 1
        self.starving = ()
        self.host_in_need = None
        self.claimed = []

    def states(self, job_ids):
        self.asked.append(job_ids)
        return [self.state for _ in job_ids]

    def report(self, reports):
        if self.is_away:
            raise RedisError("away")
        self.reported = list(reports)
        return {
            report.holder: Standing(
                self.state,
                self.generation,
                self.is_overdue,
                self.stop,
                self.is_done,
                self.connections_count,
                self.starving,
                host_in_need=self.host_in_need,
            )
            for report in self.reported
        }

    def claim_turn(self, starving):
        self.claimed.append(starving)
        return True

    def claim_host_turn(self, origin, host):
        self.claimed.append((origin, host))
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def setup():
    records, clock = Records(), Clock()
    watch = Watch(records, LowSpeed(1000, 30), clock=clock, tick_seconds=None)
    attempt = Attempt("a1")
    return records, clock, watch, attempt


def progress(attempt):
    return lambda: Progress(
        job_id="0123456789ab",
        span=Span(3, 100),
        generation=1,
        done_bytes=attempt.done_bytes,
        bytes_per_second=attempt.bytes_per_second,
        holder=f"host/{attempt.name}",
        origin="http://h:80",
    )


def test_an_attempt_whose_job_ended_is_stopped(setup):
    records, _, watch, attempt = setup
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        attempt.done_bytes = 5
        watch.tick()
        assert attempt.stopped_by is None
        assert [report.done_bytes for report in records.reported] == [5]
        records.state = JobState.CANCELLED
        watch.tick()
    with pytest.raises(AttemptStopped):
        attempt.check()
    assert attempt.stopped_by.reason is StopReason.JOB_ENDED


def test_an_attempt_of_an_older_sending_is_stopped(setup):
    records, _, watch, attempt = setup
    records.generation = 2
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.tick()
    assert attempt.stopped_by.reason is StopReason.JOB_ENDED


def test_an_attempt_of_a_job_out_of_time_is_stopped(setup):
    records, _, watch, attempt = setup
    records.is_overdue = True
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.tick()
    with pytest.raises(JobTimedOut):
        attempt.check()


def test_an_attempt_at_a_chunk_that_another_has_brought_is_stopped(setup):
    records, _, watch, attempt = setup
    records.is_done = True
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.tick()
    assert attempt.stopped_by.reason is StopReason.DONE


def test_an_attempt_hears_where_it_ends_now(setup):
    records, _, watch, attempt = setup
    records.stop = 1_100
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.tick()
    assert attempt.cut_bytes == 1_000
    attempt.check()


def test_how_quick_an_attempt_is_is_known_after_its_first_bytes(setup):
    _, clock, watch, attempt = setup
    attempt.begin_at(500)
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        for seconds, done_bytes, speed in [
            (0.5, 500, None),  # still connecting
            (1.0, 600, None),  # its first bytes
            (1.5, 1_100, 1_000),
            (2.0, 2_100, 1_500),  # half of the old, half of the new
        ]:
            clock.now, attempt.done_bytes = seconds, done_bytes
            watch.tick()
            assert attempt.bytes_per_second == speed


def test_each_byte_is_counted_once_for_prometheus_also_the_last_ones(setup):
    _, _, watch, attempt = setup
    metrics.begin()
    try:
        counted = []
        attempt.done_bytes = 500  # what an earlier attempt has left; it is not known yet that it did
        with watch.over(attempt, progress(attempt), slice_seconds=60):
            watch.tick()
            attempt.begin_at(500)
            for done_bytes in (500, 600, 600, 1_100, 1_050, 1_100):
                attempt.done_bytes = done_bytes
                watch.tick()
                counted.append(counted_bytes())
            attempt.done_bytes = 1_234
        watch.tick()
        assert counted == [0, 100, 100, 600, 600, 600]
        assert counted_bytes() == 734
    finally:
        metrics._tally = None


def test_for_how_long_reads_were_held_back_is_counted_too(setup):
    _, _, watch, attempt = setup
    metrics.begin()
    try:
        attempt.held_seconds = 5.0  # under another watch, of the same process
        with watch.over(attempt, progress(attempt), slice_seconds=60):
            watch.tick()
            attempt.held_seconds = 5.5
            watch.tick()
            attempt.held_seconds = 6.25
        assert metrics._tally.numbers() == {(metrics.Count.THROTTLED, metrics.Throttle.RATE): 1.25}
    finally:
        metrics._tally = None


def counted_bytes() -> float:
    return metrics._tally.numbers().get((metrics.Count.BYTES, "http://h:80"), 0)


def test_an_attempt_between_its_first_reads_does_not_look_as_if_it_stood_still(setup):
    """Then all of its span would be fetched a second time."""
    _, clock, watch, attempt = setup
    attempt.begin_at(0)
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        for seconds, done_bytes, speed in [
            (1.0, 600, None),
            (1.1, 600, None),  # looked at very soon
            (2.0, 1_100, 500),
        ]:
            clock.now, attempt.done_bytes = seconds, done_bytes
            watch.tick()
            assert attempt.bytes_per_second == speed


@pytest.mark.parametrize(
    ("done_bytes", "looks"),
    [(0, [(1.0, None), (2.9, None), (3.0, 0)]), (600, [(1.0, None), (3.9, None), (4.0, 0)])],
    ids=["no byte", "no more than its first bytes"],
)
def test_a_connection_that_never_brings_a_byte_or_another_one_is_slow(setup, done_bytes, looks):
    _, clock, watch, attempt = setup
    attempt.begin_at(0)
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        for seconds, speed in looks:
            clock.now, attempt.done_bytes = seconds, done_bytes
            watch.tick()
            assert attempt.bytes_per_second == speed


def test_a_time_slice_ends(setup):
    _, clock, watch, attempt = setup
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        for second in (10, 59):
            clock.now, attempt.done_bytes = second, second * 10**6
            watch.tick()
            assert attempt.stopped_by is None
        clock.now = 60
        watch.tick()
    assert attempt.stopped_by.reason is StopReason.SLICE


def test_a_slow_connection_is_dropped_and_a_quick_one_is_not(setup):
    _, clock, watch, slow = setup
    quick = Attempt("a2")
    with (
        watch.over(slow, progress(slow), slice_seconds=None),
        watch.over(quick, progress(quick), slice_seconds=None),
    ):
        for second in range(0, 61, 10):
            clock.now = second
            slow.done_bytes, quick.done_bytes = second * 900, second * 1100
            watch.tick()
    assert isinstance(slow.stopped_by, TooSlow)
    assert quick.stopped_by is None


def test_without_redis_the_bytes_go_on_coming(setup):
    records, _, watch, attempt = setup
    records.is_away = True
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.tick()
        assert attempt.stopped_by is None


def test_a_drain_stops_what_runs_and_what_begins(setup):
    _, _, watch, attempt = setup
    later = Attempt("a2")
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        watch.drain()
        assert attempt.stopped_by.reason is StopReason.DRAIN
    with watch.over(later, progress(later), slice_seconds=60):
        assert later.stopped_by.reason is StopReason.DRAIN


def test_a_merge_ends_when_its_job_does_or_the_worker_goes(setup):
    records, _, watch, _ = setup
    merge, other = watch.new_attempt("m1"), watch.new_attempt("m2")
    records.state = JobState.MERGING
    with watch.guarding(merge, "0123456789ab", states={JobState.MERGING}), watch.guarding(other):
        watch.tick()
        merge.check()
        records.state = JobState.PAUSED
        watch.tick()
        with pytest.raises(AttemptStopped, match="job ended"):
            merge.check()
        other.check()
        watch.drain()
        with pytest.raises(AttemptStopped, match="drain"):
            other.check()
    with watch.guarding(later := watch.new_attempt("m3")), pytest.raises(AttemptStopped, match="drain"):
        later.check()
    assert records.asked == [["0123456789ab"]] * 2


@pytest.fixture
def frozen():
    """A watch whose process stands still when the test says so."""
    records, uptime = Records(), Clock()
    watch = Watch(records, LowSpeed(0, 30), clock=Clock(), uptime=uptime, tick_seconds=None)
    watch.pulse.beat()
    return records, uptime, watch


def test_an_attempt_ends_whose_process_stood_still_for_longer_than_its_lease(frozen):
    records, uptime, watch = frozen
    attempt = watch.new_attempt("a1")
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        uptime.now = 9.0
        attempt.check()
        # Also before anybody has told it: the thread that writes may be the first to go on.
        uptime.now = 9.1
        with pytest.raises(AttemptStopped, match="lease lost"):
            attempt.check_lease()
        # And for good: the beats go on.
        watch.pulse.beat()
        with pytest.raises(AttemptStopped, match="lease lost"):
            attempt.check_lease()
        watch.tick()
        assert attempt.stopped_by.reason is StopReason.LEASE_LOST
        assert records.reported == [], "of a span that another may be at"
    later = watch.new_attempt("a2")
    with watch.over(later, progress(later), slice_seconds=60):
        watch.tick()
        later.check()
        assert len(records.reported) == 1


def test_an_attempt_goes_on_while_redis_is_away(frozen):
    records, uptime, watch = frozen
    records.is_away = True
    attempt = watch.new_attempt("a1")
    with watch.over(attempt, progress(attempt), slice_seconds=60):
        for second in range(1, 61):
            uptime.now = second
            watch.pulse.beat()
            watch.tick()
            attempt.check()


def test_a_pulse_that_nobody_beats_stops_nothing():
    Attempt("a1", Pulse(1.0, clock=lambda: 1e9)).check()


STARVING = Starving("ffffffffffff", rank=1, seconds=0.5)
HIGHER = Starving(None, rank=0, has_connections=True)


@pytest.mark.parametrize(
    ("starving", "connections_count", "may_yield", "yields"),
    [
        (STARVING, 2, True, True),
        (STARVING, 1, True, False),  # its job's only one
        (STARVING, 2, False, False),  # it would have to begin again
        (Starving("ffffffffffff", rank=1, seconds=0.3), 2, True, False),  # as a rule one is free in a moment
        (Starving("0123456789ab", rank=1, seconds=9), 2, True, False),  # its own job
        (Starving("ffffffffffff", rank=2, seconds=9), 2, True, False),  # a lower one
        (HIGHER, 1, True, True),
        (Starving(None, rank=1, has_connections=True), 2, True, False),  # an equal one, which has some
    ],
)
def test_an_attempt_yields_to_a_job_that_has_none_or_goes_first(
    setup, starving, connections_count, may_yield, yields
):
    records, clock, watch, attempt = setup
    records.starving, records.connections_count = (starving,), connections_count
    with watch.over(attempt, progress(attempt), slice_seconds=60, may_yield=may_yield):
        clock.now = 0.9
        watch.tick()
        assert attempt.stopped_by is None, "it has just begun"
        clock.now = 1.0
        watch.tick()
    assert records.claimed == ([starving] if yields else [])
    assert (attempt.stopped_by is not None) is yields
    if yields:
        assert attempt.stopped_by.reason is StopReason.SLICE


def test_of_several_attempts_one_yields_and_the_higher_priority_goes_first(setup):
    records, clock, watch, attempt = setup
    others = [Attempt("a2"), Attempt("a3")]
    records.starving, records.connections_count = (STARVING, HIGHER), 3
    with contextlib.ExitStack() as stack:
        for each in (attempt, *others):
            stack.enter_context(watch.over(each, progress(each), slice_seconds=60, may_yield=True))
        clock.now = 1.0
        watch.tick()
    assert [each.stopped_by is not None for each in (attempt, *others)].count(True) == 1
    assert records.claimed == [HIGHER]


def test_a_connection_that_we_hold_back_is_not_slow(setup):
    _, clock, watch, held = setup
    slow = Attempt("a2")
    with (
        watch.over(held, progress(held), slice_seconds=None),
        watch.over(slow, progress(slow), slice_seconds=None),
    ):
        for second in range(0, 121, 10):
            clock.now = second
            held.done_bytes, held.held_seconds = second * 100, second * 0.95
            slow.done_bytes, slow.held_seconds = second * 100, second * 0.5
            watch.tick()
    # In what was left of the time one brought 2,000 bytes a second, and the other 200.
    assert held.stopped_by is None
    assert isinstance(slow.stopped_by, TooSlow)


def test_an_attempt_that_its_jobs_limit_holds_back_does_not_look_slow(setup):
    _, clock, watch, attempt = setup
    attempt.begin_at(0)
    with watch.over(attempt, progress(attempt), slice_seconds=None):
        for seconds, done_bytes, held_seconds, speed in [
            (0.5, 100, 0.0, None),  # its first bytes
            (1.0, 100, 0.5, None),
            (1.5, 200, 0.9, None),
            (2.0, 700, 0.95, 1_000),  # its origin is slower than its share
            (2.5, 800, 1.3, None),
        ]:
            clock.now, attempt.done_bytes, attempt.held_by_job_seconds = seconds, done_bytes, held_seconds
            watch.tick()
            assert attempt.bytes_per_second == (speed and pytest.approx(speed))


def test_an_attempt_that_is_held_back_just_now_does_not_look_as_if_it_stood_still(setup):
    _, clock, watch, attempt = setup
    attempt.begin_at(0)
    attempt.done_bytes = 100
    with watch.over(attempt, progress(attempt), slice_seconds=None):
        watch.tick()
        attempt._held_since = time.monotonic() - 60, True  # since a minute, in one wait
        clock.now = 0.5
        watch.tick()
        assert attempt.bytes_per_second is None


@pytest.mark.parametrize(
    ("starving", "connections_count", "claimed"),
    [
        ((), 2, "host"),
        ((), 1, None),  # its job's only one
        ((STARVING,), 2, "job"),  # jobs come first
    ],
)
def test_an_attempt_yields_to_a_host_that_has_fewer(setup, starving, connections_count, claimed):
    records, clock, watch, attempt = setup
    records.starving, records.connections_count, records.host_in_need = starving, connections_count, "b"
    with watch.over(attempt, progress(attempt), slice_seconds=60, may_yield=True):
        clock.now = 1.0
        watch.tick()
    host = (progress(attempt)().origin, "b")
    assert records.claimed == {"host": [host], "job": [STARVING], None: []}[claimed]
    assert (attempt.stopped_by is not None) is (claimed is not None)
