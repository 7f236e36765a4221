"""Hosts on links that are held to a rate: each brings its part, and one that is cut off does not hold the job up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scale.scene import Scene, scene
from support.files import MIB
from support.tools import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BITS_PER_SECOND = 25 * 10**6
HOSTS_COUNT = 3
SIZE_BYTES = 48 * MIB


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path, connections=4, bytes_per_second=2_500_000, variables={}) as one:
        one.use(HOSTS_COUNT, bits_per_second=BITS_PER_SECOND)
        yield one


@pytest.mark.timeout(400)
def test_all_hosts_bring_a_part_also_when_one_is_cut_off_in_silence(hosts: Scene):
    name = hosts.file(SIZE_BYTES)
    url = f"{hosts.origin.url}/{name}"
    first, *others = hosts.hosts
    with hosts.cluster.orchestrator() as orchestrator:
        record = orchestrator.submit(url, "all.bin").wait(120)
        assert all(record.workers[host.name].bytes > 0 for host in hosts.hosts)
        hosts.tidy("all.bin", name)

        job = orchestrator.submit(url, "cut.bin")
        wait_until(lambda: job.status().bytes_done > SIZE_BYTES // 3, seconds=60, what="a third of the file")
        first.host.cut_all()
        try:
            record = job.wait(120)
        finally:
            first.host.mend_all()
        assert all(record.workers[host.name].bytes > 0 for host in others)
        hosts.tidy("cut.bin", name)
