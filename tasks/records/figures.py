"""The figures of the whole cluster, for Prometheus: counted by who is asked first, and kept in Redis for the others.

However many workers are asked, Redis counts once in a few seconds, a page of jobs at a time: others come in between.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.jobs import ACTIVE_STATES, FETCHING_STATES
from tasks.records.hosts import Hosts
from tasks.records.queues import MESSAGE_PRIORITIES, SENT_AT, list_key
from tasks.records.reading import as_count
from tasks.transfer.errors import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: For so long figures that somebody counted are good for all, at least. 10,000 jobs are counted in 25 ms.
_KEPT_SECONDS = 3.0
#: For so many times as long as counting took, if that is more: with 100,000 jobs it must not be a tenth of Redis.
_KEPT_COSTS = 50
#: Jobs that are counted in one step of Redis, about two milliseconds.
_PAGE = 1000
#: More origins than this are not looked at: each is some lines of every scrape.
_MOST_ORIGINS = 100

# Of a page of the active jobs: how many are in each state, and what the URLs begin with of those that fetch.
_PAGE_OF_JOBS = """
local cursor, ids = unpack(redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]))
local counts, begins = {}, {}
for _, id in ipairs(ids) do
  local fields = redis.pcall('HMGET', ARGV[3] .. id, 'state', 'url')
  local state = fields[1]
  if state then
    counts[state] = (counts[state] or 0) + 1
    if string.find(ARGV[4], '|' .. state .. '|', 1, true) then
      begins[string.match(fields[2] or '', '^%a[%w+.-]*://[^/?#]+') or ''] = true
    end
  end
end
local states, origins = {}, {}
for state, count in pairs(counts) do
  table.insert(states, state)
  table.insert(states, count)
