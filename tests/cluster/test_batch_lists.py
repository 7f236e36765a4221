"""Lists of URLs: a bounded number is on its way, one that fails stops no other, and the same list again goes on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
from contextlib import contextmanager

import pytest

from orchestrator import Ended, Refused, Wanted
from support.cluster import COMMAND, cluster
from support.files import wait_until_clean
from support.origin import origin
from support.redis_server import redis_server
from support.system_helpers import start
from support.tools import wait_until
from tasks.jobs import JobState

COUNT = 60


@pytest.fixture
def served():
    chance = random.Random(5)
    with origin(chance.randbytes(100_000)) as one:
        one.contents = {f"/{number}.bin": chance.randbytes(9_000 + number) for number in range(COUNT)}
        yield one


def url_of(served, path):
    return served.url.replace("/big.bin", path)


def list_of(one, served, *paths, name="urls.txt"):
    path = one.logs / name
    path.write_text("".join(f"{url_of(served, each)}\n" for each in paths or served.contents))
    return path


def are_right(one, served, paths=None):
    return all(
        (one.volume / path.strip("/")).read_bytes() == served.contents[path]
        for path in paths or served.contents
    )


@pytest.fixture
def begin():
    """Starts commands; those that a failed test leaves would submit their lists to the next one's Redis."""
    runs = []

    def begin_one(one, *args):
        runs.append(start([*args], environment=one.environment, cwd=one.logs, outputs=one.logs))
        return runs[-1]

    yield begin_one
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def summary(stdout):
    *records, last = [json.loads(line) for line in stdout.splitlines()]
    return records, last["summary"]


def active(one):
    with one.orchestrator() as orchestrator:
        return [record for record in orchestrator.list() if record.state.is_active]


@contextmanager
def submitting(one, files, **options):
    """Submit in a thread; yields what has ended so far."""
    ends, problems = [], []

    def bring():
        try:
            with one.orchestrator() as orchestrator:
                ends.extend(orchestrator.submit_all(files, **options))
        except Exception as error:  # noqa: BLE001  (shown below)
            problems.append(error)

    thread = threading.Thread(target=bring, daemon=True)
    thread.start()
    yield ends
    thread.join(120)
    assert not thread.is_alive()
    assert problems == []


def test_no_more_than_the_window_is_active_at_any_time(empty_cluster, served, begin):
    most, over = [], threading.Event()

    def watch():
        with empty_cluster.orchestrator() as orchestrator:
            while not over.is_set():
                most.append(sum(record.state.is_active for record in orchestrator.list()))

    run = begin(empty_cluster, "submit", "-i", str(list_of(empty_cluster, served)), "-j", "8")
    wait_until(lambda: len(active(empty_cluster)) >= 4, seconds=60, what="the first jobs")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        empty_cluster.start_worker("--concurrency", "4")
        code = run.ended(seconds=120)
    finally:
        over.set()
        watcher.join()
    assert code == 0, run.stderr
    assert 4 <= max(most) <= 8
    assert are_right(empty_cluster, served)
    assert sorted(served.paths) == sorted(served.contents)
    assert f"{COUNT} files: {COUNT} complete (" in run.stderr
    assert sorted(run.stdout.split()) == sorted(
        str(empty_cluster.volume / path.strip("/")) for path in served.contents
    )
    wait_until_clean(empty_cluster.volume)


def test_of_large_files_fewer_are_submitted_at_a_time(empty_cluster, served, redis):
    """What a list puts into Redis is bounded by chunks too."""
    client = redis.client()
    urls = [url_of(served, path) for path in served.contents]
    with submitting(empty_cluster, urls, window=50) as ends:
        wait_until(lambda: len(active(empty_cluster)) == 4, what="the first jobs")
        first = active(empty_cluster)
        for record in first:
            client.hset(f"manyhands:job:{record.job_id}", "chunks_count", 900)
        for record in first[:2]:
            client.hset(f"manyhands:job:{record.job_id}", "state", "complete")
        wait_until(lambda: len(ends) == 2 or len(active(empty_cluster)) > 2, what="two ends")
        # Two of 900 are left; a third would be too much.
        assert {record.job_id for record in active(empty_cluster)} == {record.job_id for record in first[2:]}
        for record in first[2:]:
            client.hset(f"manyhands:job:{record.job_id}", "chunks_count", 1)
            client.hset(f"manyhands:job:{record.job_id}", "state", "complete")
        wait_until(lambda: active(empty_cluster), what="the next ones")
        empty_cluster.start_worker("--concurrency", "4")
    assert len(ends) == COUNT
    assert len(served.paths) == COUNT - 4


