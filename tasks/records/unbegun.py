"""The next chunk that nobody has begun: who is done goes on with it, where nobody else waits for a slot or for one.

Its message is with a worker, which looks now and then whether a connection is free: until it did, that one would rest.
And of many messages that a job has, none is taken before its turn: none is in a list, or who is done takes that.
"""

from __future__ import annotations

from tasks.records.hosts import BY_HOST, WANTS_ONE
from tasks.records.turns import RANK_SECONDS, STARVING

# In a script: its number, or nil. To be called by who has a lease.
UNBEGUN = (
    STARVING
    + BY_HOST
    + WANTS_ONE
    + f"""
local function is_wanted_by_others(holder, rank, now, job_leases, origin_leases, keys, lists)
  local waiting, since, asked, refused, wanted, allowed = unpack(keys)
  local taken = redis.call('ZCARD', origin_leases)
  if taken ~= redis.call('ZCARD', job_leases) or redis.call('EXISTS', unpack(lists)) > 0 then return true end
  for higher = 0, rank - 1 do
    if redis.call('EXISTS', refused .. higher) == 1 then return true end
  end
  if redis.call('ZCOUNT', waiting, '-inf', rank * {RANK_SECONDS} + now) > 0 then return true end
  if starving(since, asked, now) and starving_count(since, rank, now) > 0 then return true end
  local counts, me = by_host(origin_leases, now), host_of(holder)
  local here = counts[me] or 0
  local most_here, most = unpack(redis.call('HMGET', allowed, 'count', 'all'))
  if here > tonumber(most_here or here) or taken > tonumber(most or taken) then return true end
  return another_has_fewer(others_that_want(wanted, me, now), counts, here - 1)
end
local function first_unbegun(bytes, chunks)
  local numbers = {{}}
  for number = 0, chunks - 1 do numbers[number + 1] = number end
  for index, come in ipairs(redis.call('HMGET', bytes, unpack(numbers))) do
    if not come then return index - 1 end
  end
end
"""
)
