"""What is wrong is said in one sentence, with the exit code of whoever has to act, and nothing stays behind.

Every URL here has a secret in its query: no command and no worker may ever show it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support.cluster import COMMAND, KEY
from support.files import leftovers, sha256_of
from support.redis_server import redis_server
from support.scripted import Request, scripted_server
from support.system_helpers import (
    Run,
    impostor_redis,
    start,
    tmpfs,
    told_error,
    wait_until_fetching,
)
from support.tools import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cluster import Cluster

pytestmark = pytest.mark.long

ORIGIN, VOLUME, USAGE, REDIS = 3, 4, 2, 5
SECRETS = ("query-secret", "user-secret", "header-secret", "redis-secret", "wrong-secret")
QUERY = "?token=query-secret"


def assert_told(done: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """The command ended with `code` and one sentence that has these words, and showed no secret."""
    for secret in SECRETS:  # first: a secret told is worse than a word missing
        assert secret not in done.stdout + done.stderr
    assert done.returncode == code, done.stderr
    sentence = told_error(done.stderr)
    for word in words:
        assert word.lower() in sentence.lower(), sentence
    return sentence


def as_done(run: Run, code: int) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(run.process.args, code, run.stdout, run.stderr)


@pytest.fixture
def place(one_worker: Cluster) -> Iterator[Path]:
    """The cluster's volume, with a file and a folder in it that no failure may touch."""
    volume = one_worker.volume
    (volume / "there").write_text("precious")
    (volume / "folder").mkdir()
    yield volume
    try:
        wait_until(lambda: not leftovers(volume), what="nothing of a job being left on the volume")
        assert sorted(path.name for path in volume.iterdir()) == ["folder", "there"]
        assert (volume / "there").read_text() == "precious"
        assert list((volume / "folder").iterdir()) == []
    finally:
        # What one test left must not fail the next.
        for path in volume.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@pytest.fixture
def run_in(one_worker: Cluster, tmp_path: Path):
    """Starts a command in the cluster without waiting for it."""

    def run(*args: str, **variables: str) -> Run:
        return start(
            list(args), environment={**one_worker.environment, **variables}, cwd=tmp_path, outputs=tmp_path
        )

    return run


# --- what the origin answers


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/404", ORIGIN, ["404", "Check the URL"]),
        ("/missing", ORIGIN, ["404"]),
        ("/410", ORIGIN, ["410", "Check the URL"]),
        ("/403", ORIGIN, ["403", "may have expired"]),
        ("/401", ORIGIN, ["401", "--user"]),  # the way on, where one exists
    ],
)
def test_what_the_origin_refuses_is_the_origins_failure(path, code, words, nginx_url, one_worker, place):
    assert_told(one_worker.run("submit", f"{nginx_url}{path}{QUERY}"), code, *words)


def test_a_host_that_does_not_exist_is_the_origins_failure(one_worker, place):
    done = one_worker.run("submit", f"http://no-such-host.invalid/file{QUERY}")
    assert_told(done, ORIGIN, "no-such-host.invalid")


def test_a_refused_connection_is_the_origins_failure(one_worker, place):
    url = f"http://127.0.0.1:{free_port()}/file"
    assert_told(one_worker.run("submit", f"{url}{QUERY}"), ORIGIN, url, "refused")


# --- what is asked for


@pytest.mark.parametrize(
    "url",
    [
        f"not a url{QUERY}",
        f"example.org/file{QUERY}",  # no scheme: what people paste
        f"ftp://me:user-secret@example.org/file{QUERY}",
        f"file:///etc/passwd{QUERY}",
        f"http://{QUERY}",  # no host
        f"http:///file{QUERY}",
        f"http://example.org:port/file{QUERY}",
        f"http://example.org:99999/file{QUERY}",
        f"http://[::1/file{QUERY}",
        f"http://exa mple.org/file{QUERY}",
        f"http://example.org/a\nb{QUERY}",  # a line break would be a second header
        "",
    ],
)
def test_what_is_not_a_url_is_refused_before_anything_is_asked(url, one_worker, place):
    assert_told(one_worker.run("submit", url), USAGE)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/absolute",
        "../climbing",
        "sub/../../climbing",
        "sub/..",
        "..",
        ".",
        "",
        "folder/",  # a folder's name
        ".orchestrator/inside",  # the orchestrator's own
        "./.orchestrator/inside",
        "n" * 300,  # longer than any filesystem's
    ],
)
def test_a_name_that_cannot_be_one_is_refused(name, nginx_url, one_worker, place):
    assert_told(one_worker.run("submit", f"{nginx_url}/one-byte{QUERY}", "-o", name), USAGE)


