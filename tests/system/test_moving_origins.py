"""Origins that do not stand still: links that expire, files that are replaced, connections that are refused."""

from __future__ import annotations

import email.utils
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.cluster import Cluster, cluster
from support.files import MIB, leftovers, make_file, sha256_of
from support.moving_origin import answer, hang_up, moving_origin, reset, version
from support.redis_server import redis_server
from support.system_helpers import told_error
from support.tools import wait_until
from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.server import BaseHTTPRequestHandler

    from support.moving_origin import MovingOrigin, Seen, Version

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with redis_server(folder) as redis, cluster(redis, folder) as one:
        for _ in range(2):
            one.start_worker(ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.2")
        yield one


@pytest.fixture
def place(two_workers: Cluster) -> Iterator[Path]:
    """The volume; what a test publishes is removed, so that the next one can publish it too."""
    yield two_workers.volume
    for path in two_workers.volume.iterdir():
        if path.is_file():
            path.unlink()


def assert_arrived(volume: Path, name: str, sha256: str) -> None:
    assert sha256_of(volume / name) == sha256
    wait_until(lambda: not leftovers(volume), what="the job's folder going away")
    assert [path.name for path in volume.iterdir()] == [name]


# --- links that expire


@pytest.mark.parametrize(
    ("size_bytes", "bytes_per_second", "expired_status", "is_elsewhere", "cuts"),
    [
        (200 * MIB, 1 * MIB, 403, False, False),
        (48 * MIB, MIB, 410, False, False),
        (48 * MIB, MIB, 403, True, False),  # the link leads to another origin
        (48 * MIB, MIB, 403, True, True),  # which cuts off what it is still sending
    ],
    ids=["200 MiB", "gone", "elsewhere", "cut"],
)
def test_a_link_that_expires_while_it_is_read_is_asked_for_again(
    size_bytes, bytes_per_second, expired_status, is_elsewhere, cuts, two_workers, place
):
    file = version(size_bytes, seed=1, etag='"v1"')
    settings = {
        "bytes_per_second": bytes_per_second, "expired_status": expired_status, "cuts_at_expiry": cuts
    }  # fmt: skip
    # Few connections for the smaller file: it takes several times as long as a link is good for.
    options = [] if size_bytes > 100 * MIB else ["--connections", "6", "--chunk-size", "4M"]
    with moving_origin(file, **settings) as origin, moving_origin(file, **settings) as other:
        files = other if is_elsewhere else origin
        origin.link_base = files.url.rpartition("/")[0]
        assert _status_of_expired(origin) == expired_status
        done = two_workers.run(
            "submit", origin.url.replace("/file", "/link"), "-o", "file", *options, timeout=240
        )
        assert done.returncode == 0, done.stderr
        assert_arrived(place, "file", file.sha256)
        began = origin.log[0].at_seconds
        # It took longer than a link is good for: links from the beginning were of no use at the end.
        assert files.log[-1].at_seconds - began > origin.link_seconds
        assert origin.links_count > 2
        assert not [seen for seen in origin.log if is_elsewhere and seen.path != "/link"]
        if cuts:
            assert files.cut_count > 0
        else:
            # What was in flight when its link expired went on, and nothing was asked for twice.
            assert files.late_bytes > 0
            assert files.served_bytes < size_bytes + MIB


def _status_of_expired(origin: MovingOrigin) -> int:
    """What the origin answers to a link after its time; the request leaves no trace in its books."""
    origin.stale_links += 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(origin.new_link())
    return refused.value.code


@pytest.mark.parametrize("expired_status", [403, 410])
def test_a_link_that_was_handed_out_expired_is_asked_for_once_more(expired_status, two_workers, place):
    # A redirect that a cache kept too long, or a request that waited until its link was over.
    file = version(6 * MIB, seed=2, etag='"v1"')

    def hand_out_stale(seen: Seen) -> None:
        if seen.path == "/link" and len(origin.log) in (1, 6):
            origin.stale_links += 1

    with moving_origin(file, expired_status=expired_status, on_request=hand_out_stale) as origin:
        done = two_workers.run(
            "submit", origin.url.replace("/file", "/link"), "-o", "file", "--chunk-size", "1M"
        )
        assert done.returncode == 0, done.stderr
        assert_arrived(place, "file", file.sha256)
        assert origin.statuses()[expired_status] >= 1


def test_a_link_that_is_always_refused_fails_the_job(two_workers, place):
    with moving_origin(version(MIB, seed=2), stale_links=1000) as origin:
        done = two_workers.run("submit", origin.url.replace("/file", "/link"))
        assert done.returncode == 3
        assert "answered 403" in told_error(done.stderr)
        assert origin.statuses() == {302: 2, 403: 2}
    wait_until(lambda: not leftovers(place), what="the job's folder going away")


# --- files that are replaced

DATE, LATER = "Thu, 01 Oct 2026 10:00:00 GMT", "Fri, 02 Oct 2026 10:00:00 GMT"
SIZE_BYTES = 12 * MIB + 345


@pytest.fixture(params=["early", "middle", "last"])
def moment(request: pytest.FixtureRequest) -> Callable[[Seen, MovingOrigin], bool]:
    """Whether a request is the one before which the file is replaced."""
    return {
        "early": lambda seen, origin: len(origin.log) == 2,  # the first chunk after the probe
        "middle": lambda seen, origin: origin.served_bytes > SIZE_BYTES // 2,
        "last": lambda seen, origin: seen.last >= SIZE_BYTES - 1,
    }[request.param]


JUST_NOW = "just now"  # by the clock of the test, in place of a date
#: What the old version has, what the new one has, and by how many bytes that is longer.
REPLACEMENTS = {
    "etag": ({"etag": '"v1"'}, {"etag": '"v2"'}, 0),
    "both": ({"etag": '"v1"', "last_modified": DATE}, {"etag": '"v2"', "last_modified": LATER}, 0),
    # Twice in the second in which it was asked for: the date alone proves nothing yet.
    "same second": (
        {"etag": '"v1"', "last_modified": JUST_NOW},
        {"etag": '"v2"', "last_modified": JUST_NOW},
        0,
    ),
    "longer": ({"etag": '"v1"'}, {"etag": '"v2"'}, 1),
    "shorter": ({"etag": '"v1"'}, {"etag": '"v2"'}, -3 * MIB),
    "date": ({"last_modified": DATE}, {"last_modified": LATER}, 0),
    "weak": ({"etag": 'W/"v1"'}, {"etag": 'W/"v2"'}, 0),
    "bare, a byte longer": ({}, {}, 1),
    "bare, longer": ({}, {}, 3 * MIB),
    "bare, shorter": ({}, {}, -3 * MIB),
}
STRONG = [name for name, (old, _, _) in REPLACEMENTS.items() if old.get("etag", "").startswith('"')]
#: The shared layout is for strong validators.
BY_LAYOUT = [(name, "parts") for name in REPLACEMENTS] + [(name, "shared") for name in STRONG]


@contextmanager
def replaced(name: str, moment: Callable[[Seen, MovingOrigin], bool]) -> Iterator[tuple[str, Version]]:
    """An origin that replaces its file; its URL, and the new version."""
    old, new, more_bytes = REPLACEMENTS[name]
    now = email.utils.formatdate(usegmt=True)
    old, new = (
        {key: now if value is JUST_NOW else value for key, value in each.items()} for each in (old, new)
    )
    first = version(SIZE_BYTES, seed=3, **old)
    second = version(SIZE_BYTES + more_bytes, seed=4, **new)

    def replace(seen: Seen) -> None:
        if origin.version is first and moment(seen, origin):
            origin.version = second

    with moving_origin(first, bytes_per_second=8 * MIB, on_request=replace) as origin:
        yield origin.url, second
        assert origin.version is second, "the file was never replaced"


@pytest.mark.parametrize(("name", "layout"), BY_LAYOUT)
def test_a_file_that_is_replaced_midway_arrives_as_the_new_one(name, layout, moment, two_workers, place):
    with replaced(name, moment) as (url, second), two_workers.orchestrator() as orchestrator:
        job = orchestrator.submit(url, chunk_size_bytes=MIB, connections=3, layout=layout)
        record = job.wait(60)
        assert_arrived(place, "file", second.sha256)
        assert record.size_bytes == record.bytes_done == len(second.content)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("etag", "parts"),
        ("etag", "shared"),
        ("same second", "parts"),
        ("date", "parts"),
        ("bare, shorter", "parts"),
    ],
)
def test_a_file_that_is_replaced_midway_fails_where_that_is_asked_for(
    name, layout, moment, two_workers, place
):
    with replaced(name, moment) as (url, _):
        done = two_workers.run(
            "submit", url, "--chunk-size", "1M", "--connections", "3",
            "--layout", layout, "--on-change", "fail", "--json",
        )  # fmt: skip
        assert_nothing_published(two_workers, done.returncode, json.loads(done.stdout))