def test_one_that_fails_is_named_at_once_and_stops_no_other(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "4")
    (empty_cluster.volume / "there.bin").write_bytes(b"mine")
    path = list_of(empty_cluster, served)
    bad = (
        f"{url_of(served, '/0.bin')}\n out=there.bin\n"
        f"{url_of(served, '/1.bin')}?token=geheim\n out=wrong.bin\n checksum=sha-256={'5' * 64}\n"
    )
    path.write_text(bad + path.read_text())
    done = empty_cluster.run("submit", "-i", str(path), "--json", timeout=120)
    # That of the first in the list that failed: the volume.
    assert done.returncode == 4, done.stderr
    records, total = summary(done.stdout)
    assert (total["files_count"], total["complete_count"], total["failed_count"]) == (COUNT + 2, COUNT, 2)
    assert total["brought_bytes"] == sum(map(len, served.contents.values()))
    assert sorted(record["line"] for record in records) == [1, 3, *range(6, 6 + COUNT)]
    failed = {record["line"]: record["error"]["code"] for record in records if record["state"] != "complete"}
    assert failed == {1: "DestinationExists", 3: "DigestMismatch"}
    assert f"failed: line 3, {url_of(served, '/1.bin')}: " in done.stderr
    assert "geheim" not in done.stderr + done.stdout
    assert are_right(empty_cluster, served)
    assert (empty_cluster.volume / "there.bin").read_bytes() == b"mine"
    again = empty_cluster.run("submit", "-i", str(path), "--skip-existing", timeout=120)
    assert again.returncode == 4, again.stderr
    assert f"{COUNT + 2} files: {COUNT} complete, {COUNT} of them before (" in again.stderr
    assert "line 1, " in again.stderr
    assert "DestinationExists, exit 4, job" in again.stderr
    assert "DigestMismatch, exit 3, job" in again.stderr


