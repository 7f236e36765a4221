"""Whole-file digests through real workers: where they come from, and what becomes of a file that is another."""

from __future__ import annotations

import hashlib
import json
import random

import psutil
import pytest

from orchestrator import Access, JobEndedBadly
from support.behaviours import by_path, plain, redirect, serve, when
from support.cluster import Cluster, cluster
from support.files import MIB, wait_until_clean
from support.origin import origin
from support.redis_server import redis_server
from support.scripted import scripted_server
from support.tools import wait_until
from tasks.transfer.digests import crc32c

CONTENT = random.Random(21).randbytes(8 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
CRC32C = f"{crc32c(CONTENT):08x}"
WRONG = "5" * 64
HASHED_AHEAD = "hashed while parts were fetched"


@pytest.fixture(scope="module")
def digests_cluster(tmp_path_factory):
    # A Redis of its own: other tests empty the one that they share.
    folder = tmp_path_factory.mktemp("digests")
    with redis_server(folder) as redis, cluster(redis, folder) as one:
        one.start_worker("--concurrency", "4", ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.1")
        yield one


@pytest.fixture
def one_worker(digests_cluster: Cluster):
    yield digests_cluster
    for path in digests_cluster.volume.iterdir():
        if path.is_file():
            path.unlink()


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def submit(one: Cluster, url: str, name: str = "file.bin", **options):
    with one.orchestrator() as orchestrator:
        return orchestrator.submit(url, name, **{"chunk_size_bytes": MIB, "sync": False, **options}).wait(60)


def failure(one: Cluster, url: str, **options):
    with pytest.raises(JobEndedBadly) as caught:
        submit(one, url, **options)
    assert not (one.volume / "file.bin").exists()
    with one.orchestrator() as orchestrator:
        assert orchestrator.cancel(caught.value.record.job_id)
    wait_until_clean(one.volume)
    return caught.value.record.error


@pytest.mark.parametrize("layout", ["shared", "parts"])
def test_parts_are_hashed_while_others_are_fetched(one_worker, served, layout):
    served.bytes_per_second = 2 * MIB
    before = one_worker.log().count(HASHED_AHEAD)
    record = submit(
        one_worker,
        served.url,
        layout=layout,
        sha256=SHA256,
        digests={"md5": MD5},
    )
    assert (one_worker.volume / "file.bin").read_bytes() == CONTENT
    assert record.sha256 == SHA256
    assert record.digests == {"sha-256": SHA256, "md5": MD5}
    assert record.crc32c == CRC32C
    assert one_worker.log().count(HASHED_AHEAD) == before + 1
    wait_until_clean(one_worker.volume)


def test_a_worker_that_dies_while_hashing_costs_a_pass_and_no_more(empty_cluster, served):
    worker = empty_cluster.start_worker("--concurrency", "4")
    served.bytes_per_second = MIB
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, "file.bin", chunk_size_bytes=MIB, sha256=SHA256)
        wait_until(lambda: job.status().chunks_done >= 2, what="two chunks")
        # The first of the two serves plans and merges; the worker starts it again.
        first = min(psutil.Process(worker.pid).children(), key=lambda process: process.create_time())
        first.kill()
        record = job.wait(60)
    assert record.sha256 == SHA256
    assert (empty_cluster.volume / "file.bin").read_bytes() == CONTENT
    assert HASHED_AHEAD not in empty_cluster.log()


def test_a_part_that_the_volume_changes_is_fetched_again(one_worker, served):
    served.bytes_per_second = 2 * MIB
    # The last chunk will be there when nobody has hashed it yet: the one before it is held back.
    served.slow_starts[6 * MIB] = MIB / 4
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(
            served.url, "file.bin", chunk_size_bytes=MIB, sha256=SHA256, layout="shared"
        )
        folder = one_worker.volume / ".orchestrator" / job.job_id
        wait_until(lambda: list(folder.glob("plan-*/00007.receipt")), what="the last chunk's receipt")
        (shared,) = folder.glob("plan-*/shared")
        with shared.open("r+b") as file:
            file.seek(7 * MIB + 5)
            file.write(bytes([CONTENT[7 * MIB + 5] ^ 0xFF]))
        record = job.wait(60)
    assert (one_worker.volume / "file.bin").read_bytes() == CONTENT
    assert record.sha256 == SHA256
    assert record.chunks_done == record.chunks_count == 8
    assert served.requests.count(f"bytes={7 * MIB}-{8 * MIB - 1}") == 2
    wait_until_clean(one_worker.volume)


def sums(*lines: str):
    return plain("200 OK", body="\n".join(lines).encode())


def test_a_list_of_checksums_is_read_by_the_worker(one_worker):
    handler = by_path({"/SHA256SUMS": sums(f"{WRONG}  other", f"{SHA256} *big.iso")}, serve(CONTENT))
    with scripted_server(handler) as server:
        base = server.url.rpartition("/")[0]
        record = submit(one_worker, f"{base}/big.iso", checksums=f"{base}/SHA256SUMS")
    assert record.sha256 == SHA256
    assert (one_worker.volume / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (sums(f"{WRONG}  big.iso"), "DigestMismatch", (WRONG, SHA256)),
        (sums(f"{SHA256}  other.iso"), "BadOption", ("/SUMS", "'big.iso'", "'file.bin'")),
        (plain("404 Not Found"), "SourceRefused", ("/SUMS", "404")),
        (plain("200 OK", body=b"x" * (MIB + 1)), "BadResponse", ("/SUMS", str(MIB))),
        (plain("500 No"), "NoProgress", ("/SUMS", "500")),
        (redirect("ftp://h/SUMS"), "RedirectRefused", ("/SUMS",)),
    ],
)
def test_a_list_that_does_not_help_fails_the_job(one_worker, answer, code, said):
    with scripted_server(by_path({"/SUMS": answer}, serve(CONTENT))) as server:
        base = server.url.rpartition("/")[0]
        error = failure(one_worker, f"{base}/big.iso", checksums=f"{base}/SUMS?sig=s3cret")
    assert error.code == code, error
    for text in said:
        assert text in error.message
    assert "s3cret" not in error.message


