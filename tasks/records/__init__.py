"""Job records in Redis: a view for those who wait and watch, and the leases on connections.

The only package that talks to Redis beside Celery itself. What is here can be lost without losing
a byte: the volume is the truth, and who submits the URL again goes on with it. Every call has a deadline.

Keys, behind the prefix:

    jobs                    sorted set: job ids by time of submit
    active                  set: ids of the jobs that have not ended and are not paused
    stalls                  hash: id of such a job -> what had come of it, since when, how often it was sent again in
                            vain, how many workers died planning or merging it
    sweep:<what>            set for as long as nobody else is to sweep jobs, or the volume
    sweep:looked            set for as long as it is known how jobs stood when somebody looked last
    names                   set: what manifests call this cluster; more than one after Redis was emptied
    workers                 sorted set: worker processes by the time until which they are believed to live
    hosts                   sorted set: the same of hosts that fetch chunks
    job:<id>                hash: the record's fields, ``at:<state>`` times, the sealed request
    job:<id>:bytes          hash: span -> bytes done; a repeated report changes nothing
    job:<id>:done           set: numbers of chunks that have a receipt
    job:<id>:shares         hash: span -> who brought how much, as JSON
    job:<id>:stops          hash: span -> where it ends in its chunk, if somebody took over what follows
    job:<id>:help           sorted set: hosts that look for something to take over, or will in a moment, by until when
    job:<id>:speeds         hash: span -> bytes per second of late (-1: not known) and who fetches it;
                            @<time>: nobody, as somebody failed with it, and until then none but its message tries
    job:<id>:deaths         hash: span -> how many workers died at it one after the other, and how many bytes were done
    job:<id>:leases         sorted set: <host>/<attempt> by the time at which the lease ends
    heard                   since when attempts were reported without a break
    origin:<origin>:leases  sorted set: the same over all jobs of one origin
    origin:<origin>:wait    set while the origin has asked everybody to wait
    origin:<origin>:allowed hash: how many connections an origin was seen to allow, to each host or to all together,
                            what each host that was refused one more was left with, and when one more may be tried
    origin:<origin>:aside   hash: host that could not reach it, or was refused its only connection -> until when it is
                            not tried from there again, and how long that is
    origin:<origin>:wanting, :wanted  sorted sets: hosts that want a connection, by since when, and by until when
    origin:<origin>:turn:<host>  set while somebody yields to that host
    origin:<origin>:starving  sorted set: jobs that were refused a connection and have none, by priority and since when
    origin:<origin>:asked   sorted set: the same by when they asked last
    origin:<origin>:refused<rank>  set while a job of this priority was just refused a connection
    waiting                 sorted set: jobs that no worker had a slot for yet, by priority and since when
    turn:<id or rank>       set while somebody yields to a job, or to those of a priority
    answer:<token>          list: a worker's answer to a question, for a while
    job:<id>:busy           set while somebody plans or merges it
    job:<id>:changes        channel: a message at each change of state

A span is written as its chunk's number, with ``+`` and its start where that is not the chunk's: ``12+5242880``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records.answers import Answers
from tasks.records.attempts import Attempts, Standing
from tasks.records.batches import Batches, Found
from tasks.records.client import RedisAway, RedisError, without_password
from tasks.records.endings import Ending, Endings
from tasks.records.jobs import NewJob
from tasks.records.leases import LEASE_SECONDS, Lease
from tasks.records.members import Members
from tasks.records.progress import Progress
from tasks.records.queues import Queues
from tasks.records.reading import Asked, NoSuchJob, RecordLost
from tasks.records.sendings import Sendings
from tasks.records.states import States
from tasks.records.sweeps import Sweeps
from tasks.records.takeovers import Next, Search, TakeOvers
from tasks.records.turns import Starving

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = [
    "LEASE_SECONDS",
    "Asked",
    "Ending",
    "Found",
    "Lease",
    "NewJob",
    "Next",
    "NoSuchJob",
    "Progress",
    "RecordLost",
    "Records",
    "RedisAway",
    "RedisError",
    "Search",
    "Standing",
    "Starving",
    "without_password",
]


class Records(Batches, States, Answers, Sendings, Queues, Members, Sweeps, Attempts, TakeOvers, Endings):
    """The records behind one Redis URL and one key prefix."""

    def __init__(self, url: SecretStr, *, prefix: str, timeout_seconds: float, age_seconds: int) -> None:
        super().__init__(url, prefix=prefix, timeout_seconds=timeout_seconds)
        self.age_seconds = age_seconds
