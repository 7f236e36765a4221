from orchestrator.progress import Lines, Rates, describe
from tasks.jobs import JobRecord, JobState

MB = 1_000_000


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def record(state=JobState.FETCHING, done=0, **fields):
    return JobRecord(
        job_id="0123456789ab", url="http://h/x.iso", state=state, bytes_done=done, created_at=0, **fields
    )


def test_the_present_rate_forgets_and_the_average_does_not():
    clock = Clock()
    rates = Rates(clock=clock)
    rates.add(0)
    for second in range(1, 21):
        clock.now = second
        rates.add(100 * MB if second <= 10 else 100 * MB + (second - 10) * MB)
    assert rates.now == MB
    assert rates.average == 5.5 * MB


def test_a_line_says_percent_bytes_rates_time_left_chunks_connections_and_workers():
    clock = Clock()
    rates = Rates(clock=clock)
    rates.add(0)
    clock.now = 2
    rates.add(40 * MB)
    line = describe(
        record(
            done=40 * MB,
            size_bytes=100 * MB,
            chunks_count=10,
            chunks_done=3,
            connections_count=8,
            workers_count=2,
        ),
        rates,
    )
    assert line == (
        "fetching: 40.0%, 40.0 MB of 100.0 MB, 20.0 MB/s (average 20.0 MB/s), 0:03 left, "
        "chunks 3/10, connections 8, workers 2"
    )


def test_lines_come_at_changes_of_state_and_at_intervals():
    clock, written = Clock(), []
    lines = Lines(written.append, clock=clock)
    for second in range(31):
        clock.now = second
        lines.update(record(JobState.FETCHING if second < 25 else JobState.MERGING, done=second))
    assert len(written) == 4  # at 0, 10, 20, and 25 for the change
    assert written[-1].startswith("job 0123456789ab merging")
