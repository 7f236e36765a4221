"""A real Prometheus, which scrapes what a test runs, and is asked over HTTP; and what a worker's own pages say."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.cluster import clean_environment
from support.tools import end, free_port, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"

_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def page(port: int, path: str = "/metrics") -> tuple[int, str]:
    """The status and the text of a page of a worker."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[str, float]:
    """The samples of a page of metrics, by name and labels as they stand there."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = {}
    for line in lines:
        match = _SAMPLE.fullmatch(line)
        assert match, line
        found[match[1] + (f"{{{match[2]}}}" if match[2] else "")] = float(match[3])
    return found


def metrics_of(port: int) -> dict[str, float]:
    """What a worker tells now."""
    return samples(page(port)[1])


@dataclass(frozen=True)
class Prometheus:
    port: int

    def get(self, path: str, **query: object) -> Any:
        """The data of an answer of its HTTP API, which must be a success."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from None
        assert found["status"] == "success", found
        return found["data"]

    def value(self, query: str) -> float | None:
        """What a query gives now that has one value at most."""
        result = self.get("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def wait_for(self, query: str, is_wanted: Callable[[float], bool]) -> None:
        """Wait until a query has a value that is wanted; the failure tells what each scrape says instead."""
        ends = time.monotonic() + 60
        while (value := self.value(query)) is None or not is_wanted(value):
            if time.monotonic() > ends:
                scrapes = {
                    each["scrapeUrl"]: (each["health"], each["lastError"], each["lastScrapeDuration"])
                    for each in self.get("targets")["activeTargets"]
                }
                pytest.fail(f"{query} is {value}; {scrapes}")
            time.sleep(0.1)

    def range(self, query: str, start: float, stop: float) -> list[Any]:
        """What a query gives for each second of a time."""
        found: list[Any] = self.get("query_range", query=query, start=start, end=stop, step=1)["result"]
        return found

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, config: str) -> Iterator[Prometheus]:
    """A Prometheus with this configuration, and the rules that go with it, until the context ends."""
    binary, port = need("prometheus"), free_port()
    (folder / "prometheus.yml").write_text(config)
    (folder / "rules.yml").write_text((DEPLOY / "prometheus" / "rules.yml").read_text())
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )
    try:
        one = Prometheus(port)
        wait_until(
            lambda: one.is_ready() or process.poll() is not None, seconds=60, what="Prometheus being ready"
        )
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield one
    finally:
        end(process)
