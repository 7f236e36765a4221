"""A download that ended early goes on where it was, when the same command is run again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.files import MIB, sha256_of
from support.origin import origin
from support.system_helpers import stored_bytes, told_error, wait_until_fetching
from support.tools import wait_until
from support.web_servers import nginx, wait_until_let_go

CONTENT = random.Random(11).randbytes(32 * MIB + 3)
OTHER = random.Random(12).randbytes(32 * MIB + 3)
#: What a killed connection loses: what came since the last checkpoint.
LOST_BYTES = 2 * MIB
#: What an origin sends besides: an answer to the probe, and to each of 4 connections what nobody takes any more.
SENT_BESIDES_BYTES = 5 * MIB


@pytest.fixture
def served():
    with origin(CONTENT) as one:
        yield one


def interrupted(home, served, *options: str, tail: str = "", by: int = signal.SIGINT):
    """Run a download up to about its middle."""
    served.bytes_per_second = 4 * MIB
    run = home.start("submit", served.url + tail, "--connections", "4", "--chunk-size", "4M", *options)
    wait_until_fetching(run, home.volume, more_than_bytes=len(CONTENT) // 2)
    os.killpg(run.process.pid, by)
    assert run.ended() == 130, run.stderr
    served.bytes_per_second = None
    served.served_bytes = 0
    served.paths.clear()
    return run


def resumed_bytes(stderr: str) -> int:
    """What a command said to go on with."""
    said = re.search(r"Going on with ([0-9.]+) MB that an earlier job left", stderr)
    assert said, stderr
    return int(float(said[1]) * 1e6)


def assert_is_whole(home, content: bytes) -> None:
    assert home.left() == []
    assert [path.name for path in home.volume.iterdir()] == ["big.bin"]
    assert (home.volume / "big.bin").read_bytes() == content


@pytest.mark.parametrize("layout", ["parts", "shared"])
def test_the_same_command_goes_on(home, served, layout):
    interrupted(home, served, "--layout", layout)
    done = home.run("submit", served.url, "--connections", "4", "--layout", layout, "--json")
    assert done.returncode == 0, done.stderr
    kept_bytes = resumed_bytes(done.stderr)
    assert kept_bytes > len(CONTENT) // 2 - 4 * LOST_BYTES
    assert json.loads(done.stdout)["resumed_bytes"] // 1e5 == pytest.approx(kept_bytes // 1e5, abs=1)
    assert_is_whole(home, CONTENT)
    assert served.served_bytes < len(CONTENT) - kept_bytes + SENT_BESIDES_BYTES


def test_it_goes_on_a_second_time(home, served):
    interrupted(home, served)
    served.bytes_per_second = 3 * MIB
    run = home.start("submit", served.url, "--connections", "4")
    wait_until(lambda: "Going on with" in run.stderr)
    before = stored_bytes(home.volume)
    wait_until(lambda: stored_bytes(home.volume) > before + 12 * MIB)
    run.interrupt()
    assert run.ended() == 130, run.stderr
    assert len(home.kept_jobs()) == 1
    served.bytes_per_second = None
    served.served_bytes = 0
    done = home.run("submit", served.url)
    assert done.returncode == 0, done.stderr
    kept_bytes = resumed_bytes(done.stderr)
    assert kept_bytes > resumed_bytes(run.stderr)
    assert_is_whole(home, CONTENT)
    assert served.served_bytes < len(CONTENT) - kept_bytes + SENT_BESIDES_BYTES


def test_a_file_that_changed_meanwhile_is_started_over(home, served):
    interrupted(home, served)
    served.etag, served.content = '"v2"', OTHER
    done = home.run("submit", served.url)
    assert done.returncode == 0, done.stderr
    assert "Going on" not in done.stderr
    assert_is_whole(home, OTHER)


@pytest.mark.parametrize("options", [["--chunk-size", "5M"], ["--layout", "parts"]])
def test_with_other_options_about_its_parts_it_is_started_over(home, served, options):
    interrupted(home, served, "--layout", "shared")
    done = home.run("submit", served.url, *options)
    assert done.returncode == 0, done.stderr
    assert "Going on" not in done.stderr
    assert_is_whole(home, CONTENT)


def test_another_url_for_the_same_name_has_none_of_it(home, served):
    interrupted(home, served, "-o", "big.bin")
    with origin(OTHER) as other:
        done = home.run("submit", other.url.replace("big.bin", "other.bin"), "-o", "big.bin")
    assert done.returncode == 0, done.stderr
    assert "Going on" not in done.stderr
    assert_is_whole(home, OTHER)


def test_the_query_of_the_new_command_is_used_and_never_the_old_one(home, served):
    interrupted(home, served, tail="?sig=old")
    done = home.run("submit", f"{served.url}?sig=new")
    assert done.returncode == 0, done.stderr
    assert "Going on" in done.stderr
    assert {path.partition("?")[2] for path in served.paths} == {"sig=new"}
    assert_is_whole(home, CONTENT)


def test_of_two_commands_at_once_one_goes_on_and_the_other_is_refused(home, served):
    interrupted(home, served)
    served.bytes_per_second = MIB / 5
    both = [home.start("submit", served.url, "--connections", "4") for _ in range(2)]
    # The one that came second looks twice whether the first is alive.
    wait_until(lambda: any(run.process.poll() is not None for run in both), what="one being refused")
    served.bytes_per_second = None
    assert sorted(run.ended() for run in both) == [0, 4], [run.stderr for run in both]
    winner, loser = sorted(both, key=lambda run: run.process.returncode)
    assert "Going on" in winner.stderr
    assert "is being downloaded by job" in told_error(loser.stderr)
    # How much of it was fetched again is not counted here: where the speed jumps, what looked slow is taken over.
    assert_is_whole(home, CONTENT)


def test_a_file_of_another_digest_is_fetched_again_and_one_for_which_it_was_right_is_not(home, served):
    wrong = "0" * 64
    done = home.run("submit", served.url, "--sha256", wrong)
    assert done.returncode == 3, done.stderr
    served.served_bytes = 0
    assert home.run("submit", served.url, "--sha256", wrong).returncode == 3
    assert served.served_bytes >= len(CONTENT)
    served.served_bytes = 0
    done = home.run("submit", served.url)
    assert done.returncode == 0, done.stderr
    assert served.served_bytes <= MIB  # the probe's answer
    assert_is_whole(home, CONTENT)


SIZE_BYTES = 2048 * MIB


@contextmanager
def counting_nginx():
    """A file of 2 GiB on nginx, whose log says how much it sent of it; every 256 KiB of it differs."""
    with tempfile.TemporaryDirectory(prefix="mh-counting-") as created:
        # Its processes read as somebody else.
        Path(created).chmod(0o755)
        yield from _serve_counting(Path(created))


def _serve_counting(folder: Path):
    with (folder / "big").open("wb") as file:
        file.truncate(SIZE_BYTES)
        chance = random.Random(1)
        for offset in range(0, SIZE_BYTES, MIB // 4):
            os.pwrite(file.fileno(), chance.randbytes(4096), offset)
    log = folder / "bytes.log"
    # Loopback's buffers hold megabytes of each connection that ends: nginx would count them as sent.
    extra = f"access_log {log} combined; limit_rate 24m;"
    with nginx(folder, folder, extra=extra, listen_options="sndbuf=256k") as url:
        yield url, folder / "big", log


def sent_bytes(log: Path) -> int:
    return sum(map(int, re.findall(r'" 20[06] (\d+) ', log.read_text()))) if log.exists() else 0


@pytest.mark.alone
def test_after_everything_was_killed_at_half_of_2_gib_at_most_3_percent_is_fetched_again(home):
    with counting_nginx() as (url, file, log):
        run = home.start("submit", f"{url}/big", "--connections", "16")
        wait_until_fetching(run, home.volume, more_than_bytes=SIZE_BYTES // 2)
        for process in home.processes():
            # Some end by themselves when their parent is gone.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        run.ended()
        wait_until(lambda: not home.processes(), what="all processes being gone")
        stored = stored_bytes(home.volume)
        assert stored < 0.9 * SIZE_BYTES
        wait_until_let_go(url)
        log.write_bytes(b"")
        done = home.run("submit", f"{url}/big", seconds=120)
        assert done.returncode == 0, done.stderr
        assert "Going on with" in done.stderr
        wait_until_let_go(url)
        again = (sent_bytes(log) - (SIZE_BYTES - stored)) / SIZE_BYTES
        print(f"fetched again: {100 * again:.2f} % of {SIZE_BYTES} bytes")
        assert again <= 0.03
        assert sha256_of(home.volume / "big") == sha256_of(file)
    assert [path.name for path in home.volume.iterdir()] == ["big"]
