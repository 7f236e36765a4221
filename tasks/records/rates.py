"""How a limit is shared: by the processes that read under it, each with as much as it can use.

What was granted is never more than the limit, also while shares move: who gets more has to wait until another has
heard that it has less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records.client import Client, RedisError
from tasks.transfer.manifest import JobSpec
from tasks.transfer.rates import limiting

if TYPE_CHECKING:
    from collections.abc import Iterable

#: As long as this a process that says nothing keeps its share: it may have died, or read on without Redis.
_KEPT_SECONDS = 5

# Fair shares by connections; who can use less than its own leaves the rest to the others.
_SHARE = """
local rates = KEYS[1]
local who, limit, wanted, connections, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local all, granted = {{wanted = wanted, connections = connections}}, 0
local found = redis.call('HGETALL', rates)
for index = 1, #found, 2 do
  local share, wants, count, ends = string.match(found[index + 1], '^(%S+) (%S+) (%S+) (%S+)$')
  if not ends or tonumber(ends) <= now then
    redis.call('HDEL', rates, found[index])
  elseif found[index] ~= who then
    granted = granted + share
    table.insert(all, {wanted = tonumber(wants), connections = tonumber(count)})
  end
end
local left, weights = limit, 0
for _, each in ipairs(all) do weights = weights + each.connections end
local is_settled
repeat
  is_settled = true
  for _, each in ipairs(all) do
    if not each.share and each.wanted >= 0 and each.wanted <= left * each.connections / weights then
      each.share = each.wanted
      left, weights, is_settled = left - each.wanted, weights - each.connections, false
    end
  end
until is_settled
local share = all[1].share or left * connections / weights
if weights == 0 then
  -- All have what they can use: what is left would be of use to whoever becomes quicker.
  for _, each in ipairs(all) do weights = weights + each.connections end
  share = share + left * connections / weights
end
share = math.max(0, math.min(share, limit - granted))
redis.call('HSET', rates, who, string.format('%.3f %.3f %d %.3f', share, wanted, connections, now + kept))
redis.call('EXPIRE', rates, 2 * kept)
return string.format('%.3f', share)
"""

# What was asked for changes too: a plan that comes later goes by that. Unless it was changed meanwhile.
_LIMIT = """
local job, before, after, rate = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', job, 'spec') ~= before then return 0 end
redis.call('HSET', job, 'spec', after, 'limit_rate', rate)
return 1
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a process would like of a limit."""

    key: str  #: whose shares: see `job_rates` and `host_rates`
    limit: int  #: bytes a second, for all
    wanted: float | None  #: bytes a second; None: as many as it gets
    connections_count: int  #: that it has under this limit


class Rates(Client):
    """The shares of limits."""

    def job_rates(self, job_id: str) -> str:
        """The key of the shares of a job's limit."""
        return self.key(job_id, "rates")

    def host_rates(self, host_name: str) -> str:
        """The key of the shares of a host's limit."""
        return f"{self.prefix}host:{host_name}:rates"

    def limit(self, job_id: str, rate: str) -> bool:
        """Give a job another rate; False if it is complete, or there is none."""
        while True:
            with self.translated():
                spec = self._redis.hget(self.key(job_id), "spec")
            if spec is None:
                return False
            try:
                changed = JobSpec.model_validate_json(spec).model_copy(update={"limit_rate": limiting(rate)})
            except ValueError:
                raise RedisError(f"The record of job {job_id} in Redis is damaged.") from None
            args = [spec, changed.model_dump_json(exclude_defaults=True), rate]
            if self.run(_LIMIT, keys=[self.key(job_id)], args=args):
                return True

    def share(self, process: str, wishes: Iterable[Wish], *, unused: Iterable[str] = ()) -> dict[str, float]:
        """Say what a process could use of each limit, and learn what it may; bytes a second, by key.

        Args:
            process: who asks.
            wishes: of what.
            unused: keys of limits of which it uses nothing any more.
        """
        wishes = list(wishes)
        with self.translated(), self._redis.pipeline(transaction=False) as pipe:
            for key in unused:
                pipe.hdel(key, process)
            count = len(pipe)
            for wish in wishes:
                wanted = -1.0 if wish.wanted is None else wish.wanted
                args = [process, wish.limit, wanted, wish.connections_count, _KEPT_SECONDS]
                self.script(_SHARE)(keys=[wish.key], args=args, client=pipe)
            answers = pipe.execute()[count:]
        return {wish.key: float(answer) for wish, answer in zip(wishes, answers, strict=True)}
