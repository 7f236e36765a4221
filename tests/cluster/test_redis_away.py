"""Redis goes away, freezes, or is emptied, and everybody goes on with what they have."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import threading
from urllib.parse import urlsplit

import psutil
import pytest

from orchestrator import Orchestrator, StillRunning
from orchestrator.lost import RETURN_SECONDS, LostRecords
from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.redis_server import redis_server
from support.tools import end, wait_until
from tasks.app import VERIFY_TASK, make_app
from tasks.jobs import JobState
from tasks.records import NoSuchJob, RecordLost, RedisAway, RedisError
from tasks.settings import Settings

CONTENT = random.Random(5).randbytes(24 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHUNK_BYTES = 4 * MIB
#: A frozen Redis is given up after this.
SHORT = {"ORCHESTRATOR_REDIS_TIMEOUT_SECONDS": "2"}


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


@pytest.fixture
def one(tmp_path):
    """A cluster whose Redis remembers what it was told, but for the last second."""
    with redis_server(tmp_path, appends=True) as redis, cluster(redis, tmp_path) as made:
        yield made


def kept_bytes(one: Cluster) -> int:
    """What the volume takes of jobs, in bytes: of a file with holes, what is in it."""
    total = 0
    for path in (one.volume / ".orchestrator").rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.stat().st_blocks * 512
    return total


def children(worker: subprocess.Popen[bytes]) -> set[int]:
    return {process.pid for process in psutil.Process(worker.pid).children()}


def fetches_from(pid: int, url: str) -> bool:
    port = urlsplit(url).port
    connections = psutil.Process(pid).net_connections("tcp")
    return any(each.raddr and each.raddr.port == port for each in connections)


def all_answer(orchestrator: Orchestrator) -> bool:
    with contextlib.suppress(RedisError):
        return not orchestrator.unserved_queues()
    return False


def is_there(one: Cluster) -> bool:
    return hashlib.sha256((one.volume / "big.bin").read_bytes()).hexdigest() == SHA256


@contextlib.contextmanager
def waiting(job, timeout_seconds=120):
    """Wait for a job in another thread; yields what is told of it, whose record is there in the end."""
    told = {"away": [], "looks": 0, "record": None}

    def look(_):
        told["looks"] += 1

    def wait():
        told["record"] = job.wait(timeout_seconds, on_look=look, on_away=told["away"].append)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield told
    thread.join(timeout_seconds)
    assert told["record"] is not None, "the wait ended badly"


def test_workers_fetch_on_while_redis_is_dead_and_report_when_it_is_back(one: Cluster, served):
    worker = one.start_worker("--concurrency", "8")
    processes = children(worker)
    served.bytes_per_second = MIB
    with one.orchestrator() as orchestrator:
        # Four connections for eight slots: with messages that are unacknowledged and a slot that asks for more,
        # Celery's own consumer ends the process. More chunks than connections: at the end of a job others take over,
        # and who is not told of that, because Redis is away, fetches the same.
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES, connections=4)
        # The plan has handed the first chunk's beginning over by then.
        wait_until(lambda: job.status().bytes_done > 5 * MIB, what="the first bytes of four chunks")
        with waiting(job) as told:
            wait_until(lambda: told["looks"], what="the first look")
            one.redis.kill()
            before_bytes, kept_before_bytes = served.served_bytes, kept_bytes(one)
            wait_until(lambda: told["away"], what="the client's notice")
            wait_until(lambda: served.served_bytes > before_bytes + 6 * MIB, what="bytes without Redis")
            # As long as it takes the kernel to count them.
            wait_until(lambda: kept_bytes(one) > kept_before_bytes + 4 * MIB, what="bytes on the volume")
            one.redis.start()
        record = told["record"]
    again_share = served.served_bytes / len(CONTENT) - 1
    print(f"fetched again: {again_share:.2%}")
    assert record.state is JobState.COMPLETE
    assert is_there(one)
    assert again_share < 0.05
    assert children(worker) == processes, one.log()[-4000:]
    # Nothing waits for the visibility timeout: what threads had was acknowledged, and the rest was given back.
    client = one.redis.client()
    wait_until(
        lambda: not [raw for raw in client.hvals("manyhands:unacked") if "tasks.fetch_chunk" in raw],
        what="the chunks' acknowledgements",
    )
    wait_until_clean(one.volume)


def test_a_redis_that_was_full_for_a_while_has_cost_no_slot(one: Cluster, served):
    worker = one.start_worker("--concurrency", "4", "--processes", "1")
    processes = children(worker)
    served.bytes_per_second = MIB
    client = one.redis.client()
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=2 * MIB, connections=4)
        wait_until(lambda: job.status().bytes_done > 5 * MIB, what="the first bytes")
        client.config_set("maxmemory", 1)
        # No result of theirs is taken, and no message either: each slot was in the midst of a chunk.
        wait_until(lambda: one.log().count("result not told") >= 4, what="the end of four chunks")
        client.config_set("maxmemory", 0)
        served.bytes_per_second = None
        assert job.wait(120).state is JobState.COMPLETE
    assert is_there(one)
    assert children(worker) == processes, one.log()[-4000:]


def test_workers_outlive_a_redis_that_goes_away_again_and_again(one: Cluster, served):
    worker = one.start_worker("--concurrency", "8")
    processes = children(worker)
    served.bytes_per_second = MIB / 4
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > MIB, what="the first bytes")
        with waiting(job):
            for _ in range(3):
                one.redis.kill()
                before_bytes = served.served_bytes
                wait_until(lambda: served.served_bytes > before_bytes + MIB, what="bytes without Redis")  # noqa: B023
                one.redis.start()
                wait_until(lambda: all_answer(orchestrator), seconds=60, what="the workers' return")
    assert is_there(one)
    assert children(worker) == processes


def test_what_waits_for_its_time_in_a_worker_is_not_forgotten_with_the_connection(one: Cluster, served):
    one.start_worker("--concurrency", "4")
    app = make_app(Settings(redis_url=one.redis.url))
    with one.orchestrator() as orchestrator, app:
        job = orchestrator.submit(served.url)
        job.wait(60)
        app.send_task(VERIFY_TASK, args=(job.job_id, "token"), countdown=30, ignore_result=True)
        wait_until(lambda: one.redis.client().hlen("manyhands:unacked") == 1, what="the worker's taking it")
        one.redis.kill()
        wait_until(lambda: "Redis not reached" in one.log(), what="the notice")
        one.redis.start()
        # Its time is the same as before; and it is nowhere else.
        answers: list[str] = []

        def takes_answer() -> bool:
            with contextlib.suppress(RedisAway):
                answers.extend(filter(None, [orchestrator.records.take_answer("token", 1)]))
            return bool(answers)

        wait_until(takes_answer, seconds=90, what="the answer")
    wait_until(lambda: one.redis.client().hlen("manyhands:unacked") == 0, what="its acknowledgement")
    assert one.waiting_count("merge") == 0


def test_a_worker_ends_when_it_is_told_to_though_redis_is_dead(one: Cluster, served):
    worker = one.start_worker("--concurrency", "4")
    processes = children(worker)
    served.bytes_per_second = MIB / 4
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > MIB, what="the first bytes")
        one.redis.kill()
        wait_until(lambda: "Redis not reached" in one.log(), what="the notice")
        end(worker, seconds=60)
        assert not [pid for pid in processes if psutil.pid_exists(pid)]
        one.redis.start()


def test_a_redis_that_froze_is_waited_for(one: Cluster, served):
    worker = one.start_worker("--concurrency", "4", **SHORT)
    processes = children(worker)
    served.bytes_per_second = MIB
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().bytes_done > MIB, what="the first bytes")
        one.redis.stop_process()
        before_bytes = served.served_bytes
        wait_until(lambda: served.served_bytes > before_bytes + 8 * MIB, what="bytes without Redis")
        wait_until(lambda: "progress not reported" in one.log(), what="the notice of a freeze")
        for command in (["list"], ["status", job.job_id], ["cancel", job.job_id]):
            told = one.run(*command, **SHORT)
            assert told.returncode == 5
            assert "cannot be reached" in told.stderr
        one.redis.continue_process()
        record = job.wait(120)
    assert record.state is JobState.COMPLETE
    assert is_there(one)
    assert children(worker) == processes


def test_a_celery_process_that_was_killed_is_started_again_and_the_job_ends_well(one: Cluster, served):
    worker = one.start_worker("--concurrency", "8")
    processes = children(worker)
    served.bytes_per_second = MIB / 2
    with one.orchestrator() as orchestrator:
        # All chunks are begun: what a dead process only held would come again by the sweep, or in a quarter of an hour.
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: served.open_count >= 6, what="connections")
        wait_until(lambda: job.status().bytes_done > 4 * MIB, what="the first bytes")
        psutil.Process(next(pid for pid in processes if fetches_from(pid, served.url))).kill()
        wait_until(lambda: len(children(worker) - processes) == 1, what="a process in its place")
        assert job.wait(150).state is JobState.COMPLETE
    assert is_there(one)
    assert worker.poll() is None


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_a_waiting_submit_says_that_redis_is_away_and_that_it_is_back(one: Cluster, served, flags):
    one.start_worker("--concurrency", "4")
    served.gate.clear()
    submit = subprocess.Popen(
        [*COMMAND, "submit", served.url, "--chunk-size", "4M", *flags],
        env=one.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: served.open_count > 1, what="connections")
    # From here on the gate is open for the chunks that are open, and for as long as Redis is away it only has to wait.
    one.redis.kill()
    said = [submit.stderr.readline()]
    while "is away" not in said[-1]:
        assert said[-1], "it ended"
        said.append(submit.stderr.readline())
    served.gate.set()
    one.redis.start()
    out, err = submit.communicate(timeout=120)
    where = f"Redis at redis://127.0.0.1:{one.redis.port}/0"
    text = "".join(said) + err
    assert submit.returncode == 0, text
    assert text.count(f"{where} is away; the workers go on with what they have. Waiting for it.") == 1
    assert text.count(f"{where} is back.") == 1
    assert (out.strip() == str(one.volume / "big.bin")) is not bool(flags)
    assert is_there(one)


def test_a_wait_whose_time_is_over_while_redis_is_away_says_both(one: Cluster, served):
    one.start_worker("--concurrency", "4")
    served.gate.clear()
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        wait_until(lambda: job.status().state is JobState.FETCHING, what="chunks")
        wait = subprocess.Popen(
            [*COMMAND, "wait", job.job_id, "--timeout", "8", "--json"],
            env=one.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client, channel = one.redis.client(), f"manyhands:job:{job.job_id}:changes"
        wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 1, what="the wait's begin")
        looks_count = client.info("stats")["total_commands_processed"]
        wait_until(
            lambda: client.info("stats")["total_commands_processed"] > looks_count + 50, what="some looks"
        )
        one.redis.kill()
        out, err = wait.communicate(timeout=60)
        one.redis.start()
    assert wait.returncode == 7, err
    sentence = " ".join(err.split())
    assert "Redis is away, and the workers go on" in sentence
    assert f"orchestrator wait {job.job_id}" in sentence
    assert json.loads(out)["state"] == "fetching"  # as it was seen last
    served.gate.set()


def test_the_api_says_how_a_job_was_seen_last(one: Cluster, served):
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url)
        one.redis.kill()
        with pytest.raises(StillRunning) as caught:
            job.wait(1)
        assert caught.value.record is None
        assert isinstance(caught.value.away, RedisAway)
        assert job.job_id in str(caught.value)
        with pytest.raises(RedisAway):
            orchestrator.wait_for_all([job], 1)


def test_a_redis_that_refuses_us_is_not_away(one: Cluster, served):
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url)
        one.redis.kill()
        one.redis.password = "another"
        one.redis.start()
        for wait in (job.wait, lambda: orchestrator.wait_for_all([job])):
            with pytest.raises(RedisError, match="refused the password") as caught:
                wait()
            assert not isinstance(caught.value, RedisAway)


@pytest.mark.parametrize("command", [["list"], ["status", "0123456789ab"], ["cancel", "0123456789ab"]])
def test_commands_end_at_once_while_redis_is_dead(one: Cluster, command):
    one.redis.kill()
    told = one.run(*command)
    assert told.returncode == 5
    assert "cannot be reached" in told.stderr
    assert told.stderr.count("\n") <= 3


def test_many_jobs_are_waited_for_while_redis_is_away(one: Cluster, served):
    one.start_worker("--concurrency", "4")
    served.contents = {f"/{n}.bin": random.Random(n).randbytes(10_000) for n in range(8)}
    away, looks = [], []
    with one.orchestrator() as orchestrator:
        jobs = orchestrator.submit_many([served.url.replace("/big.bin", path) for path in served.contents])
        large = orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES)
        served.bytes_per_second = 2 * MIB
        found = []
        thread = threading.Thread(
            target=lambda: found.extend(
                orchestrator.wait_for_all(
                    [*jobs, large, large], 120, on_look=looks.append, on_away=away.append
                )
            )
        )
        thread.start()
        wait_until(lambda: looks and looks[-1] == 1, what="the end of the small ones")
        # Of these nobody could put anything back.
        for job in jobs:
            one.redis.client().delete(f"manyhands:job:{job.job_id}")
        one.redis.kill()
        wait_until(lambda: away, what="the notice")
        one.redis.start()
        thread.join(120)
    assert [record.state for record in found] == [JobState.COMPLETE] * 10
    assert found[-1] == found[-2]
    assert is_there(one)


def test_a_job_that_an_emptied_redis_forgot_before_it_was_planned_is_put_back_by_who_waits(
    one: Cluster, served
):
    served.contents = {f"/{n}.bin": random.Random(n).randbytes(10_000) for n in range(3)}
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, sha256=SHA256)
        others = orchestrator.submit_many([served.url.replace("/big.bin", path) for path in served.contents])
        created_at = job.status().created_at
        found = []
        thread = threading.Thread(target=lambda: found.extend(orchestrator.wait_for_all(others, 120)))
        thread.start()
        with waiting(job) as told:
            wait_until(lambda: told["looks"], what="the first look")
            one.redis.client().flushall()
            wait_until(lambda: len(orchestrator.list()) == 4, what="the jobs' return")
            assert job.status().created_at == created_at
            one.start_worker("--concurrency", "4")
        thread.join(120)
    assert told["record"].job_id == job.job_id
    assert told["record"].sha256 == SHA256
    assert [record.state for record in found] == [JobState.COMPLETE] * 3
    assert is_there(one)


def test_what_workers_put_back_is_not_written_over(one: Cluster, served):
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url)
        records, new = orchestrator.records, job.submitted.new
        records.transition(job.job_id, JobState.FETCHING)
        assert not records.create_missing(new, now=1.0)
        assert job.status().state is JobState.FETCHING
        one.redis.client().flushall()
        assert records.create_missing(new, now=1.0)
        assert job.status().created_at == 1.0


def test_a_record_that_comes_back_is_waited_for(one: Cluster, served):
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url)
        orchestrator.records.transition(job.job_id, JobState.FETCHING)
        client, key = one.redis.client(), f"manyhands:job:{job.job_id}"
        record = client.hgetall(key)
        with waiting(job) as told:
            wait_until(lambda: told["looks"], what="the first look")
            client.flushall()
            looks = told["looks"]
            # It is not put back as a new job: what is on the volume is further on.
            client.hset(key, mapping=record | {"state": "complete"})
        assert told["looks"] > looks


def test_a_record_that_nobody_puts_back_is_lost_in_the_end(one: Cluster, served):
    now = [0.0]
    with one.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url)
        lost = LostRecords(orchestrator, clock=lambda: now[0])
        one.redis.client().flushall()
        with pytest.raises(NoSuchJob, match="There is no job"):
            lost.look(job.job_id, None)  # that was never seen, and is not ours
        lost.look(job.job_id, JobState.FETCHING, job.submitted)
        lost.look(job.job_id, None, job.submitted)
        now[0] = RETURN_SECONDS
        lost.look(job.job_id, None, job.submitted)
        lost.look(job.job_id, JobState.FETCHING, job.submitted)  # back, and away once more
        lost.look(job.job_id, None, job.submitted)
        now[0] = 2 * RETURN_SECONDS + 1
        with pytest.raises(RecordLost, match=r"Redis was emptied.*orchestrator recover"):
            lost.look(job.job_id, None, job.submitted)
        assert orchestrator.list() == []


def test_a_complete_job_stays_so_though_redis_has_lost_its_last_writes(tmp_path, served):
    small = CONTENT[: MIB // 4]
    served.contents["/small.bin"] = small
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        one.start_worker("--concurrency", "4", "--processes", "1")
        with one.orchestrator() as orchestrator:
            served.gate.clear()
            jobs = [
                orchestrator.submit(served.url, chunk_size_bytes=CHUNK_BYTES),
                orchestrator.submit(served.url.rpartition("/")[0] + "/small.bin"),
            ]
            wait_until(lambda: jobs[0].status().state is JobState.FETCHING, what="the chord")
            wait_until(lambda: "/small.bin" in served.paths, what="the plan of the small one")
            # What a replica or a file has of it that is behind.
            redis.client().save()
            served.gate.set()
            assert [job.wait(60).state for job in jobs] == [JobState.COMPLETE] * 2
            redis.kill()
            redis.start()
            wait_until(lambda: one.log().count("Redis does not know it of") == 2, what="both told again")
            assert [job.status().state for job in jobs] == [JobState.COMPLETE] * 2
        assert is_there(one)
        assert (one.volume / "small.bin").read_bytes() == small
        wait_until_clean(one.volume)
