"""What is known of a job's chunks when it is planned, adopted, or sent again."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from tasks.records.client import Client
from tasks.records.deaths import COUNT_DEATHS
from tasks.records.late import GO_WITH
from tasks.records.reading import as_count
from tasks.transfer.manifest import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.transfer.manifest import Receipt

_ADOPTED = GO_WITH + "go_with(KEYS[1], {unpack(KEYS, 2)})"


class Sendings(Client):
    """The beginnings of a job's sendings."""

    def adopt(self, job_id: str, receipts: Sequence[Receipt]) -> None:
        """Store what is there of a job that Redis knows nothing of: the receipts of its whole chunks."""
        if not receipts:
            return
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            for receipt in receipts:
                span = str(Span(receipt.number, receipt.start))
                pipe.hset(self.key(job_id, "bytes"), span, receipt.length_bytes)
                pipe.hset(self.key(job_id, "shares"), span, json.dumps(receipt.brought_bytes))
            pipe.sadd(self.key(job_id, "done"), *{receipt.number for receipt in receipts})
            pipe.execute()
        kinds = ("", "bytes", "shares", "done")
        self.run(_ADOPTED, keys=[self.key(job_id, kind) for kind in kinds], args=[])

    def settle_shares(self, job_id: str, receipts: Sequence[Receipt]) -> None:
        """Store who brought what of a file: while it was fetched, two who were at the same bytes both counted."""
        shares = {
            str(Span(receipt.number, receipt.start)): json.dumps(receipt.brought_bytes)
            for receipt in receipts
        }
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(self.key(job_id, "shares"))
            if shares:
                pipe.hset(self.key(job_id, "shares"), mapping=shares)
            pipe.execute()
        self.run(_ADOPTED, keys=[self.key(job_id), self.key(job_id, "shares")], args=[])

    def rejoin(self, job_id: str, wholes: Sequence[Receipt]) -> None:
        """Bring what is known into line with what is there; what is missing is sent again.

        Of that it is forgotten who took over from whom. And a worker may have died before it could tell of a receipt.
        Where a chunk's beginning has its receipt, it is still known to end there: whoever took it for unfinished would
        fetch it again.

        Args:
            job_id: which job.
            wholes: the receipts of its whole chunks.
        """
        kinds = ("deaths", "bytes", "speeds", "leases")
        self.run(COUNT_DEATHS, keys=[self.key(job_id, kind) for kind in kinds], args=[])
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            # What was done may be missing again: a receipt that is not true any more was taken back.
            done = self._redis.smembers(self.key(job_id, "done"))
            undone = done - {str(receipt.number) for receipt in wholes}
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
                if span in undone
                or "+" in span
                or (as_count(counts.get(span)) or 0) < (as_count(stop) or math.inf)
            ]
            if passed:
                pipe.hdel(self.key(job_id, "stops"), *passed)
            pipe.delete(*(self.key(job_id, kind) for kind in ("speeds", "help")))
            pipe.execute()
        self.adopt(job_id, [receipt for receipt in wholes if str(receipt.number) not in done])