def test_credentials_go_to_a_list_of_the_same_origin_alone(one_worker):
    access = Access(headers={"X-Token": "t0ken"}, user="me:secret")

    def has_credentials(request) -> bool:
        return bool(request.header("X-Token") and request.header("Authorization"))

    own = by_path(
        {"/SUMS": when(has_credentials, sums(f"{SHA256}  big.iso"), plain("403 No"))}, serve(CONTENT)
    )
    with scripted_server(own) as server, scripted_server(sums(f"{SHA256}  big.iso")) as other:
        base = server.url.rpartition("/")[0]
        assert submit(one_worker, f"{base}/big.iso", checksums=f"{base}/SUMS", access=access).sha256 == SHA256
        elsewhere = other.url.rpartition("/")[0]
        record = submit(
            one_worker, f"{base}/big.iso", checksums=f"{elsewhere}/SUMS", access=access, overwrite=True
        )
        assert record.sha256 == SHA256
        (asked,) = other.requests
        assert asked.header("X-Token") is None
        assert asked.header("Authorization") is None
        # Of its own it may have some.
        submit(
            one_worker,
            f"{base}/big.iso",
            checksums=f"{elsewhere.replace('//', '//you:s3cret@')}/SUMS",
            access=access,
            overwrite=True,
        )
        assert other.requests[-1].header("Authorization") == "Basic eW91OnMzY3JldA=="


def test_a_lists_secrets_rest_sealed(empty_cluster):
    with empty_cluster.orchestrator() as orchestrator:
        orchestrator.submit("http://h/x", checksums="http://me:p4ssword@other/SUMS?sig=s3cret")
        client = empty_cluster.redis.client()
        text = str([client.hgetall(key) for key in client.scan_iter("*job:*")]) + str(
            client.lrange("control", 0, -1)
        )
    assert "p4ssword" not in text
    assert "s3cret" not in text


def test_a_list_in_a_file_is_read_where_the_job_is_submitted(one_worker, served, tmp_path):
    listed = tmp_path / "SUMS"
    listed.write_text(f"SHA256 (big.bin) = {SHA256}\n")
    done = one_worker.run("submit", served.url, "--checksums", str(listed), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == SHA256
    assert (one_worker.volume / "big.bin").read_bytes() == CONTENT
    listed.write_text(f"{SHA256}  another\n")
    done = one_worker.run("submit", served.url, "--checksums", str(listed), "--json")
    assert done.returncode == 2
    assert "no checksum for 'big.bin'" in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.fixture(scope="module")
def complete(digests_cluster, tmp_path_factory):
    """A finished job, and where its file is kept."""
    with origin(CONTENT) as one:
        return submit(digests_cluster, one.url, "done.bin", digests={"md5": MD5})


@pytest.fixture
def finished(complete, one_worker):
    path = one_worker.volume / "done.bin"
    path.write_bytes(CONTENT)
    return path


def verify(one: Cluster, *args: str, code: int):
    done = one.run("verify", *args, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout), " ".join(done.stderr.split())


def test_a_finished_job_is_verified_by_a_worker(one_worker, complete, finished):
    result, stderr = verify(one_worker, complete.job_id, code=0)
    assert stderr == ""
    assert result["is_same"] is True
    assert result["path"] == str(finished)
    assert {each["what"]: each["actual"] for each in result["compared"]} == {
        "size_bytes": str(len(CONTENT)), "crc32c": CRC32C, "md5": MD5
    }  # fmt: skip
    done = one_worker.run("verify", complete.job_id)
    assert done.returncode == 0
    assert f"crc32c {CRC32C} is right" in done.stdout


def test_a_submitter_without_the_volume_can_verify(one_worker, complete, finished, tmp_path):
    result = one_worker.run(
        "verify", complete.job_id, "--json", ORCHESTRATOR_VOLUME=str(tmp_path / "nowhere")
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["is_same"] is True


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), {"crc32c", "md5"}),
        (CONTENT[:-1], {"size_bytes", "crc32c", "md5"}),
        (b"", {"size_bytes", "crc32c", "md5"}),
    ],
)
def test_a_file_that_changed_since_is_told_with_both_values(one_worker, complete, finished, changed, differs):
    finished.write_bytes(changed)
    result, stderr = verify(one_worker, complete.job_id, code=3)
    assert result["is_same"] is False
    assert {each["what"] for each in result["compared"] if each["expected"] != each["actual"]} == differs
    assert CRC32C in stderr
    assert f"{crc32c(changed):08x}" in stderr


