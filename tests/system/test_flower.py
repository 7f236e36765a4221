"""Flower, opened in a real browser while a job runs."""

from __future__ import annotations

import random
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By

from orchestrator.access import Access
from support.browser import chromium
from support.cluster import Cluster
from support.files import MIB
from support.flower import flower as running_flower
from support.origin import origin
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver

CONTENT = random.Random(3).randbytes(24 * MIB)
SECRETS = ("s3cret-query", "t0ken-header", "pa55word")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path) as driver:
        yield driver


@pytest.fixture
def flower(empty_cluster: Cluster) -> Iterator[str]:
    with running_flower(empty_cluster) as url:
        yield url


def test_flower_shows_a_running_chunk_readably_and_no_secret(empty_cluster, flower, browser):
    empty_cluster.start_worker("--concurrency", "4")
    with origin(CONTENT) as served, empty_cluster.orchestrator() as orchestrator:
        served.gate.clear()
        job = orchestrator.submit(
            f"{served.url}?sig=s3cret-query",
            "debian.iso",
            chunk_size_bytes=8 * MIB,
            access=Access(headers={"X-Token": "t0ken-header"}, user="me:pa55word"),
        )
        wait_until(lambda: job.status().connections_count == 3, what="three connections")

        pages = []

        def row_of_a_chunk() -> str:
            browser.get(f"{flower}/tasks?limit=100")
            wait_until(
                lambda: browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr"), what="Flower's table"
            )
            pages.append(browser.page_source)
            rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#tasks-table tbody tr")]
            return next((row for row in rows if "debian.iso 1/3, 8-16 MiB" in row), "")

        wait_until(row_of_a_chunk, what="the row of chunk 1")
        row = row_of_a_chunk()
        assert "tasks.fetch_chunk" in row
        assert "STARTED" in row
        link = browser.find_element(By.PARTIAL_LINK_TEXT, row.split()[-1]).get_attribute("href")
        browser.get(link)
        pages.append(browser.page_source)
        for worker in browser_links(browser, flower):
            browser.get(worker)
            pages.append(browser.page_source)
        served.gate.set()
        job.wait(60)
        pages.append(urllib.request.urlopen(f"{flower}/metrics").read().decode())
    assert "debian.iso" in pages[1]
    assert not any(secret in page for secret in SECRETS for page in pages)
    assert "flower_events_total" in pages[-1]


def browser_links(browser: webdriver.Chrome, flower: str) -> list[str]:
    """The pages of the workers and of the broker."""
    browser.get(f"{flower}/workers")
    wait_until(
        lambda: browser.find_elements(By.CSS_SELECTOR, "#workers-table tbody a"), what="workers in Flower"
    )
    links = [
        a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, "#workers-table tbody a")
    ]
    return [*links, f"{flower}/broker"]


def test_flower_listens_on_this_machine_alone(flower):
    port = int(flower.rpartition(":")[2])
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    listening = [each[1] for each in sockets if each[1].endswith(f":{port:04X}") and each[3] == "0A"]
    assert listening == [f"0100007F:{port:04X}"]
