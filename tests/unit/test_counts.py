"""What processes count, and how what several have counted becomes one page."""

from __future__ import annotations

import pytest

from orchestrator.board import TEXT_BYTES
from orchestrator.exposition import Seen, text_of
from support.prometheus import samples
from tasks import metrics
from tasks.metrics import MOST_ORIGINS, MOST_SERIES, OTHER, Count, Tally


def shown(tally: Tally) -> dict[str, float]:
    seen = Seen(worker="here", version="1", tally=tally, vitals=(), space=(25, 100), serves_control=False)
    return samples(text_of(seen).decode())


def bytes_of(origin: str) -> str:
    return f'manyhands_bytes_total{{origin="{origin}",worker="here"}}'


@pytest.fixture
def counting():
    metrics.begin()
    yield
    metrics._tally = None


def test_nothing_is_counted_before_it_is_asked_for():
    metrics.brought("http://a:80", 1)
    metrics.retried("http://a:80", "OriginBusy")
    metrics.throttled(metrics.Throttle.RATE, 1)
    metrics.chunk_took(1)
    metrics.job_completed()
    metrics.job_failed("SourceRefused")
    metrics.swept()
    assert metrics.take() is None


def test_what_two_processes_counted_is_summed_and_the_last_sweep_is_the_latest():
    one, two = Tally(), Tally()
    for tally, size_bytes in ((one, 2), (two, 3)):
        tally.add(Count.BYTES, size_bytes, "http://a:80")
        tally.put(Count.SWEPT_AT, 1000 + size_bytes)
    found = shown(metrics.merged([one.text(), two.text()]))
    assert found[bytes_of("http://a:80")] == 5
    assert found["manyhands_last_sweep_timestamp_seconds"] == 1003


def test_a_process_goes_on_counting_where_its_predecessor_was(counting):
    metrics.brought("http://a:80", 2)
    metrics.job_completed()
    before = metrics.take()
    metrics.begin(before)
    assert metrics.take() is None  # nothing new
    metrics.brought("http://a:80", 3)
    found = shown(metrics.merged([metrics.take()]))
    assert found[bytes_of("http://a:80")] == 5
    assert found["manyhands_jobs_completed_total"] == 1


@pytest.mark.parametrize(
    "origin",
    [
        "https://me:pa55word@a:443",
        "https://a:443/secret/path",
        "https://a:443?sig=s3cret",
        'https://a"b:443',
        "https://a:443\nmanyhands_bytes_total 1",
        "https://a\x01:443",
        "a:443",
        "",
        f"https://{'a' * 300}:443",
    ],
)
def test_no_label_has_more_of_a_url_than_its_origin(counting, origin):
    metrics.brought(origin, 7)
    assert shown(metrics.merged([metrics.take()]))[bytes_of(OTHER)] == 7


def test_more_origins_than_a_page_can_bear_are_counted_together(counting):
    for number in range(MOST_ORIGINS + 50):
        metrics.brought(f"http://host{number}:80", 1)
    metrics.begin(metrics.take())  # nor may a process that is started again and again add as many each time
    metrics.brought("http://another:80", 1)
    metrics.brought("http://host3:80", 1)
    found = shown(metrics.merged([metrics.take()]))
    assert sum(name.startswith("manyhands_bytes_total") for name in found) == MOST_ORIGINS + 1
    assert found[bytes_of(OTHER)] == 51
    assert found[bytes_of("http://host3:80")] == 2


def test_more_reasons_than_a_page_can_bear_are_counted_together(counting):
    for origin in range(MOST_ORIGINS):
        for reason in range(20):
            metrics.retried(f"http://host{origin}:80", f"Reason{reason}")
    metrics.chunk_took(1)
    found = shown(metrics.merged([metrics.take()]))
    retries = {name: value for name, value in found.items() if name.startswith("manyhands_retries_total")}
    assert sum(retries.values()) == MOST_ORIGINS * 20
    assert len(retries) == MOST_SERIES + 1
    assert found["manyhands_chunk_seconds_count"] == 1


@pytest.mark.parametrize("letter", ["a", "\xfc", "\u4e2d", "\U0001f600"])
def test_there_is_room_for_all_that_may_be_counted(counting, letter):
    for origin in range(MOST_ORIGINS):
        name = f"{origin:03}"
        while len(f"https://{name}{letter}:443".encode()) <= 255:
            name += letter
        for reason in range(MOST_SERIES // MOST_ORIGINS):
            metrics.retried(f"https://{name}:443", f"AReasonWithAVeryLongName{reason}")
    text = metrics.take()
    assert len(text) <= TEXT_BYTES
    assert len(metrics.merged([text]).numbers()) == MOST_SERIES


def test_a_chunk_is_in_all_buckets_from_its_seconds_on(counting):
    for seconds in (0.05, 0.06, 61, 100_000):
        metrics.chunk_took(seconds)
    found = shown(metrics.merged([metrics.take()]))
    counts = {
        bound: found[f'manyhands_chunk_seconds_bucket{{le="{bound}"}}']
        for bound in ("0.05", "0.1", "60.0", "120.0", "3600.0", "+Inf")
    }
    assert counts == {"0.05": 1, "0.1": 2, "60.0": 2, "120.0": 3, "3600.0": 3, "+Inf": 4}
    assert found["manyhands_chunk_seconds_sum"] == pytest.approx(100_061.11)
