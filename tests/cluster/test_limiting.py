"""Limits of rates: what processes share of one, and what the origin and the record see of it."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from support.cluster import Cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.tools import wait_until
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.rates import RateLimits
from tasks.settings import Settings
from tasks.transfer.attempt import Attempt

JOB = "0123456789ab"
CONTENT = random.Random(21).randbytes(20 * MIB + 3)
#: What may be on its way of each connection, and was not asked for yet: the buffers of both ends.
BUFFERS_BYTES = 384 * 1024


class Process:
    """A worker process with some connections to an origin that gives it so many bytes a second, on a clock of ours."""

    def __init__(self, records, name, link, connections=1):
        self.name, self.link = name, link
        self.seconds = 0.0
        self.used_bytes = 0
        self.limits = RateLimits(
            records, process=name, host_name="h", host_rate=None, clock=lambda: self.seconds
        )
        self.attempts = [Attempt(f"{name}{number}") for number in range(connections)]
        self.stack = ExitStack()

    def begin(self, rate):
        for attempt in self.attempts:
            self.stack.enter_context(self.limits.over(attempt, JOB, rate))

    @property
    def bucket(self):
        return self.attempts[0].pace._buckets[0]

    def run(self):
        """Half a second of reading, and the watch's look at it."""
        begin, self.used_bytes = self.seconds, 0
        while self.seconds < begin + 0.5:
            block_bytes = min(self.bucket.block_bytes, max(1, int(self.link * 0.05)))
            ticket = self.bucket.take(block_bytes)
            while self.seconds < begin + 0.5 and (wait := self.bucket.wait_seconds(ticket)):
                self.bucket.is_short()
                self.seconds += wait
            if self.bucket.wait_seconds(ticket):
                self.bucket.put_back(block_bytes)
                break
            self.used_bytes += block_bytes
            self.seconds += block_bytes / self.link
        self.seconds = begin + 0.5
        self.limits.renew()


@pytest.fixture
def records(redis):
    redis.client().flushall()
    one = records_of(Settings(redis_url=SecretStr(redis.url)))
    yield one
    one.close()


def run(processes, seconds, *, limit):
    """Let them all read for a while; what each got a second in the last two. Never is more granted than the limit."""
    got = {process.name: [] for process in processes}
    for _ in range(int(seconds * 2)):
        for process in processes:
            process.run()
            got[process.name].append(process.used_bytes)
            shares = [each.bucket.rate for each in processes]
            assert sum(shares) <= limit + 1, shares
    return {name: sum(used[-4:]) / 2 for name, used in got.items()}


def test_a_share_that_one_cannot_use_is_for_the_others(records):
    limit = 1_000_000
    slow, quick, other = (
        Process(records, "slow", 100_000),
        Process(records, "quick", 10_000_000),
        Process(records, "other", 10_000_000),
    )
    slow.begin("1000000")
    assert slow.bucket.rate == limit, "alone, it may have all"
    quick.begin("1000000")
    assert quick.bucket.rate == 0, "until the other has heard of it"
    of_two = run([slow, quick], 10, limit=limit)
    assert of_two["slow"] == pytest.approx(100_000, rel=0.1)
    assert sum(of_two.values()) == pytest.approx(limit, rel=0.05)
    other.begin("1000000")
    of_three = run([slow, quick, other], 10, limit=limit)
    assert of_three["quick"] == pytest.approx(of_three["other"], rel=0.1)
    assert sum(of_three.values()) == pytest.approx(limit, rel=0.05)
    # One that becomes quicker has its share within a second or so, and one that ends leaves it.
    slow.link = 10_000_000
    of_three = run([slow, quick, other], 6, limit=limit)
    assert list(of_three.values()) == pytest.approx([limit / 3] * 3, rel=0.1)
    for process in (quick, other):
        process.stack.close()
        process.limits.renew()
    assert run([slow], 4, limit=limit)["slow"] == pytest.approx(limit, rel=0.05)


def test_shares_go_by_connections(records):
    many, one = Process(records, "many", 10**7, connections=3), Process(records, "one", 10**7)
    for process in (many, one):
        process.begin("1M")
    got = run([many, one], 5, limit=MIB)
    assert got == pytest.approx({"many": 0.75 * MIB, "one": 0.25 * MIB}, rel=0.1)


def test_the_share_of_a_process_that_died_is_the_others_after_a_while(records):
    dead, alive = Process(records, "dead", 10**7), Process(records, "alive", 10**7)
    for process in (dead, alive):
        process.begin("1M")
    run([dead, alive], 3, limit=MIB)
    assert alive.bucket.rate == pytest.approx(MIB / 2, rel=0.1)

    def has_all():
        alive.run()
        return alive.bucket.rate == pytest.approx(MIB, rel=0.01)

    wait_until(has_all, what="the share of the dead")


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        # Little of what nobody has asked for yet is on its way.
        one.send_buffer_bytes = 32 * 1024
        yield one


def bring_below(cluster: Cluster, served, rate, *, connections, **options):
    """Bring the file; at no moment may more have come than the rate lets, however slow this machine is."""
    began = time.monotonic()
    with cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, **options)
        while True:
            record, sent_bytes = job.status(), served.served_bytes
            # After they were counted.
            may_bytes = rate * (time.monotonic() - began + 1)
            assert record.bytes_done <= may_bytes
            assert sent_bytes <= may_bytes + connections * BUFFERS_BYTES
            if not record.state.is_active:
                break
            time.sleep(0.05)
    seconds = time.monotonic() - began
    more = (sent_bytes - len(CONTENT)) / MIB
    print(
        f"{len(CONTENT) / seconds / rate:.3f} of the limit, {seconds:.1f} s, {more:.2f} MiB more than the file"
    )
    assert record.state is JobState.COMPLETE, record
    assert (cluster.volume / "big.bin").read_bytes() == CONTENT
    assert served.most_open_count <= connections
    if "limit_rate" in options:
        # Nobody took over from whom the limit holds back. From a host that is held back, others may.
        assert sent_bytes < len(CONTENT) + connections * BUFFERS_BYTES, record
    wait_until_clean(cluster.volume)
    return record


