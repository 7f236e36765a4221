"""`orchestrator up` in one terminal serves all the other terminals of its user."""

from __future__ import annotations

import json

import pytest

from support.files import sha256_of
from support.system_helpers import told_error, wait_until_fetching
from support.tools import wait_until


@pytest.fixture
def up(home):
    running = home.start("up", "--no-flower", "--concurrency", "4")
    wait_until(
        lambda: "Volume: " in running.stderr or running.process.poll() is not None, what="up's first words"
    )
    # It says so before its Redis listens.
    wait_until(
        lambda: list(home.tmp.glob("*/redis.sock")) or running.process.poll() is not None, what="up's Redis"
    )
    assert running.process.poll() is None, running.stderr
    return running


@pytest.fixture
def elsewhere(home):
    """Another terminal's current directory."""
    folder = home.folder / "elsewhere"
    folder.mkdir()
    return folder


def test_submits_from_other_terminals_use_its_volume(nginx_url, documents, home, up, elsewhere):
    runs = [
        home.start("submit", f"{nginx_url}/odd-end", "-o", name, cwd=elsewhere) for name in ("one", "two")
    ]
    for name, run in zip(("one", "two"), runs, strict=True):
        assert run.ended() == 0, run.stderr
        assert run.stdout == f"{home.volume / name}\n"
        assert sha256_of(home.volume / name) == documents.digests["odd-end"]
    assert list(elsewhere.iterdir()) == []


def test_jobs_can_be_looked_at_and_waited_for_from_other_terminals(nginx_url, documents, home, up, elsewhere):
    detached = home.run("submit", f"{nginx_url}/slow/odd-end?token=query-secret", "--detach", cwd=elsewhere)
    assert detached.returncode == 0, detached.stderr
    job_id = detached.stdout.strip()

    waited = home.run("wait", job_id, cwd=elsewhere)
    assert waited.returncode == 0, waited.stderr
    assert waited.stdout == f"{home.volume / 'odd-end'}\n"
    assert sha256_of(home.volume / "odd-end") == documents.digests["odd-end"]

    listed = home.run("list", "--json", cwd=elsewhere)
    assert [record["job_id"] for record in json.loads(listed.stdout)] == [job_id]
    table = home.run("list", cwd=elsewhere)
    assert job_id in table.stdout
    status = home.run("status", job_id, cwd=elsewhere)
    assert "complete" in status.stdout
    record = json.loads(home.run("status", job_id, "--json", cwd=elsewhere).stdout)
    assert record["state"] == "complete"
    every = waited.stdout + waited.stderr + listed.stdout + table.stdout + status.stdout + str(record)
    assert "query-secret" not in every


def test_a_job_can_be_paused_resumed_and_cancelled_from_other_terminals(nginx_url, home, up, elsewhere):
    run = home.start("submit", f"{nginx_url}/slow/large", "--connections", "4", cwd=elsewhere)
    wait_until_fetching(run, home.volume)
    job_id = run.job_id
    assert home.run("pause", job_id).returncode == 0
    run.ended()
    assert f"orchestrator resume {job_id}" in told_error(run.stderr)
    assert home.run("resume", job_id).returncode == 0
    waiting = home.start("wait", job_id)
    wait_until(lambda: "fetching" in waiting.stderr, what="the job's going on")
    assert home.run("cancel", job_id).returncode == 0
    assert waiting.ended() == 6, waiting.stderr
    assert told_error(waiting.stderr)
    wait_until(lambda: not list(home.volume.iterdir()), what="the cancelled job's parts going away")


def test_a_volume_of_ones_own_is_respected(nginx_url, home, up, elsewhere):
    done = home.run("--volume", str(elsewhere), "submit", f"{nginx_url}/one-byte")
    assert done.stdout == f"{elsewhere / 'one-byte'}\n", done.stderr
    assert list(home.volume.iterdir()) == []


def test_a_second_up_is_refused_and_the_first_goes_on(nginx_url, home, up, elsewhere):
    second = home.run("up", "--no-flower", cwd=elsewhere)
    assert second.returncode == 2, second.stderr
    assert "running already" in told_error(second.stderr)
    assert len(list(home.tmp.iterdir())) == 1
    done = home.run("submit", f"{nginx_url}/one-byte", cwd=elsewhere)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_ends_all_of_it_and_leaves_nothing(nginx_url, home, up):
    assert home.run("submit", f"{nginx_url}/one-byte").returncode == 0
    up.interrupt()
    assert up.ended() == 0, up.stderr
    assert home.left() == []
    assert [path.name for path in home.volume.iterdir()] == ["one-byte"]
    assert "Traceback" not in up.stderr


def test_after_sigterm_in_the_middle_of_a_job_nothing_runs_and_another_up_goes_on_with_it(
    nginx_url, documents, home, up
):
    run = home.start("submit", f"{nginx_url}/slow/large", "--connections", "4")
    wait_until_fetching(run, home.volume)
    up.process.terminate()
    assert up.ended() == 0, up.stderr
    assert run.ended() == 5, run.stderr
    assert told_error(run.stderr)
    assert home.left_running() == []
    assert len(home.kept_jobs()) == 1
    done = home.run("submit", f"{nginx_url}/slow/large")
    assert done.returncode == 0, done.stderr
    assert "that an earlier job left" in done.stderr
    assert sha256_of(home.volume / "large") == documents.digests["large"]
    assert home.left() == []


def test_after_it_was_killed_another_one_can_start(nginx_url, home, up):
    up.process.kill()
    up.ended()
    wait_until(lambda: not home.processes(), what="its Redis and workers ending with it")
    second = home.start("up", "--no-flower")
    wait_until(
        lambda: "Volume: " in second.stderr or second.process.poll() is not None, what="up's first words"
    )
    assert second.process.poll() is None, second.stderr
    done = home.run("submit", f"{nginx_url}/one-byte")
    assert done.returncode == 0, done.stderr
    second.interrupt()
    assert second.ended() == 0, second.stderr


def test_without_one_there_are_no_jobs_to_look_at(home):
    for command in (["list"], ["status"], ["wait", "0123456789ab"], ["cancel", "0123456789ab"]):
        done = home.run(*command)
        assert done.returncode == 5, done.stderr
        assert "orchestrator up" in told_error(done.stderr)
    assert home.left() == []


def test_a_volume_that_is_not_there_is_told_at_once(home):
    done = home.run("--volume", str(home.folder / "missing"), "up", "--no-flower")
    assert done.returncode == 4, done.stderr
    assert "missing" in told_error(done.stderr)
    assert home.left() == []
