"""What the scripts in Redis take where many hosts are at one origin, and a job has many chunks.

The hosts are names in Redis, with leases as their workers would have; what is asked is what a worker asks.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from support.files import MIB
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import NewJob, Progress, Records, Search
from tasks.settings import CONNECTIONS_EACH_HOST, Settings
from tasks.transfer.manifest import JobSpec, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.redis_server import RedisServer

HOSTS_COUNTS = (10, 100, 1000)
_CHUNKS_COUNT = 1000
_CHUNK_BYTES = 64 * MIB
_TIMES = 100
_JOB, _ORIGIN = "crowd0000000", "http://crowd:80"


def table(redis: RedisServer) -> list[str]:
    """Milliseconds of Redis for each of what a worker asks, as a table."""
    found = {count: _measure(redis, count) for count in HOSTS_COUNTS}
    counts = " | ".join(f"{count:,} hosts" for count in HOSTS_COUNTS)
    return [
        f"| ms of Redis, at a job of {_CHUNKS_COUNT:,} chunks | {counts} |",
        "|---" * (len(HOSTS_COUNTS) + 1) + "|",
        *(
            f"| {what} | {' | '.join(f'{found[count][what]:.2f}' for count in HOSTS_COUNTS)} |"
            for what in found[HOSTS_COUNTS[0]]
        ),
    ]


def _measure(redis: RedisServer, hosts_count: int) -> dict[str, float]:
    with _crowd(redis, hosts_count) as records:
        limit = hosts_count * CONNECTIONS_EACH_HOST + 1
        number = _CHUNKS_COUNT // 2
        one = Progress(_JOB, Span(number), 1, 0, 1e6, "host-0/one", _ORIGIN)
        search = Search(
            chunks_count=_CHUNKS_COUNT,
            chunk_size_bytes=_CHUNK_BYTES,
            size_bytes=_CHUNKS_COUNT * _CHUNK_BYTES,
            bytes_per_second=1e6,
        )

        def begin_and_end() -> None:
            records.acquire(one, origin_limit=limit, length_bytes=_CHUNK_BYTES)
            records.attempt_ended(one)

        found = {
            "a connection is taken and given back": _milliseconds(redis, begin_and_end),
            "one is asked for, and all are taken": _milliseconds(
                redis, lambda: records.acquire(one, origin_limit=limit - 1, length_bytes=_CHUNK_BYTES)
            ),
            "a process reports on 8 attempts": _milliseconds(
                redis,
                lambda: records.report(
                    Progress(_JOB, Span(each), 1, each, 1e6, f"host-{each}/1", _ORIGIN) for each in range(8)
                ),
            ),
        }
        with redis.client() as client:
            client.hset(records.key(_JOB, "bytes"), mapping={str(each): 1 for each in range(_CHUNKS_COUNT)})
        found["a span is done, and what follows looked for, all chunks begun"] = _milliseconds(
            redis, lambda: records.span_done(one, {"host-0": 1}, is_whole=False, search=search)
        )
        return found


def _milliseconds(redis: RedisServer, ask: Callable[[], object]) -> float:
    """Of Redis's processor, for one time."""
    ask()  # the script is there then
    with redis.client() as client:

        def used() -> float:
            said = client.info("cpu")
            return float(said["used_cpu_sys"] + said["used_cpu_user"])

        before = used()
        for _ in range(_TIMES):
            ask()
        return (used() - before) * 1000 / _TIMES


@contextmanager
def _crowd(redis: RedisServer, hosts_count: int) -> Iterator[Records]:
    """A job of many chunks, at which so many hosts are with two connections each."""
    records = records_of(
        Settings(redis_url=redis.url, key_prefix="crowd:", redis_timeout_seconds=10, record_age_seconds=3600)
    )
    try:
        records.create([NewJob(_JOB, "http://crowd/f", JobSpec(), "plain:{}")], now=1.0)
        records.transition(_JOB, JobState.PLANNING)
        fields = {
            "generation": 1,
            "size_bytes": _CHUNKS_COUNT * _CHUNK_BYTES,
            "chunks_count": _CHUNKS_COUNT,
        }
        records.transition(_JOB, JobState.FETCHING, fields=fields)
        _fill(redis, records, hosts_count)
        yield records
    finally:
        with redis.client() as client:
            for key in client.scan_iter("crowd:*"):
                client.delete(key)
        records.close()


def _fill(redis: RedisServer, records: Records, hosts_count: int) -> None:
    until = time.time() + 3600
    names = [
        f"host-{host}/{number}" for host in range(hosts_count) for number in range(CONNECTIONS_EACH_HOST)
    ]
    hosts = {f"host-{host}": until for host in range(hosts_count)}
    spans = [str(each) for each in range(min(len(names), _CHUNKS_COUNT // 2))]
    with redis.client() as client, client.pipeline(transaction=False) as pipe:
        for key in (records.key(_JOB, "leases"), records.origin_key(_ORIGIN, "leases")):
            pipe.zadd(key, dict.fromkeys(names, until))
        pipe.zadd(records.hosts_key, hosts)
        # The dearest case: all want one more.
        for key in records.wanting_keys(_ORIGIN):
            pipe.zadd(key, hosts)
        pipe.hset(records.key(_JOB, "bytes"), mapping=dict.fromkeys(spans, 1))
        pipe.hset(
            records.key(_JOB, "speeds"),
            mapping={span: f"1000000 {name}" for span, name in zip(spans, names, strict=False)},
        )
        pipe.execute()
