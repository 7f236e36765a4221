"""Whole downloads from web servers that people run, through a cluster and through the embedded mode."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from support.files import MIB, leftovers, sha256_of
from support.system_helpers import told_error
from support.tools import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.cluster import Cluster

ALL = ["empty", "one-byte", "below-probe", "probe", "odd-end", "large"]


@pytest.fixture(params=["nginx_url", "apache_url"], ids=["nginx", "apache"], scope="module")
def server(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(one_worker: Cluster):
    """The cluster's volume; emptied after each test, so that what a failed one left does not fail the next."""
    yield one_worker.volume
    for path in one_worker.volume.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def assert_clean(volume: Path) -> None:
    # A cluster's worker cleans up after it has said that the job is complete.
    wait_until(lambda: not leftovers(volume), what="the job's folder going away")


@pytest.mark.parametrize("name", ALL)
def test_a_cluster_brings_every_byte_and_leaves_nothing_else(name, server, documents, one_worker, place):
    done = one_worker.run("submit", f"{server}/{name}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{place / name}\n"
    assert sha256_of(place / name) == documents.digests[name]
    assert_clean(place)


@pytest.mark.parametrize("name", ["empty", "probe", "odd-end"])
def test_the_embedded_mode_brings_every_byte_and_leaves_nothing_else(name, server, documents, home):
    done = home.run("submit", f"{server}/{name}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{home.volume / name}\n"
    assert sha256_of(home.volume / name) == documents.digests[name]
    assert home.left() == []


@pytest.mark.parametrize(
    "options",
    [
        ["--layout", "shared"],  # one file, written in place
        ["--layout", "parts"],  # a file for each chunk, joined at the end
        ["--layout", "parts", "--chunk-size", "1M", "--connections", "4"],  # 65 chunks, the last of one byte
        ["--layout", "shared", "--chunk-size", "1M", "--connections", "4"],
        ["--chunk-size", "1000000"],  # borders in the middle of a block
        ["--chunk-size", "1G"],  # one chunk, larger than the file
        ["--connections", "1"],  # one after the other
        ["--no-sync"],  # nothing waits for the disk
        ["--user", "me:password"],  # credentials that nobody asked for
    ],
    ids=" ".join,
)
def test_every_option_ends_in_the_same_bytes(options, nginx_url, documents, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/odd-end", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{place / 'odd-end'}\n"
    assert sha256_of(place / "odd-end") == documents.digests["odd-end"]
    assert_clean(place)


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("empty", str.lower),
        ("probe", str.lower),
        ("odd-end", str.lower),
        ("odd-end", str.upper),  # as some sites write it
    ],
)
def test_the_right_digest_lets_the_file_through(name, spelling, nginx_url, documents, one_worker, place):
    done = one_worker.run("submit", f"{nginx_url}/{name}", "--sha256", spelling(documents.digests[name]))
    assert done.returncode == 0, done.stderr
    assert sha256_of(place / name) == documents.digests[name]
    assert_clean(place)


@pytest.mark.parametrize("name", ["empty", "probe", "odd-end"])
def test_a_wrong_digest_publishes_nothing_and_says_both_values(name, server, documents, one_worker, place):
    wrong = "5" * 64
    done = one_worker.run("submit", f"{server}/{name}", "--sha256", wrong, "--json")
    record = json.loads(done.stdout)
    assert done.returncode == 3, done.stderr
    assert record["error"]["code"] == "DigestMismatch"
    sentence = told_error(done.stderr)
    assert wrong in sentence
    assert documents.digests[name] in sentence
    assert not (place / name).exists()
    # A job that failed may keep what it has; who gives it up has it removed.
    assert one_worker.run("cancel", record["job_id"]).returncode == 0
    assert_clean(place)


def test_what_had_a_wrong_digest_in_the_embedded_mode_is_not_fetched_again_with_the_right_one(
    nginx_url, home, documents
):
    url = f"{nginx_url}/odd-end"
    done = home.run("submit", url, "--sha256", "5" * 64)
    assert done.returncode == 3, done.stderr
    assert told_error(done.stderr)
    assert ".orchestrator" in done.stderr, "it says where it keeps what came"
    assert [path.name for path in home.volume.iterdir()] == [".orchestrator"]
    again = home.run("submit", url, "--sha256", documents.digests["odd-end"], "--json")
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout)
    assert record["resumed_bytes"] == record["size_bytes"]
    assert sha256_of(home.volume / "odd-end") == documents.digests["odd-end"]
    (home.volume / "odd-end").unlink()
    assert home.left() == []
    assert list(home.volume.iterdir()) == []


@pytest.mark.parametrize("name", ["probe", "odd-end"])  # published by the plan, and by the merge
def test_overwrite_replaces_what_is_there(name, server, documents, one_worker, place):
    (place / name).write_text("what was there before")
    done = one_worker.run("submit", f"{server}/{name}", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert sha256_of(place / name) == documents.digests[name]
    assert_clean(place)


def test_a_name_with_folders_makes_them(server, documents, one_worker, place):
    done = one_worker.run("submit", f"{server}/odd-end", "-o", "sub/folder/name")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{place / 'sub/folder/name'}\n"
    assert sha256_of(place / "sub/folder/name") == documents.digests["odd-end"]
    assert not (place / "odd-end").exists()
    assert_clean(place)


def test_the_record_says_what_was_done(server, documents, one_worker, place):
    digest = documents.digests["odd-end"]
    done = one_worker.run(
        "submit", f"{server}/odd-end?token=1", "--json", "--chunk-size", "8M", "--sha256", digest
    )
    record = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert record["state"] == "complete"
    assert record["url"] == f"{server}/odd-end"
    assert record["path"] == str(place / "odd-end")
    assert record["size_bytes"] == record["bytes_done"] == 64 * MIB + 1
    assert record["chunks_count"] == record["chunks_done"] == 9
    assert record["sha256"] == digest
    assert record["error"] is None
