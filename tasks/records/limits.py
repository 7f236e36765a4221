"""How many connections an origin was seen to allow: to each host, or to all of them together.

A refusal is believed to be of a limit by host as long as the hosts that were refused were left with equally many. A
limit over all leaves them with unequal numbers, as it comes: their sum is what it allows. Now and then one more is
tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.hosts import BY_HOST, Hosts

if TYPE_CHECKING:
    from tasks.records.progress import Progress

#: How long it is remembered how many connections an origin allows; asked for or refused ones renew it.
_SEEN_LIMIT_SECONDS = 300

#: One more than was seen to be allowed is tried after the first, and after twice as long each time that it is refused.
_LEAST_PAUSE_SECONDS = 0.5

_MOST_PAUSE_SECONDS = 60

# In a script: how many more connections this host may have, and all together, of what an origin allows, math.huge where
# nothing is known; and to try one more than that.
ALLOWED = f"""
local function allowed_more(allowed, me, taken, count_of, now)
  local names = {{'count', 'at', 'pause', 'tried', 'all', 'tester', 'over', 'over_until'}}
  local seen = redis.call('HMGET', allowed, unpack(names))
  local count, all, here, over_all = tonumber(seen[1]), tonumber(seen[5]), math.huge, math.huge
  if count then
    -- That one more is allowed is tried by one host, and only then by others.
    local is_tried = seen[4] == '1' and seen[6] and seen[6] ~= '' and now < seen[2] + seen[3]
    if is_tried and seen[6] ~= me then count = count - 1 end
    here = count - count_of(me)
  end
  if all then over_all = all - taken end
  return here, over_all, seen
end
local function may_try(seen, wanted_count, now)
  if now < seen[2] + seen[3] then return false end
  -- What was refused when it was tried has a pause of its own, that no other refusal shortens.
  return wanted_count < tonumber(seen[7] or math.huge) or now >= tonumber(seen[8])
end
local function try_one_more(allowed, me, taken, count_of, here, over_all, seen, now)
  local pause = tonumber(seen[3])
  if seen[4] == '1' then pause = math.max({_LEAST_PAUSE_SECONDS}, pause / 2) end
  redis.call('HSET', allowed, 'at', now, 'pause', pause, 'tried', 1, 'tester', here <= 0 and me or '')
  if here <= 0 then redis.call('HSET', allowed, 'count', count_of(me) + 1) end
  if over_all <= 0 then redis.call('HSET', allowed, 'all', taken + 1) end
  redis.call('EXPIRE', allowed, {_SEEN_LIMIT_SECONDS})
end
"""

# A refusal among other connections that stand: as many as those are is what the origin allows, for now. Of a fleet that
# was refused together each takes its own lease back first, so that the last one counts those that are being served.
_REFUSED = (
    BY_HOST
    + f"""
local job_leases, origin_leases, allowed, aside = unpack(KEYS)
local holder, is_hosts_own, was_refused = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREM', job_leases, holder)
redis.call('ZREM', origin_leases, holder)
redis.call('ZREMRANGEBYSCORE', origin_leases, '-inf', now)
local others = redis.call('ZCARD', origin_leases)
if others == 0 then return 0 end
local counts, me = by_host(origin_leases, now), host_of(holder)
local here = counts[me] or 0
is_hosts_own = is_hosts_own == '1' and others > here
if was_refused == '0' and not is_hosts_own then return 0 end
if is_hosts_own or here == 0 then
  local pause = tonumber(string.match(redis.call('HGET', aside, me) or '', ' (%S+)$'))
  pause = pause and math.min(pause * 2, {_MOST_PAUSE_SECONDS}) or {_LEAST_PAUSE_SECONDS}
  -- One that was answered reaches the origin: it is not kept from asking, and not counted on where others have all.
  redis.call('HSET', aside, me, (is_hosts_own and now + pause or 0) .. ' ' .. pause)
  redis.call('EXPIRE', aside, {_SEEN_LIMIT_SECONDS})
  if is_hosts_own then return 1 end
end
local seen = redis.call('HMGET', allowed, 'count', 'pause', 'tried', 'all', 'tester', 'over', 'over_pause')
local count, pause, all = tonumber(seen[1]), {_LEAST_PAUSE_SECONDS}, tonumber(seen[4])
if seen[3] == '1' and (seen[5] == me or all) then
  -- Back to what went well: of those, some may have ended since.
  if count and seen[5] == me then redis.call('HSET', allowed, 'count', math.max(1, count - 1)) end
  if all then redis.call('HSET', allowed, 'all', math.max(1, all - 1)) end
  local over = count and seen[5] == me and count or all
  pause = math.max(seen[2], tonumber(seen[6]) == over and seen[7] or 0)
  pause = math.min(pause * 2, {_MOST_PAUSE_SECONDS})
  redis.call('HSET', allowed, 'over', over, 'over_pause', pause, 'over_until', now + pause)
else
  -- Not for long, if it was not one too many that was tried: an origin may take a connection that has just ended for
  -- one that stands.
  redis.call('HSET', allowed, 'host:' .. me, here)
  local is_by_host = here > 0
  for host in pairs(counts) do
    local left = redis.call('HGET', allowed, 'host:' .. host)
    if left and tonumber(left) ~= here then is_by_host = false end
  end
  if is_by_host then
    redis.call('HSET', allowed, 'count', math.min(here, count or here))
    if all then redis.call('HDEL', allowed, 'all', 'over') end
  else
    redis.call('HSET', allowed, 'all', math.min(others, all or others))
    if count then redis.call('HDEL', allowed, 'count', 'over') end
  end
end
redis.call('HSET', allowed, 'at', now, 'pause', pause, 'tried', 0)
redis.call('EXPIRE', allowed, {_SEEN_LIMIT_SECONDS})
return 1
"""
)

# In one step: who was asked to wait for less must not shorten what another was asked just now.
_COOL_DOWN = """
local milliseconds = tonumber(ARGV[1])
if milliseconds > 0 and redis.call('PTTL', KEYS[1]) < milliseconds then
  redis.call('SET', KEYS[1], 1, 'PX', milliseconds)
end
"""


class Limits(Hosts):
    """What origins were seen to allow."""

    def refused(self, progress: Progress, *, is_hosts_own: bool = False, was_refused: bool = True) -> bool:
        """Take note that an origin refused a connection, and give its lease back.

        Args:
            progress: of the attempt.
            is_hosts_own: it could not be reached from here, and was not since a while: if other hosts are served, this
                one alone is set aside for a while, and nothing is learned of the origin.
            was_refused: False: nothing came, and it was not waited for any longer.

        Returns:
            Whether others stood at that moment: then the origin allows only so many, and no more are tried for
            a while. False: the refusal is the origin's own trouble.
        """
        kinds = ("allowed", "aside")
        keys = [*self.leases_of(progress), *(self.origin_key(progress.origin, kind) for kind in kinds)]
        return bool(
            self.run(_REFUSED, keys=keys, args=[progress.holder, int(is_hosts_own), int(was_refused)])
        )

    def cool_down(self, origin: str, seconds: float) -> None:
        """Have everybody wait before the next connection to an origin, as it has asked for."""
        self.run(_COOL_DOWN, keys=[self.origin_key(origin, "wait")], args=[int(seconds * 1000)])

    def leases_of(self, progress: Progress) -> tuple[str, str]:
        """The keys of the leases that an attempt's is among: of its job, and of its origin."""
        return self.key(progress.job_id, "leases"), self.origin_key(progress.origin, "leases")