def test_a_name_that_leaves_the_volume_through_a_link_is_refused(nginx_url, one_worker, place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (place / "link").symlink_to(outside)
    done = one_worker.run("submit", f"{nginx_url}/one-byte{QUERY}", "-o", "link/name")
    (place / "link").unlink()
    assert_told(done, USAGE)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--chunk-size", "abc"],
        ["--chunk-size", "0"],
        ["--chunk-size", "-5"],
        ["--chunk-size", "32X"],  # no such unit
        ["--chunk-size", "0.1"],  # less than a byte
        ["--chunk-size", "1"],  # 67 million chunks
        ["--connections", "0"],
        ["--connections", "1025"],
        ["--connections", "many"],
        ["--sha256", "abc"],
        ["--sha256", "g" * 64],
        ["--sha256", "a" * 63],
        ["--sha256", "a" * 40],  # a SHA-1
        ["--sha256", ""],
        ["--checksum", "a" * 64],  # of which algorithm?
        ["--checksum", "crc32:00000000"],
        ["--checksum", "md5:" + "g" * 32],
        ["--checksum", f"md5:{'a' * 32}", "--checksum", f"md5:{'b' * 32}"],
        ["--sha256", "a" * 64, "--checksum", f"sha-256:{'b' * 64}"],
        ["--checksums", "no-such-file"],
        ["--checksums", "ftp://h/SUMS"],
        ["--timeout", "0"],
        ["--timeout", "-1"],
        ["--timeout", "soon"],
        ["--timeout", "nan"],  # a float to Python, and never over
        ["--layout", "spiral"],
        ["-H", "header-secret without a colon"],
        ["-H", ": header-secret"],
        ["-H", "Accept-Encoding: header-secret"],  # ranges would count compressed bytes
        ["-H", "range: header-secret"],  # each chunk has its own
        ["-H", "Bad Name: header-secret"],
        ["-H", "X-Two: header-secret\r\nX-Lines: header-secret"],
        ["--no-such-option"],
        ["one-more-argument"],
    ],
    ids=" ".join,
)
def test_an_option_that_makes_no_sense_is_refused(options, nginx_url, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/slow/odd-end{QUERY}", *options, timeout=30)
    assert_told(done, USAGE)


def test_a_header_outside_latin_1_is_no_bug(nginx_url, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/one-byte{QUERY}", "-H", "X-Name: Жук", "-o", "name")
    (place / "name").unlink(missing_ok=True)
    assert done.returncode in (0, USAGE), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "job_id"),
    [
        ("status", "0123456789ab"),
        ("wait", "0123456789ab"),
        ("cancel", "0123456789ab"),
        ("pause", "0123456789ab"),
        ("resume", "0123456789ab"),
        ("cancel", "../x"),  # would be a path
        ("cancel", "*"),  # would be all keys
        ("status", ""),  # an unset variable of a script is not "all of them"
    ],
)
def test_an_unknown_job_is_told(command, job_id, one_worker, place):
    assert_told(one_worker.run(command, job_id), USAGE, "no job")


@pytest.mark.parametrize(
    "credentials",
    [
        ["-H", "Authorization: Bearer header-secret"],
        ["--user", "me:user-secret"],
        ["userinfo"],  # in the URL
    ],
    ids=" ".join,
)
def test_credentials_need_a_key_in_a_cluster(credentials, nginx_url, one_worker, place):
    url = f"{nginx_url}/one-byte{QUERY}"
    if credentials == ["userinfo"]:
        url, credentials = url.replace("//", "//me:user-secret@"), []
    done = one_worker.run("submit", url, *credentials, ORCHESTRATOR_SECRET_KEY="")
    assert_told(done, USAGE, "ORCHESTRATOR_SECRET_KEY")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "wrong-secret"),  # not 32 bytes
        ("CONCURRENCY", "many"),
        ("REDIS_TIMEOUT_SECONDS", "-1"),
        ("REDIS_URL", "http://:redis-secret@127.0.0.1/"),
        ("REDIS_URL", "redis://:redis-secret@127.0.0.1:port/0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name, value, nginx_url, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/one-byte{QUERY}", **{f"ORCHESTRATOR_{name}": value})
    assert_told(done, USAGE, f"ORCHESTRATOR_{name}")


def test_a_settings_file_that_cannot_be_read_is_named(home):
    home.settings_file.write_text("concurrency = = 3\n")
    assert_told(home.run("settings"), USAGE, "orchestrator.toml")