def test_a_job_whose_file_cannot_be_verified_says_why(one_worker, complete, finished, served):
    finished.unlink()
    done = one_worker.run("verify", complete.job_id, "--json")
    assert done.returncode == 4, done.stderr
    assert str(finished) in " ".join(done.stderr.split())
    assert done.stdout == ""
    done = one_worker.run("verify", "0" * 12)
    assert done.returncode == 2, done.stderr
    served.gate.clear()
    with one_worker.orchestrator() as orchestrator:
        job = orchestrator.submit(served.url, "other.bin", chunk_size_bytes=4 * MIB)
        wait_until(lambda: job.status().state == "fetching", what="a job that is being fetched")
        done = one_worker.run("verify", job.job_id)
        assert done.returncode == 2, done.stderr
        assert "is fetching" in done.stderr
        job.cancel()
    wait_until_clean(one_worker.volume)


def test_verifying_without_a_worker_says_so_and_ends_in_time(empty_cluster):
    with empty_cluster.orchestrator() as orchestrator:
        job = orchestrator.submit("http://127.0.0.1:1/x")
        done = empty_cluster.run("verify", job.job_id, "--timeout", "4")
    assert done.returncode == 7, done.stderr
    assert "No worker is listening on merge" in done.stderr


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--sha256", SHA256], 0),
        (["--sha256", WRONG], 3),
        (["--checksum", f"crc32c:{CRC32C}"], 0),
        (["--checksum", f"crc32c:{CRC32C}", "--checksum", f"sha512:{'5' * 128}"], 3),
        (["--checksums", "SUMS"], 0),
        (["--checksums", "WRONG"], 3),
        (["--checksums", "OTHER"], 2),
        (["--checksums", "SUMS", "--sha256", WRONG], 2),  # they contradict each other
        (["--checksums", "nowhere"], 2),
        (["--checksum", f"sha-256:{SHA256}", "--checksum", f"sha256:{WRONG}"], 2),
        ([], 2),
    ],
)  # fmt: skip
def test_a_file_here_is_verified_without_a_cluster(empty_cluster, tmp_path, options, code):
    logs = empty_cluster.logs
    (logs / "big.iso").write_bytes(CONTENT)
    for name, line in (
        ("SUMS", f"{SHA256}  big.iso"),
        ("WRONG", f"{WRONG}  big.iso"),
        ("OTHER", f"{SHA256}  x"),
    ):
        (logs / name).write_text(line)
    options = [
        str(logs / each) if each in ("SUMS", "WRONG", "OTHER", "nowhere") else each for each in options
    ]
    done = empty_cluster.run(
        "verify", str(logs / "big.iso"), *options, "--json", ORCHESTRATOR_REDIS_URL="redis://127.0.0.1:1/0"
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 3:
        assert json.loads(done.stdout)["is_same"] is False
        assert "5" * 40 in done.stderr
    elif code == 0:
        assert json.loads(done.stdout)["is_same"] is True


def test_a_file_here_is_verified_with_a_list_behind_a_url(empty_cluster):
    path = empty_cluster.logs / "big.iso"
    path.write_bytes(CONTENT)
    with scripted_server(sums(f"{SHA256}  big.iso")) as server:
        done = empty_cluster.run("verify", str(path), "--checksums", server.url)
    assert done.returncode == 0, done.stderr


def test_what_is_neither_a_job_nor_a_file_is_a_usage_error(empty_cluster):
    done = empty_cluster.run("verify", "nothing-of-that-name")
    assert done.returncode == 2
    assert "neither the id of a job nor a file" in done.stderr
