"""Job records in Redis: a view for those who wait and watch, and the leases on connections.

The only package that talks to Redis beside Celery itself. What is here can be lost without losing
a byte: the volume is the truth, and who submits the URL again goes on with it. Every call has a deadline.

Keys, behind the prefix:

    jobs                    sorted set: job ids by time of submit
    job:<id>                hash: the record's fields, ``at:<state>`` times, the sealed request
    job:<id>:bytes          hash: span -> bytes done; a repeated report changes nothing
    job:<id>:done           set: numbers of chunks that have a receipt
    job:<id>:shares         hash: span -> who brought how much, as JSON
    job:<id>:stops          hash: span -> where it ends in its chunk, if somebody took over what follows
    job:<id>:help           set while somebody looks for something to take over, or will in a moment
    job:<id>:speeds         hash: span -> bytes per second of late (-1: not known) and who fetches it;
                            @<time>: nobody, as somebody failed with it, and until then none but its message tries
    job:<id>:leases         sorted set: <host>/<attempt> by the time at which the lease ends
    origin:<origin>:leases  sorted set: the same over all jobs of one origin
    origin:<origin>:wait    set while the origin has asked everybody to wait
    origin:<origin>:allowed hash: how many connections an origin was seen to allow, and when one more may be tried
    answer:<token>          list: a worker's answer to a question, for a while
    job:<id>:changes        channel: a message at each change of state

A span is written as its chunk's number, with ``+`` and its start where that is not the chunk's: ``12+5242880``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.answers import Answers
from tasks.records.attempts import Attempts, Standing
from tasks.records.batches import Batches, Found
from tasks.records.client import RedisAway, RedisError, without_password
from tasks.records.jobs import NewJob
from tasks.records.leases import Lease
from tasks.records.progress import Progress
from tasks.records.reading import Asked, NoSuchJob
from tasks.records.sendings import Sendings
from tasks.records.states import States
from tasks.records.takeovers import Next, Search, TakeOvers

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = [
    "Asked",
    "Found",
    "Lease",
    "NewJob",
    "Next",
    "NoSuchJob",
    "Progress",
    "Records",
    "RedisAway",
    "RedisError",
    "Search",
    "Standing",
    "without_password",
]


class Records(Batches, States, Answers, Sendings, Attempts, TakeOvers):
    """The records behind one Redis URL and one key prefix."""

    def __init__(self, url: SecretStr, *, prefix: str, timeout_seconds: float, age_seconds: int) -> None:
        super().__init__(url, prefix=prefix, timeout_seconds=timeout_seconds)
        self.age_seconds = age_seconds
