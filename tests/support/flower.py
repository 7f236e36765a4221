"""Flower, as the command line starts it."""

from __future__ import annotations

import subprocess
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from support.cluster import COMMAND, Cluster
from support.tools import end, free_port, is_listening, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def flower(one: Cluster) -> Iterator[str]:
    """Flower on a cluster, for as long as the context; yields its URL."""
    port = free_port()
    with (one.logs / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, "flower", "--port", str(port)],
            env=one.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(
            lambda: is_listening(port) or process.poll() is not None, seconds=60, what="Flower listening"
        )
        assert process.poll() is None, (one.logs / "flower.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def page(url: str) -> str:
    """A page of Flower, as text."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()
