"""Who belongs to the cluster: what manifests call it, and which of its worker processes live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Iterable

#: For so long a worker process is believed to live.
_ALIVE_SECONDS = 10
#: For so long after a worker's death it is taken into account that messages may have died with it: as long as the
#: longest countdown.
_DEATH_COUNTS_SECONDS = 60

_ALIVE = """
local now = redis.call('TIME')[1] + 0
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3])
if ARGV[4] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
end
"""


_JOIN = """
local name = redis.call('SRANDMEMBER', KEYS[1])
if not name then
  name = ARGV[1]
  redis.call('SADD', KEYS[1], name)
end
return name
"""


class Members(Hosts):
    """A cluster's names, and its workers."""

    def join(self, name: str) -> str:
        """A name of this cluster, which manifests carry: one that it has, or, if it has none, this one."""
        found: str = self.run(_JOIN, keys=[f"{self.prefix}names"], args=[name])
        return found

    def names(self, known: Iterable[str]) -> tuple[set[str], bool]:
        """All names of this cluster; and whether one of these, which it had, was not among them: Redis was emptied.

        It has more than one where, after that, a new worker process was quicker than one that knew the name.
        """
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(f"{self.prefix}names", *known)
            pipe.smembers(f"{self.prefix}names")
            added, names = pipe.execute()
        return set(names), bool(added)

    def known_names(self) -> set[str]:
        """All names of this cluster, for whoever has none."""
        with self.translated():
            return set(self._redis.smembers(f"{self.prefix}names"))

    def is_alive(self, worker: str, *, fetches_on: str | None = None) -> None:
        """Say that a worker process lives; to be said again within `_ALIVE_SECONDS`.

        Args:
            worker: its name.
            fetches_on: the host whose chunks it fetches; None: it fetches none.
        """
        args: list[str | float] = [worker, _ALIVE_SECONDS, _DEATH_COUNTS_SECONDS, fetches_on or ""]
        self.run(_ALIVE, keys=[f"{self.prefix}workers", self.hosts_key], args=args)

    def has_ended(self, worker: str) -> None:
        """Say that a worker process ends in order, and gave back what it had."""
        with self.translated():
            self._redis.zrem(f"{self.prefix}workers", worker)

    def somebody_died(self) -> bool:
        """Whether a worker process has not been heard of for a while, and did not end in order."""
        with self.translated():
            seconds, _ = self._redis.time()
            return bool(self._redis.zcount(f"{self.prefix}workers", "-inf", seconds))
