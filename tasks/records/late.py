"""Keys that are written after a job's end, or when its record is gone: they must not stay for ever."""

from __future__ import annotations

#: What is told of a job that has no record any more is forgotten after this.
LATE_SECONDS = 60

# In a script: what comes late goes with the job's record, or soon if that is gone.
GO_WITH = f"""
local function go_with(record, keys)
  local left = redis.call('TTL', record)
  if left == -1 then return end
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, left > 0 and left or {LATE_SECONDS}) end
end
"""