def assert_nothing_published(one: Cluster, code: int, record: dict) -> None:
    assert code == 3
    assert record["state"] == "failed"
    assert record["error"]["code"] == "SourceChanged"
    assert [path.name for path in one.volume.iterdir()] in ([".orchestrator"], [])
    # A job that failed keeps its parts for `resume`; who gives it up has them removed.
    assert one.run("cancel", record["job_id"]).returncode == 0
    wait_until(lambda: not leftovers(one.volume), what="the job's folder going away")
    assert list(one.volume.iterdir()) == []


def test_a_file_that_is_replaced_again_and_again_is_given_up(two_workers, place):
    def replace(seen: Seen) -> None:
        if len(origin.log) % 4 == 0:
            number = len(origin.log)
            origin.version = version(SIZE_BYTES, seed=number, etag=f'"{number}"')

    first = version(SIZE_BYTES, seed=5, etag='"0"')
    with moving_origin(first, bytes_per_second=8 * MIB, on_request=replace) as origin:
        done = two_workers.run("submit", origin.url, "--chunk-size", "1M", "--connections", "3", "--json")
    assert_nothing_published(two_workers, done.returncode, json.loads(done.stdout))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(
    ("layout", "on_change", "extra_bytes"),
    [("parts", "restart", 0), ("shared", "restart", 12345), ("parts", "fail", 12345), ("shared", "fail", 0)],
)
def test_a_rename_under_nginx_is_never_mixed(
    layout, on_change, share, extra_bytes, renamed, two_workers, place
):
    url, document = renamed
    make_file(document, SIZE_BYTES, seed=6)
    os.utime(document, (1_600_000_000, 1_600_000_000))
    new = document.with_name("new")
    sha256 = make_file(new, SIZE_BYTES + extra_bytes, seed=7)
    os.utime(new, (1_600_000_001, 1_600_000_001))
    with two_workers.orchestrator() as orchestrator:
        # Chunks that are small for this file: some are not begun when it is replaced, though that be seen late.
        job = orchestrator.submit(
            url, chunk_size_bytes=3 * MIB // 4, connections=3, layout=layout, restarts=on_change == "restart"
        )
        wait_until(lambda: job.status().bytes_done >= share * SIZE_BYTES, what="that much of the file")
        assert job.status().state == "fetching"
        new.replace(document)
        done = two_workers.run("wait", job.job_id, "--json")
    record = json.loads(done.stdout)
    if on_change == "restart":
        assert done.returncode == 0, done.stderr
        assert_arrived(place, "document", sha256)
    else:
        assert_nothing_published(two_workers, done.returncode, record)