def test_the_same_command_again_brings_nothing_that_is_complete(empty_cluster, served, begin):
    """Also after its client was killed."""
    empty_cluster.start_worker("--concurrency", "4")
    # These wait at the gate behind their first block.
    large = [f"/large{number}.bin" for number in range(10)]
    for number, path in enumerate(large):
        served.contents[path] = random.Random(number).randbytes(300_000 + number)
    small = [path for path in served.contents if path not in large]
    behind = small[-20:]
    path = list_of(empty_cluster, served, *small[:-20], *large, *behind)
    served.gate.clear()
    run = begin(empty_cluster, "submit", "-i", str(path), "-j", "10", "--json")
    wait_until(
        lambda: len(run.stdout.splitlines()) == COUNT - 20 and len(active(empty_cluster)) == 10,
        seconds=90,
        what="the middle",
    )
    run.process.send_signal(signal.SIGKILL)
    run.process.wait(20)
    before = list(served.paths)
    assert not set(before) & set(behind)
    # Some come to their end meanwhile.
    served.gate.set()
    done = empty_cluster.run("submit", "-i", str(path), "-j", "10", "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    records, total = summary(done.stdout)
    assert total["complete_count"] == COUNT + 10
    assert total["complete_before_count"] >= COUNT - 20
    assert len({record["job_id"] for record in records}) == COUNT + 10
    # A large one that waits at the gate is asked for again: by a chunk's task, when the plan has waited long enough.
    assert sorted(each for each in served.paths if each not in large) == sorted(small), (
        "each was asked for once"
    )
    assert are_right(empty_cluster, served)
    again = empty_cluster.run("submit", "-i", str(path), "-j", "3", timeout=120)
    assert again.returncode == 0, again.stderr
    looks = []
    with empty_cluster.orchestrator() as orchestrator:
        found = list(orchestrator.submit_all([url_of(served, each) for each in small], on_look=looks.append))
    assert all(end.was_complete for end in found)
    # Many at a time, as they are known to be small.
    assert len(looks) < COUNT / 6
    assert len(served.paths) == COUNT + 10
    wait_until_clean(empty_cluster.volume)


def test_an_interrupt_leaves_what_was_submitted_and_says_how_to_come_back(
    empty_cluster, served, redis, begin
):
    run = begin(empty_cluster, "submit", "-i", str(list_of(empty_cluster, served)), "-j", "5")
    # Each has a message by then: of a client that ends in between, the sweep would have to find the jobs.
    wait_until(lambda: empty_cluster.waiting_count("chunks") == 4, seconds=60, what="the first messages")
    run.interrupt()
    assert run.ended() == 130
    assert "4 jobs that were submitted go on" in run.stderr
    assert "The same command again" in run.stderr
    assert len(active(empty_cluster)) == 4
    empty_cluster.start_worker("--concurrency", "2")
    wait_until(lambda: not active(empty_cluster), seconds=60, what="their end")
    assert len(served.paths) == 4


def test_standard_input_is_submitted_as_it_comes_and_a_bad_line_is_one_failure(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "2")
    out = (empty_cluster.logs / "out").open("wb")
    err = (empty_cluster.logs / "err").open("wb")
    with out, err:
        run = subprocess.Popen(
            [*COMMAND, "submit", "-i", "-", "--json"],
            env=empty_cluster.environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
        )
    run.stdin.write(f"{url_of(served, '/0.bin')}\n out=first.bin\n\n".encode())
    run.stdin.flush()
    wait_until((empty_cluster.volume / "first.bin").exists, seconds=60, what="the first file")
    run.stdin.write(f"ftp://h/x\nhttp://h/y\n header=a\n{url_of(served, '/1.bin')}".encode())
    run.stdin.close()
    assert run.wait(60) == 2
    records, total = summary((empty_cluster.logs / "out").read_text())
    assert {record["line"]: record["state"] for record in records} == {
        1: "complete", 4: "refused", 5: "refused", 7: "complete"
    }  # fmt: skip
    assert total["exit_code"] == 2
    assert "line 4, what is no URL: A URL with the scheme 'ftp'" in (empty_cluster.logs / "err").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://h/a\nftp://h/b\n", "line 2: A URL with the scheme 'ftp'"),
        ("http://h/a\n out=../b\n", "line 1: '../b' climbs out"),
        ("http://h/a\n\nhttp://h/b\n frob=1\n", "line 3: It has the option 'frob'"),
        ("http://h/a\nhttp://h/a\n", "line 2: It has the URL of line 1"),
        ("http://h/a\thttp://g/a\n", "line 1: It has several URLs"),
    ],
)
def test_of_a_file_with_nonsense_in_it_nothing_is_submitted(empty_cluster, text, said):
    path = empty_cluster.logs / "list"
    path.write_text(text)
    done = empty_cluster.run("submit", "-i", str(path))
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert told.startswith(f"error: {path}, {said}")
    assert told.endswith("Nothing was submitted.")
    assert active(empty_cluster) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("http://h/a", "-i", "LIST"), "not both"),
        (("-i", "LIST", "--detach"), "--detach cannot be combined"),
        (("-i", "LIST", "-o", "x"), "-o is for one file"),
        (("-i", "LIST", "--sha256", "5" * 64), "--sha256 is for one file"),
        (("-i", "LIST", "--checksum", f"md5:{'5' * 32}"), "--checksum is for one file"),
        (("-i", "nothing-there"), "nothing-there cannot be read"),
        (("-i", "."), "is a folder"),
        (("http://h/a", "-j", "3"), "-j is for a list"),
        ((), "Missing argument 'URL'"),
        (("-i", "LIST", "--checksums", "SUMS"), "has no checksum for 'a'"),
    ],
)
def test_what_makes_no_sense_with_a_list_is_said(empty_cluster, args, said):
    (empty_cluster.logs / "list").write_text("http://h/a\n")
    (empty_cluster.logs / "SUMS").write_text(f"{'5' * 64}  b\n{'6' * 64}  c\n")
    names = {"LIST": str(empty_cluster.logs / "list"), "SUMS": str(empty_cluster.logs / "SUMS")}
    done = empty_cluster.run("submit", *(names.get(each, each) for each in args))
    assert done.returncode == 2
    # Long sentences are wrapped, and these have paths of any length.
    assert said in " ".join(done.stderr.split())
    assert active(empty_cluster) == []


def test_an_empty_list_is_complete(empty_cluster):
    done = empty_cluster.run("submit", "-i", os.devnull)
    assert done.returncode == 0
    assert "0 files: 0 complete" in done.stderr


