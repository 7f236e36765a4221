"""What is known of a job's chunks when it is planned, adopted, or sent again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.records.client import Client
from tasks.records.deaths import COUNT_DEATHS
from tasks.records.late import GO_WITH
from tasks.transfer.manifest import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ADOPTED = GO_WITH + "go_with(KEYS[1], {unpack(KEYS, 2)})"


class Sendings(Client):
    """The beginnings of a job's sendings."""

    def adopt(self, job_id: str, wholes: Mapping[int, tuple[int, Mapping[str, int]]]) -> None:
        """Store what an earlier job had left: by chunk, its length in bytes and who brought them."""
        if not wholes:
            return
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            for number, (length_bytes, by_worker) in wholes.items():
                pipe.hset(self.key(job_id, "bytes"), str(Span(number)), length_bytes)
                pipe.hset(self.key(job_id, "shares"), str(Span(number)), json.dumps(dict(by_worker)))
            pipe.sadd(self.key(job_id, "done"), *wholes)
            pipe.execute()
        kinds = ("", "bytes", "shares", "done")
        self.run(_ADOPTED, keys=[self.key(job_id, kind) for kind in kinds], args=[])

    def rejoin(self, job_id: str, missing: Iterable[int]) -> None:
        """Forget who took over from whom where something is missing: these chunks are sent again.

        Where a chunk's beginning has its receipt, it is still known to end there: whoever took it for unfinished would
        fetch it again.
        """
        kinds = ("deaths", "bytes", "speeds", "leases")
        self.run(COUNT_DEATHS, keys=[self.key(job_id, kind) for kind in kinds], args=[])
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            # What was done may be missing again: a receipt that is not true any more was taken back.
            done = self._redis.smembers(self.key(job_id, "done"))
            undone = done & {str(number) for number in missing}
            for kind in ("bytes", "shares"):
                forgotten = [
                    span
                    for span in self._redis.hkeys(self.key(job_id, kind))
                    if (number := span.partition("+")[0]) in undone or ("+" in span and number not in done)
                ]
                if forgotten:
                    pipe.hdel(self.key(job_id, kind), *forgotten)
            if undone:
                pipe.srem(self.key(job_id, "done"), *undone)
            counts = self._redis.hgetall(self.key(job_id, "bytes"))
            stops = self._redis.hgetall(self.key(job_id, "stops"))
            passed = [
                span
                for span, stop in stops.items()
                if span in undone or "+" in span or int(counts.get(span, 0)) < int(stop)
            ]
            if passed:
                pipe.hdel(self.key(job_id, "stops"), *passed)
            pipe.delete(*(self.key(job_id, kind) for kind in ("speeds", "help")))
            pipe.execute()
