"""How an origin's connections are spread over hosts: who has more of them yields to a host that wants one.

A host wants one when it was refused one because all are taken, and for a moment when a job's chunks are sent. One that
fetches nothing, whose slots are full, or that does not reach the origin asks for none, and none is kept for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

#: For so long after it was refused a connection a host is taken to want one.
_WANTS_SECONDS = 1.0
#: So long each host has to ask for its first one when chunks are sent, before others take another one.
_FIRST_SECONDS = 0.3
#: For so long a host has wanted one before somebody yields: as a rule one is free by then.
_YIELDED_TO_SECONDS = 0.25
#: Whom somebody yielded to has so long to make use of it.
_TURN_MILLISECONDS = 600
_KEPT_SECONDS = 60

# In a script: how many of an origin's connections each host has.
BY_HOST = """
local function host_of(holder) return string.match(holder, '^[^/]*') end
local function by_host(origin_leases, now)
  local counts = {}
  for _, holder in ipairs(redis.call('ZRANGEBYSCORE', origin_leases, '(' .. now, '+inf')) do
    local host = host_of(holder)
    counts[host] = (counts[host] or 0) + 1
  end
  return counts
end
"""

# In a script: which other hosts want one of an origin's connections, and that a host does from now on.
WANTS_ONE = f"""
local function others_that_want(wanted, me, now)
  local others = {{}}
  for _, host in ipairs(redis.call('ZRANGEBYSCORE', wanted, '(' .. now, '+inf')) do
    if host ~= me then table.insert(others, host) end
  end
  return others
end
local function another_has_fewer(others, counts, count)
  for _, host in ipairs(others) do
    if (counts[host] or 0) < count then return true end
  end
  return false
end
local function wants_one(wanting, wanted, host, now, seconds)
  if tonumber(redis.call('ZSCORE', wanted, host) or 0) <= now then redis.call('ZADD', wanting, now, host) end
  redis.call('ZADD', wanted, 'GT', now + seconds, host)
  redis.call('EXPIRE', wanting, {_KEPT_SECONDS})
  redis.call('EXPIRE', wanted, {_KEPT_SECONDS})
end
local function is_refused_one(hosts, wanting, wanted, host, now)
  if redis.call('ZCARD', hosts) > 1 then wants_one(wanting, wanted, host, now, {_WANTS_SECONDS}) end
end
local function all_want_one(hosts, wanting, wanted, now)
  local found = redis.call('ZRANGEBYSCORE', hosts, '(' .. now, '+inf')
  if #found < 2 then return end
  for _, host in ipairs(found) do wants_one(wanting, wanted, host, now, {_FIRST_SECONDS}) end
end
"""

# The host that has waited for a connection and would still have fewer than the one that asks if that yielded one.
_IN_NEED = (
    BY_HOST
    + WANTS_ONE
    + f"""
local origin_leases, wanting, wanted = unpack(KEYS)
local me = ARGV[1]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local others = others_that_want(wanted, me, now)
if #others == 0 then return false end
local counts = by_host(origin_leases, now)
local found, least = false, (counts[me] or 0) - 1
for _, host in ipairs(others) do
  local count = counts[host] or 0
  if count < least and now - (redis.call('ZSCORE', wanting, host) or now) >= {_YIELDED_TO_SECONDS} then
    found, least = host, count
  end
end
return found
"""
)


class Hosts(Client):
    """The hosts that fetch chunks, and those of them that want a connection."""

    @property
    def hosts_key(self) -> str:
        """The key of the hosts that fetch, by the time until which they are believed to live."""
        return f"{self.prefix}hosts"

    def wanting_keys(self, origin: str) -> tuple[str, str]:
        """The keys of the hosts that want one of an origin's connections: since when, and until when."""
        return self.origin_key(origin, "wanting"), self.origin_key(origin, "wanted")

    def hosts_count(self) -> int:
        """How many hosts fetch chunks."""
        with self.translated():
            seconds, _ = self._redis.time()
            return int(self._redis.zcount(self.hosts_key, seconds, "+inf"))

    def ask_hosts_in_need(self, pipe: object, host: str, origins: Sequence[str]) -> None:
        """Have a pipeline ask, for each of these origins, which host this one should yield a connection to, if any."""
        for origin in origins:
            keys = [self.origin_key(origin, "leases"), *self.wanting_keys(origin)]
            self.script(_IN_NEED)(keys=keys, args=[host], client=pipe)

    def claim_host_turn(self, origin: str, host: str) -> bool:
        """Have the caller be the one that yields to a host; False if somebody else did just now."""
        with self.translated():
            key = self.origin_key(origin, f"turn:{host}")
            return bool(self._redis.set(key, 1, nx=True, px=_TURN_MILLISECONDS))