# --- the destination


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("there", []),
        ("folder", []),
        ("folder", ["--overwrite"]),  # a folder is never replaced
    ],
)
@pytest.mark.parametrize("file", ["one-byte", "odd-end"])  # published by the plan, and by the merge
def test_a_destination_that_exists_is_left_alone(file, name, options, nginx_url, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/{file}{QUERY}", "-o", name, *options)
    sentence = assert_told(done, VOLUME, name, "left as it is")
    if name == "folder":
        assert "--overwrite" not in sentence  # it would not help


def test_a_file_where_a_folder_is_asked_for_is_left_alone(nginx_url, one_worker, place):
    assert_told(
        one_worker.run("submit", f"{nginx_url}/one-byte{QUERY}", "-o", "there/inner"), VOLUME, "there"
    )


def test_of_two_jobs_for_one_destination_one_completes_and_the_other_is_told(
    nginx_url, documents, place, run_in
):
    runs = [run_in("submit", f"{nginx_url}/slow/odd-end{QUERY}", "-o", "name") for _ in range(2)]
    codes = [run.ended() for run in runs]
    assert sorted(codes) == [0, VOLUME], runs[0].stderr + runs[1].stderr
    loser = runs[codes.index(VOLUME)]
    assert_told(as_done(loser, VOLUME), VOLUME, "name")
    assert re.search(r"Destination(Busy|Exists)", loser.stderr)
    assert sha256_of(place / "name") == documents.digests["odd-end"]
    (place / "name").unlink()


# --- the volume


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that may not be written; for root, whom permissions do not stop, a mount."""
    if os.getuid() == 0:
        with tmpfs(folder, "ro,size=1m") as mounted:
            yield mounted
        return
    folder.mkdir()
    folder.chmod(0o555)
    try:
        yield folder
    finally:
        folder.chmod(0o755)


def test_a_missing_volume_is_told(nginx_url, home):
    missing = home.folder / "missing"
    done = home.run("--volume", str(missing), "submit", f"{nginx_url}/one-byte{QUERY}")
    assert_told(done, VOLUME, str(missing))
    assert not missing.exists()
    assert home.left() == []


def test_a_volume_that_is_a_file_is_told(nginx_url, home):
    file = home.folder / "file"
    file.write_text("precious")
    done = home.run("--volume", str(file), "submit", f"{nginx_url}/one-byte{QUERY}")
    assert_told(done, VOLUME, str(file))
    assert file.read_text() == "precious"
    assert home.left() == []


def test_a_worker_without_its_volume_does_not_start(one_worker, tmp_path):
    missing = str(tmp_path / "missing")
    assert_told(one_worker.run("worker", ORCHESTRATOR_VOLUME=missing), VOLUME, missing)


def test_a_read_only_volume_is_told(nginx_url, home):
    with read_only(home.folder / "ro") as volume:
        done = home.run("--volume", str(volume), "submit", f"{nginx_url}/one-byte{QUERY}")
        assert_told(done, VOLUME, str(volume), "not writable")
        assert home.left() == []


def test_a_file_larger_than_the_free_space_is_refused_before_it_is_fetched(nginx_url, home):
    with tmpfs(home.folder / "small", "size=4m") as volume:
        done = home.run("--volume", str(volume), "submit", f"{nginx_url}/odd-end{QUERY}")
        assert_told(done, VOLUME, str(volume), "full")
        assert home.left() == []
        assert list(volume.iterdir()) == []


def test_a_volume_that_fills_up_on_the_way_is_told(home):
    block = b"x" * (1 << 20)

    def endless(request: Request) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for _ in range(64):
            request.send(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        request.send(b"0\r\n\r\n")

    with tmpfs(home.folder / "small", "size=4m") as volume, scripted_server(endless) as server:
        done = home.run("--volume", str(volume), "submit", f"{server.url}{QUERY}")
        assert_told(done, VOLUME, "full")
        assert home.left() == []
        assert list(volume.iterdir()) == []


# --- Redis


def with_redis(url: str, *args: str, home, **variables: str) -> subprocess.CompletedProcess[str]:
    return home.run(*args, ORCHESTRATOR_REDIS_URL=url, ORCHESTRATOR_SECRET_KEY=KEY, **variables)


@pytest.mark.parametrize(
    "command",
    [
        ["submit", f"http://127.0.0.1/file{QUERY}"],
        ["list"],
        ["status", "0123456789ab"],
        ["wait", "0123456789ab"],
        ["cancel", "0123456789ab"],
        ["worker"],
        ["flower"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_says_that_redis_is_not_there(command, home):
    where = f"127.0.0.1:{free_port()}"
    done = with_redis(f"redis://:redis-secret@{where}/0", *command, home=home)
    assert_told(done, REDIS, where, "ORCHESTRATOR_REDIS_URL")
    assert home.left() == []


@pytest.mark.parametrize(
    "user", [":wrong-secret@", "somebody:wrong-secret@", ""], ids=["wrong", "user", "none"]
)
def test_a_wrong_password_of_redis_is_told(user, home, tmp_path):
    with redis_server(tmp_path, password="redis-secret") as server:
        done = with_redis(f"redis://{user}127.0.0.1:{server.port}/0", "list", home=home)
    assert_told(done, REDIS, "password")


@pytest.mark.parametrize("user", ["", ":redis-secret@"], ids=["open", "password"])
def test_a_redis_that_is_too_old_is_told(user, home):
    with impostor_redis("redis_version:5.0.7\r\nredis_mode:standalone\r\n") as port:
        url = f"redis://{user}127.0.0.1:{port}/0"
        done = with_redis(url, "submit", f"http://127.0.0.1/file{QUERY}", home=home)
    assert_told(done, REDIS, "5.0.7", "or newer")


def test_a_redis_that_never_answers_is_given_up(home):
    with impostor_redis(None) as port:
        url = f"redis://127.0.0.1:{port}/0"
        done = with_redis(url, "list", home=home, ORCHESTRATOR_REDIS_TIMEOUT_SECONDS="0.5")
    assert_told(done, REDIS, "cannot be reached")


def test_what_is_no_redis_is_told(nginx_url, home):
    done = with_redis(nginx_url.replace("http", "redis"), "list", home=home)
    assert_told(done, REDIS)


# --- waiting


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_without_a_stderr_the_exit_code_is_the_same(closed, nginx_url, one_worker, place):
    command = shlex.join([*COMMAND, "submit", f"{nginx_url}/no-such-file{QUERY}"])
    # Python ends with a code of its own if it has something left to write, which it has where it may buffer.
    environment = {**one_worker.environment, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["sh", "-c", f"exec {command} {closed}"], env=environment, check=False)
    assert done.returncode == ORIGIN


@pytest.mark.parametrize("args", [("-i", "-"), ("--user", "@-", "http://127.0.0.1:9/x")])
def test_a_standard_input_that_is_closed_is_told(args, one_worker, place):
    command = shlex.join([*COMMAND, "submit", *args])
    done = subprocess.run(
        ["sh", "-c", f"exec {command} <&-"],
        env=one_worker.environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert_told(done, USAGE, "standard input is closed")


def test_nobody_listening_is_said_while_waiting_and_a_timeout_ends_the_wait(nginx_url, empty_cluster):
    submitted = empty_cluster.run("submit", f"{nginx_url}/one-byte{QUERY}", "--detach")
    done = empty_cluster.run("wait", submitted.stdout.strip(), "--timeout", "7")
    assert "No worker is listening" in done.stderr
    sentence = assert_told(done, 7, "goes on")
    job_id = re.search(r"[Jj]ob ([0-9a-f]{12})", sentence)[1]
    assert f"orchestrator wait {job_id}" in sentence
    assert json.loads(empty_cluster.run("status", job_id, "--json").stdout)["state"] == "queued"


def test_ctrl_c_while_waiting_leaves_the_job_running(nginx_url, documents, one_worker, place, run_in):
    run = run_in("submit", f"{nginx_url}/slow/odd-end{QUERY}")
    wait_until_fetching(run, place)
    job_id = run.job_id
    run.interrupt()
    sentence = assert_told(as_done(run, run.ended()), 130, job_id)
    assert f"orchestrator wait {job_id}" in sentence
    assert f"orchestrator cancel {job_id}" in sentence
    waited = one_worker.run("wait", job_id)
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout == f"{place / 'odd-end'}\n"
    assert sha256_of(place / "odd-end") == documents.digests["odd-end"]
    (place / "odd-end").unlink()


def test_a_cancelled_job_ends_the_wait_for_it(nginx_url, one_worker, place, run_in):
    run = run_in("submit", f"{nginx_url}/slow/large{QUERY}", "--connections", "4")
    wait_until_fetching(run, place)
    assert one_worker.run("cancel", run.job_id).returncode == 0
    assert_told(as_done(run, run.ended()), 6, "cancelled")


# --- what others may read


def test_no_log_of_a_worker_and_no_key_of_redis_has_a_secret(nginx_url, one_worker, place):
    url = f"{nginx_url}/one-byte{QUERY}".replace("//", "//me:user-secret@")
    done = one_worker.run("submit", url, "-H", "Authorization: header-secret", "-o", "name")
    assert done.returncode == 0, done.stderr
    (place / "name").unlink()
    assert_told(one_worker.run("submit", url.replace("one-byte", "404")), ORIGIN)
    log = one_worker.log()
    assert "job failed" in log  # the log is the right one
    client = one_worker.redis.client()
    stored = "".join(str(_value(client, key)) for key in client.scan_iter())
    for secret in SECRETS:
        assert secret not in log
        assert secret not in stored


def _value(client, key: str) -> object:
    kind = client.type(key)
    readers = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda name: client.lrange(name, 0, -1),
        "set": client.smembers,
        "zset": lambda name: client.zrange(name, 0, -1),
    }
    return readers[kind](key) if kind in readers else client.dump(key)