end
for begin in pairs(begins) do table.insert(origins, begin) end
return {cursor, states, origins}
"""


#: What a page of metrics can show: a damaged number may have any size.
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class QueueFigures(BaseModel):
    """The messages of one queue that no worker has taken."""

    model_config = ConfigDict(frozen=True)

    messages_count: _Count
    #: When the oldest of them was sent, in seconds since the epoch, by the clock of who sent it; None: there is none,
    #: or none that says so.
    oldest_sent_at: float | None

    @property
    def is_age_known(self) -> bool:
        """Whether it can be told how old the oldest is; of none, it is."""
        return self.messages_count == 0 or self.oldest_sent_at is not None


class OriginFigures(BaseModel):
    """The connections to one origin, over all workers and jobs."""

    model_config = ConfigDict(frozen=True)

    leases_count: _Count
    allowed_count: _Count | None  #: how many it was seen to allow; None: it refused none of late


class ClusterFigures(BaseModel):
    """What Redis knows of the cluster."""

    model_config = ConfigDict(frozen=True)

    jobs: dict[str, _Count]  #: active ones by state
    queues: dict[str, QueueFigures]
    unacknowledged_count: _Count  #: messages with workers: running, or to be looked at later
    origins: dict[str, OriginFigures]  #: those of jobs that are planned or fetched
    processes_count: _Count  #: worker processes that said of late that they live
    hosts_count: _Count = 0  #: hosts whose workers fetch chunks


class Figures(Hosts):
    """Counting."""

    def cluster_figures(self, queues: Mapping[str, Sequence[str]]) -> ClusterFigures:
        """The figures, a few seconds old at most; with 100,000 active jobs, a quarter of a minute.

        Args:
            queues: what to call each queue, and the names of its lists.
        """
        key = f"{self.prefix}figures"
        with self.translated():
            kept = self._redis.get(key)
        # Of another version, it may be anything.
        with contextlib.suppress(ValidationError):
            if kept is not None:
                return ClusterFigures.model_validate_json(kept)
        began_seconds = time.monotonic()
        figures = self._count(queues)
        kept_seconds = max(_KEPT_SECONDS, _KEPT_COSTS * (time.monotonic() - began_seconds))
        with self.translated():
            self._redis.set(key, figures.model_dump_json(), px=int(kept_seconds * 1000))
        return figures

    def _count(self, queues: Mapping[str, Sequence[str]]) -> ClusterFigures:
        jobs, origins = self._count_jobs()
        with self.translated():
            seconds, _ = self._redis.time()
        names = [name for names in queues.values() for name in names]
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                _ask_for_list(pipe, self.prefix, name)
            for origin in origins:
                pipe.zcount(self.origin_key(origin, "leases"), seconds, "+inf")
                pipe.hmget(self.origin_key(origin, "allowed"), "count", "all")
            pipe.hlen(f"{self.prefix}unacked")
            pipe.zcount(f"{self.prefix}workers", f"({seconds}", "+inf")
            pipe.zcount(self.hosts_key, f"({seconds}", "+inf")
            *answers, unacknowledged_count, processes_count, hosts_count = self.replies(pipe)
        per_list = 3 * len(MESSAGE_PRIORITIES)
        lists = {name: answers[per_list * i : per_list * (i + 1)] for i, name in enumerate(names)}
        of_origins = answers[per_list * len(names) :]
        return ClusterFigures(
            jobs={state: jobs[state] for state in ACTIVE_STATES},
            queues={
                queue: _queue_figures([answer for name in names for answer in lists[name]])
                for queue, names in queues.items()
            },
            unacknowledged_count=unacknowledged_count or 0,
            origins={
                origin: OriginFigures(
                    leases_count=leases or 0, allowed_count=_allowed_count(allowed, hosts_count or 1)
                )
                for origin, leases, allowed in zip(origins, of_origins[::2], of_origins[1::2], strict=True)
            },
            processes_count=processes_count or 0,
            hosts_count=hosts_count or 0,
        )

    def _count_jobs(self) -> tuple[Counter[str], list[str]]:
        """How many active jobs are in each state; one that comes or goes meanwhile is counted or not."""
        counts: Counter[str] = Counter()
        origins: set[str] = set()
        cursor = "0"
        while True:
            cursor, states, begins = self.run(
                _PAGE_OF_JOBS,
                keys=[f"{self.prefix}active"],
                args=[cursor, _PAGE, f"{self.prefix}job:", f"|{'|'.join(FETCHING_STATES)}|"],
            )
            counts.update(dict(zip(states[::2], states[1::2], strict=True)))
            for begin in begins:
                # What is in Redis is a view: a URL that makes no sense is nobody's origin.
                with contextlib.suppress(ValueError):
                    origins.add(origin_of(begin))
            if cursor in ("0", 0):
                return counts, sorted(origins)[:_MOST_ORIGINS]


def _ask_for_list(pipe: Any, prefix: str, name: str) -> None:
    """Have a pipeline ask for a list of each priority: its length, and the messages at both of its ends.

    What comes back to a list is put to either end: there the oldest is.
    """
    for priority in MESSAGE_PRIORITIES:
        key = list_key(prefix, name, priority)
        pipe.llen(key)
        pipe.lindex(key, 0)
        pipe.lindex(key, -1)


def _queue_figures(answers: Sequence[Any]) -> QueueFigures:
    times = [_sent_at(text) for text in (*answers[1::3], *answers[2::3])]
    known = [time for time in times if time is not None]
    return QueueFigures(
        messages_count=sum(length or 0 for length in answers[::3]),
        oldest_sent_at=min(known, default=None),
    )


def _sent_at(text: str | None) -> float | None:
    """When a message was sent, as its header says; None if it has none."""
    try:
        return float(json.loads(text or "{}")["headers"][SENT_AT])
    except (ValueError, KeyError, TypeError):
        return None


def _allowed_count(allowed: list[str | None] | None, hosts_count: int) -> int | None:
    """How many connections an origin was seen to allow to all hosts together."""
    by_host, over_all = map(as_count, allowed or (None, None))
    if over_all is not None:
        return over_all
    return None if by_host is None else by_host * hosts_count
