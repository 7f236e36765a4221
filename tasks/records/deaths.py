"""Deaths of workers at one span: what is fetched again and again, and ends each worker that does, ends its job."""

from __future__ import annotations

# In a script: count the death of a span's last holder, if it died: it neither holds a lease nor gave it back, or it
# `is_silent` and taken for dead. Of deaths without a new byte between them; how many there were.
DIED = """
local function died(deaths, bytes, speeds, job_leases, span, now, is_silent)
  local who = string.match(redis.call('HGET', speeds, span) or '', '^%S+ (.*)$')
  local before = redis.call('HGET', deaths, span)
  local count, least = string.match(before or '', '^(%d+) (%d+)$')
  count = tonumber(count or 0)
  if not who or string.sub(who, 1, 1) == '@' then return count end
  if not is_silent and tonumber(redis.call('ZSCORE', job_leases, who) or 0) > now then return count end
  local done = tonumber(redis.call('HGET', bytes, span) or 0)
  if count > 0 and done > tonumber(least) then count = 0 end
  count = count + 1
  redis.call('HSET', deaths, span, count .. ' ' .. math.max(done, tonumber(least or 0)))
  return count
end
"""

# Before it is forgotten who fetched what, because it is sent again.
COUNT_DEATHS = (
    DIED
    + """
local deaths, bytes, speeds, job_leases = unpack(KEYS)
local now = redis.call('TIME')[1] + 0
for _, span in ipairs(redis.call('HKEYS', speeds)) do died(deaths, bytes, speeds, job_leases, span, now) end
"""
)