@pytest.fixture(scope="module")
def renamed() -> Iterator[tuple[str, Path]]:
    """nginx, so slow that there is time to rename, and the file that it serves."""
    # Not a folder of pytest's: those are for the user alone, and servers that root starts read as somebody else.
    with tempfile.TemporaryDirectory(prefix="mh-renamed-") as created:
        folder = Path(created)
        folder.chmod(0o755)
        documents, state = folder / "documents", folder / "state"
        documents.mkdir()
        state.mkdir()
        # nginx sends what a request may have in a second at once: less than a chunk, so that chunks take time.
        with nginx(state, documents, extra="limit_rate 384k;") as url:
            yield f"{url}/document", documents / "document"


# --- connections that are refused


@pytest.mark.parametrize(
    "refuse",
    [lambda handler: answer(handler, 503), lambda handler: answer(handler, 429), reset, hang_up],
    ids=["503", "429", "reset", "closed"],
)
def test_an_origin_that_serves_four_connections_is_used_with_four(
    refuse: Callable[[BaseHTTPRequestHandler], int], two_workers, place
):
    file = version(40 * MIB, seed=8, etag='"v1"')
    with moving_origin(file, bytes_per_second=MIB, most_served=4, refuse=refuse) as origin:
        done = two_workers.run("submit", origin.url, "--chunk-size", "1M", "--json", timeout=120)
        assert done.returncode == 0, done.stderr
        assert_arrived(place, "file", file.sha256)
        assert origin.most_served_seen == 4
        served = origin.bytes_by_served
        # The last read of the probe's answer, which was cut short, and nothing else.
        assert origin.served_bytes - len(file.content) < MIB // 8, "something was sent twice"
        assert served[4] >= 0.8 * len(file.content), dict(served)
        # Once it is known, one more is tried now and then, less and less often.
        middle = origin.log[0].at_seconds / 2 + origin.log[-1].at_seconds / 2
        late = [seen for seen in origin.log if seen.at_seconds > middle and seen.status != 206]
        assert len(late) <= 8, "the origin is asked for more than it gives again and again"