def test_each_file_is_compared_with_its_line_of_a_list_of_checksums(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "4")
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in served.contents.items()}
    digests["/7.bin"] = "5" * 64
    (empty_cluster.logs / "SUMS").write_text(
        "".join(f"{digest}  {path.strip('/')}\n" for path, digest in digests.items())
    )
    done = empty_cluster.run(
        "submit", "-i", str(list_of(empty_cluster, served)), "--json", "--checksums",
        str(empty_cluster.logs / "SUMS"), timeout=120,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    records, _ = summary(done.stdout)
    assert [record["line"] for record in records if record["state"] != "complete"] == [8]
    assert all(record["sha256"] for record in records if record["state"] == "complete")


def test_what_ended_otherwise_is_gone_on_with_and_another_option_is_another_job(empty_cluster, served):
    urls = [url_of(served, path) for path in list(served.contents)[:4]]
    with empty_cluster.orchestrator() as orchestrator:
        with submitting(empty_cluster, urls) as ends:
            wait_until(lambda: len(active(empty_cluster)) == 4, what="four jobs")
            records = {record.url: record.job_id for record in active(empty_cluster)}
            assert orchestrator.pause(records[urls[0]])
            assert orchestrator.cancel(records[urls[1]])
            served.statuses = [404]
            empty_cluster.start_worker("--concurrency", "1")
        states = sorted(end.record.state for end in ends)
        assert states == [JobState.CANCELLED, JobState.COMPLETE, JobState.FAILED, JobState.PAUSED]
        assert {end.error.code for end in ends if end.error} == {"SourceRefused", "JobPaused", "JobCancelled"}
        again = list(orchestrator.submit_all(urls))
        assert {end.record.url: end.record.job_id for end in again} == records
        assert [end.error for end in again] == [None] * 4
        assert sum(end.was_complete for end in again) == 1
        others = list(orchestrator.submit_all(urls, connections=2))
        assert {end.error.code for end in others} == {"DestinationExists"}
        # The same jobs: who adds --skip-existing has them come to another end.
        found = list(orchestrator.submit_all(urls, connections=2, skip_existing=True))
        assert [end.error for end in found] == [None] * 4
        assert all(end.record.was_there for end in found)
        assert {end.record.job_id for end in found} == {end.record.job_id for end in others}
        served.paths.clear()
        for _ in range(2):
            anew = list(orchestrator.submit_all(urls, overwrite=True))
            assert [(end.error, end.was_complete) for end in anew] == [(None, False)] * 4
        assert len(served.paths) == 8


def test_a_file_of_another_size_or_digest_is_not_skipped(empty_cluster, served):
    empty_cluster.start_worker("--concurrency", "2")
    content = served.contents["/0.bin"]
    (empty_cluster.volume / "0.bin").write_bytes(content)
    (empty_cluster.volume / "longer.bin").write_bytes(content + b"x")
    (empty_cluster.volume / "other.bin").write_bytes(b"x" * len(content))
    url, digests = url_of(served, "/0.bin"), {"sha-256": hashlib.sha256(content).hexdigest()}
    files = [
        Wanted(url, digests=digests),
        Wanted(url, "longer.bin"),
        Wanted(url, "other.bin", digests),
        Wanted(url, "new.bin", digests),
    ]
    with empty_cluster.orchestrator() as orchestrator:
        ends = {end.record.job_id: end for end in orchestrator.submit_all(files, skip_existing=True)}
        found = sorted((end.error.code if end.error else "", end.record.was_there) for end in ends.values())
        assert found == [("", False), ("", True), ("DestinationExists", False), ("DestinationExists", False)]
        (there,) = [job_id for job_id, end in ends.items() if end.record.was_there]
        assert orchestrator.job(there).verify(60).is_same
    assert (empty_cluster.volume / "other.bin").read_bytes() == b"x" * len(content)
    wait_until_clean(empty_cluster.volume)


def test_two_entries_are_never_one_job(empty_cluster, served, redis):
    """Neither the same twice, nor another one whose id is the same by chance."""
    url = url_of(served, "/0.bin")
    empty_cluster.start_worker("--concurrency", "2")
    with empty_cluster.orchestrator() as orchestrator:
        first, twice = sorted(orchestrator.submit_all([url, url]), key=lambda end: isinstance(end, Refused))
        assert isinstance(first, Ended)
        assert first.error is None
        assert isinstance(twice, Refused)
        assert "listed twice" in twice.error.message
        redis.client().hset(f"manyhands:job:{first.record.job_id}", "entry", "another")
        (refused,) = orchestrator.submit_all([url])
        assert isinstance(refused, Refused)
        assert "by chance" in refused.error.message


def test_a_file_that_has_no_time_left_ends_without_any_worker(empty_cluster, served):
    with empty_cluster.orchestrator() as orchestrator:
        (end,) = orchestrator.submit_all([url_of(served, "/0.bin")], timeout_seconds=0.2)
    assert end.error.code == "JobTimedOut"


def test_a_list_outlives_a_redis_that_comes_back_empty(served, tmp_path, begin):
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        run = begin(one, "submit", "-i", str(list_of(one, served)), "-j", "20", "--json")
        wait_until(lambda: len(active(one)) >= 4, seconds=60, what="the first jobs")
        ids = {record.job_id for record in active(one)}
        redis.process.kill()
        redis.process.wait(20)
        wait_until(lambda: "Waiting for it." in run.stderr, seconds=60, what="the hint")
        second = subprocess.Popen(redis.process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            one.start_worker("--concurrency", "4")
            assert run.ended(seconds=120) == 0, run.stderr
            records, total = summary(run.stdout)
            one.end()
        finally:
            second.terminate()
            second.wait(20)
    assert total["complete_count"] == COUNT
    assert ids <= {record["job_id"] for record in records}
    assert are_right(one, served)
