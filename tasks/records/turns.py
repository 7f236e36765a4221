"""Whose turn it is: jobs that have something to fetch and no connection at all, while others have several.

Such a job starves: for a worker's slot if none of its messages was taken since they were sent, for a connection if its
origin's are all taken. In both cases somebody yields (`tasks.turns`), and the next free connection is kept for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.records.hosts import WANTS_ONE, Hosts
from tasks.records.queues import CHUNKS_LISTS, MESSAGE_PRIORITIES, list_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tasks.transfer.manifest import Priority

#: A job that has not asked for a connection again for so long has gone away.
ASKS_SECONDS = 3
#: What waits longer than this for a slot waits for something that no yield brings, and is no more yielded to.
_MOST_SECONDS = 30
#: What a starving job's key is forgotten after.
STARVING_KEPT_SECONDS = 60
#: In a score, priorities lie further apart than any times.
RANK_SECONDS = 2 * 10**10
RANKS_COUNT = 3
#: Whoever was yielded to has so long to make use of it; where it is for the higher priority, less.
_TURN_MILLISECONDS, _HIGHER_TURN_MILLISECONDS = 1500, 400

# In a script: the job that has starved for an origin's connections longest, among those of the highest priority.
STARVING = f"""
local function starving(since, asked, now)
  while true do
    local first = redis.call('ZRANGE', since, 0, 0)[1]
    if not first then return nil end
    if tonumber(redis.call('ZSCORE', asked, first) or 0) >= now - {ASKS_SECONDS} then return first end
    redis.call('ZREM', since, first)
    redis.call('ZREM', asked, first)
  end
end
local function starving_count(since, rank, now)
  return redis.call('ZCOUNT', since, '-inf', rank * {RANK_SECONDS} + now)
end
local function starves(since, asked, job_id, rank, now)
  redis.call('ZADD', since, 'NX', rank * {RANK_SECONDS} + now, job_id)
  redis.call('ZADD', asked, now, job_id)
  redis.call('EXPIRE', since, {STARVING_KEPT_SECONDS})
  redis.call('EXPIRE', asked, {STARVING_KEPT_SECONDS})
end
"""

# In a script: a job waits for a slot from now on.
WAITS = f"""
local function waits(waiting, job_id, rank, now)
  for each = 0, {RANKS_COUNT - 1} do
    local begin = each * {RANK_SECONDS}
    redis.call('ZREMRANGEBYSCORE', waiting, begin, begin + now - {_MOST_SECONDS})
  end
  redis.call('ZADD', waiting, 'NX', rank * {RANK_SECONDS} + now, job_id)
  redis.call('EXPIRE', waiting, {STARVING_KEPT_SECONDS})
end
"""

# In a script: whether somebody has yielded to a job that waits for a slot, and has not got one yet.
EXPECTED = f"""
local function is_expected(waiting, turns, rank, now)
  for each = 0, rank do
    local begin = each * {RANK_SECONDS}
    local first = redis.call('ZRANGEBYSCORE', waiting, begin + now - {_MOST_SECONDS}, begin + now, 'LIMIT', 0, 1)[1]
    if first and redis.call('EXISTS', turns .. first) == 1 then return true end
  end
  return false
end
"""

# From now on the job waits for a slot, and, if it has no connection, for that too; and each host may have something to
# fetch in a moment.
_SENT = (
    STARVING
    + WAITS
    + WANTS_ONE
    + """
local waiting, job_leases, since, asked, hosts, wanting, wanted = unpack(KEYS)
local job_id, rank = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
waits(waiting, job_id, rank, now)
if redis.call('ZCARD', job_leases) == 0 then starves(since, asked, job_id, rank, now) end
all_want_one(hosts, wanting, wanted, now)
"""
)


# Nobody yields to a job that was ended or paused while it waited.
_CLAIM_TURN = """
local turn, waiting, job = unpack(KEYS)
local milliseconds, job_id = unpack(ARGV)
local state = job and redis.call('HGET', job, 'state')
if job and state ~= 'planning' and state ~= 'fetching' then
  redis.call('ZREM', waiting, job_id)
  return 0
