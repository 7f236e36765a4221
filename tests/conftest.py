"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.cluster import Cluster, cluster, is_of_the_machine
from support.redis_server import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Proxies and settings of the machine must not decide what tests see.
for name in filter(is_of_the_machine, list(os.environ)):
    del os.environ[name]
# Task modules make their app when they are imported, and that wants a Redis by name.
os.environ["ORCHESTRATOR_REDIS_URL"] = "redis://127.0.0.1:1/0"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have several processes begin with the files that take minutes: one of them would run alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty_cluster(redis: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without workers, on an emptied Redis."""
    redis.client().flushall()
    with cluster(redis, tmp_path) as one:
        yield one