def test_a_second_job_keeps_to_what_the_first_has_learned(two_workers, place):
    file = version(4 * MIB, seed=9, etag='"v1"')
    with moving_origin(file, bytes_per_second=MIB, most_served=2) as origin:
        with two_workers.orchestrator() as orchestrator:
            jobs = [
                orchestrator.submit(origin.url, name, chunk_size_bytes=MIB)
                for name in ("one", "two", "three")
            ]
            for job in jobs:
                job.wait(120)
        assert origin.most_served_seen == 2
    assert {sha256_of(place / name) for name in ("one", "two", "three")} == {file.sha256}
    wait_until(lambda: not leftovers(place), what="the jobs' folders going away")


# --- Retry-After

WINDOW_SECONDS = 2.0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("at", ["probe", "chunk"])
def test_retry_after_holds_for_all_jobs_and_workers(status, at, two_workers, place):
    file = version(24 * MIB, seed=10, etag='"v1"')
    told: list[float] = []

    def throttle(seen: Seen) -> Callable[[BaseHTTPRequestHandler], int] | None:
        is_it = len(origin.log) == 1 if at == "probe" else len(origin.log) == 12
        if not is_it:
            return None

        def tell(handler: BaseHTTPRequestHandler) -> int:
            answer(handler, status, ("Retry-After", str(int(WINDOW_SECONDS))))
            told.append(time.monotonic())
            return status

        return tell

    with moving_origin(file, bytes_per_second=MIB, on_request=throttle) as origin:
        with two_workers.orchestrator() as orchestrator:
            first = orchestrator.submit(origin.url, "one", chunk_size_bytes=MIB)
            if at == "probe":
                wait_until(lambda: told, what="the answer to the first probe")
                wait_until(lambda: first.status().retries_count == 1, what="the retry being noted")
            second = orchestrator.submit(origin.url, "two", chunk_size_bytes=MIB)
            for job in (first, second):
                job.wait(120)
        (at_seconds,) = told
        # Those that were on their way when the answer was given could not know.
        inside = [
            seen.at_seconds - at_seconds
            for seen in origin.log
            if at_seconds + WINDOW_SECONDS / 4 < seen.at_seconds < at_seconds + WINDOW_SECONDS
        ]
        assert inside == []
        after = [seen for seen in origin.log if seen.at_seconds >= at_seconds + WINDOW_SECONDS]
        assert len(after) > 10, "all was asked for before: nothing was shown"
    assert {sha256_of(place / name) for name in ("one", "two")} == {file.sha256}
    wait_until(lambda: not leftovers(place), what="the jobs' folders going away")