end
return redis.call('SET', turn, 1, 'NX', 'PX', milliseconds) and 1 or 0
"""


@dataclass(frozen=True, slots=True)
class Starving:
    """A job that has something to fetch, and no connection; or one of a priority to which lower ones yield all."""

    job_id: str | None  #: None: any of that priority, for want of slots
    rank: int  #: of its priority; 0 is the highest
    seconds: float = math.inf  #: for how long
    has_connections: bool = False  #: only lower ones yield to it


class Turns(Hosts):
    """Who starves, and who is yielded to."""

    @property
    def waiting_key(self) -> str:
        """The key of those that wait for a slot."""
        return f"{self.prefix}waiting"

    @property
    def turns_key(self) -> str:
        """What the keys begin with that say to whom somebody yields."""
        return f"{self.prefix}turn:"

    def starving_keys(self, origin: str) -> tuple[str, str]:
        """The keys of those that starve for an origin's connections: since when, and when they asked last."""
        return self.origin_key(origin, "starving"), self.origin_key(origin, "asked")

    def chunk_lists(self, rank: int) -> list[str]:
        """The keys of the lists of chunks' messages, of a priority and those above it."""
        return [
            list_key(self.prefix, queue, priority)
            for queue in CHUNKS_LISTS
            for priority in MESSAGE_PRIORITIES[: rank + 1]
        ]

    def sent(self, job_id: str, priority: Priority, origin: str) -> None:
        """Take note that a job's chunks were sent: it starves until one of them is begun."""
        keys = [
            self.waiting_key,
            self.key(job_id, "leases"),
            *self.starving_keys(origin),
            self.hosts_key,
            *self.wanting_keys(origin),
        ]
        self.run(_SENT, keys=keys, args=[job_id, priority.rank])

    def claim_turn(self, starving: Starving) -> bool:
        """Have the caller be the one that yields to somebody; False if somebody else did just now."""
        milliseconds = _HIGHER_TURN_MILLISECONDS if starving.has_connections else _TURN_MILLISECONDS
        keys = [f"{self.turns_key}{starving.job_id or starving.rank}", self.waiting_key]
        if starving.job_id is not None:
            keys.append(self.key(starving.job_id))
        return bool(self.run(_CLAIM_TURN, keys=keys, args=[milliseconds, starving.job_id or ""]))

    def read_starving(
        self, answers: list[Any], origins: Sequence[str], now: float
    ) -> dict[str, tuple[Starving, ...]]:
        """Who starves, by origin, from the last answers of such a pipeline; all that starve for a slot with each."""
        of_slots = answers[-RANKS_COUNT:]
        waiting_counts = answers[-2 * RANKS_COUNT + 1 : -RANKS_COUNT]
        of_origins = answers[: -2 * RANKS_COUNT + 1][-2 * len(origins) :]
        for_slots = [
            *_starving(of_slots, now),
            *(
                Starving(None, rank, has_connections=True)
                for rank, count in enumerate(waiting_counts)
                if count
            ),
        ]
        found = {}
        for origin, first, refused in zip(origins, of_origins[::2], of_origins[1::2], strict=True):
            higher = [
                Starving(job_id, rank, has_connections=True) for rank, job_id in enumerate(refused) if job_id
            ]
            found[origin] = (*_starving([first], now), *higher, *for_slots)
        return found

    def ask_starving(self, pipe: Any, origins: Iterable[str], now: float) -> None:
        """Have a pipeline ask who starves: for each of these origins' connections, and for a slot, by rank."""
        for origin in origins:
            pipe.zrange(self.starving_keys(origin)[0], 0, 0, withscores=True)
            pipe.mget([self.origin_key(origin, f"refused{rank}") for rank in range(RANKS_COUNT - 1)])
        for priority in MESSAGE_PRIORITIES[:-1]:
            pipe.exists(*(list_key(self.prefix, queue, priority) for queue in CHUNKS_LISTS))
        for rank in range(RANKS_COUNT):
            begin = rank * RANK_SECONDS
            pipe.zrangebyscore(
                self.waiting_key, begin + now - _MOST_SECONDS, begin + now, start=0, num=1, withscores=True
            )


def _starving(answers: Iterable[Sequence[tuple[str, float]]], now: float) -> Iterator[Starving]:
    for answer in answers:
        for job_id, score in answer:
            rank, since_seconds = divmod(score, RANK_SECONDS)
            yield Starving(job_id, int(rank), now - since_seconds)