def test_a_jobs_limit_holds_over_all_workers(empty_cluster: Cluster, served):
    for host in ("one", "two"):
        empty_cluster.start_worker(ORCHESTRATOR_HOST_NAME=host)
    record = bring_below(empty_cluster, served, 4 * MIB, connections=16, limit_rate="4M")
    assert record.limit_rate == "4M"
    assert set(record.workers) == {"one", "two"}


def test_a_hosts_limit_holds_over_its_processes(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--max-rate", "00:00 4M", "--processes", "3")
    bring_below(empty_cluster, served, 4 * MIB, connections=16)


def test_a_limit_can_be_changed_while_the_job_runs(empty_cluster: Cluster, served):
    empty_cluster.start_worker()
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, limit_rate="64k")
        wait_until(lambda: job.status().bytes_done > 0, what="the first bytes")
        assert job.status().connections_count <= 1
        shown = empty_cluster.run("status", job.job_id)
        assert "limit  64k" in shown.stdout, shown
        for wrong, code, sentence in [
            (["limit", job.job_id, "fast"], 2, "'fast' is not a rate such as"),
            (["limit", "ffffffffffff", "1M"], 2, "There is no job"),
        ]:
            refused = empty_cluster.run(*wrong)
            assert (refused.returncode, refused.stdout) == (code, "")
            assert sentence in refused.stderr
        # Far from done at that rate.
        assert job.status().bytes_done < len(CONTENT) / 2
        done = empty_cluster.run("limit", job.job_id, "00:00 50M, 12:00 off", "--json")
        assert json.loads(done.stdout)["limit_rate"] == "00:00 50M, 12:00 off", done
        record = job.wait(100)
        assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
        assert record.limit_rate == "00:00 50M, 12:00 off"
        late = empty_cluster.run("limit", job.job_id, "1M")
        assert late.returncode == 2
        assert "is complete; nothing was changed" in late.stderr
    wait_until_clean(empty_cluster.volume)


def test_a_limited_job_ends_at_once_and_keeps_nothing_from_others(empty_cluster: Cluster, served):
    """All of its chunks find that it has as many connections as it has use for; that must not look like want."""
    empty_cluster.start_worker("--concurrency", "4")
    served.contents["/other.bin"] = CONTENT[: 3 * MIB]
    with empty_cluster.orchestrator() as orchestrator:
        slow = orchestrator.submit(served.url, chunk_size_bytes=MIB, limit_rate="32k")
        wait_until(lambda: slow.status().bytes_done > 0, what="the first bytes")
        other = orchestrator.submit(served.url.replace("big", "other"), chunk_size_bytes=MIB, priority="low")
        other.wait(60)
        assert slow.status().state is JobState.FETCHING
        assert slow.pause()
        wait_until(lambda: slow.status().connections_count == 0, what="the pause")
        assert slow.limit("off")
        assert slow.resume()
        slow.wait(60)
    assert (empty_cluster.volume / "big.bin").read_bytes() == CONTENT
    wait_until_clean(empty_cluster.volume)


def test_a_worker_leaves_from_the_addresses_that_it_was_told(empty_cluster: Cluster, served):
    empty_cluster.start_worker("--source-address", "127.0.0.2,127.0.0.3")
    with empty_cluster.orchestrator() as orchestrator:
        orchestrator.submit(served.url, chunk_size_bytes=MIB).wait(60)
    counts = {each: len(list(group)) for each, group in itertools.groupby(sorted(served.peers))}
    assert set(counts) == {"127.0.0.2", "127.0.0.3"}
    assert min(counts.values()) > len(served.peers) // 4, counts


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["worker", "--source-address", "192.0.2.7"], "192.0.2.7 .*no address of this host"),
        (["worker", "--source-address", "here"], "'here' is not an IPv4 or IPv6 address"),
        (["worker", "--interface", "nowhere0"], "nowhere0 .*no interface of that name"),
        (["up", "--no-flower", "--interface", "nowhere0"], "no interface of that name"),
        (["worker", "--max-rate", "08:00"], "'08:00' is not a rate such as"),
        (
            ["submit", "--source-address", "127.0.0.2", "http://127.0.0.1:9/f"],
            "give it to `orchestrator worker`",
        ),
        (["submit", "--limit-rate", "25:00 1M", "http://127.0.0.1:9/f"], "'25:00' is not a time such as"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(empty_cluster: Cluster, args, sentence):
    done = empty_cluster.run(*args)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    told = " ".join(done.stderr.split())

    assert re.search(sentence, told), told


def test_settings_that_make_no_sense_are_told_too(empty_cluster: Cluster):
    done = empty_cluster.run("worker", ORCHESTRATOR_MAX_RATE="fast")
    assert done.returncode == 2
    assert "ORCHESTRATOR_MAX_RATE makes no sense: 'fast' is not a rate" in done.stderr
    shown = empty_cluster.run(
        "settings", "--json", ORCHESTRATOR_MAX_RATE="1M", ORCHESTRATOR_SOURCE_ADDRESS="127.0.0.2 ::1"
    )
    values = json.loads(shown.stdout)
    assert values["ORCHESTRATOR_MAX_RATE"]["value"] == "1M"
    assert values["ORCHESTRATOR_SOURCE_ADDRESS"]["value"] == "127.0.0.2, ::1"
