"""What a user of Redis must be permitted, so that Manyhands, Celery and Flower work: no more than that is asked for.

All keys and channels begin with the prefix. `acl_rules` is what an administrator gives such a user.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Each command, with what else stands in the least that Redis accepts: K is a key, C a channel, P a pattern.
_COMMANDS = {
    "blpop": "K 1", "brpop": "K 1", "del": "K", "discard": "", "eval": "0 0", "evalsha": "0 0", "exec": "",
    "exists": "K", "expire": "K 1", "get": "K", "hdel": "K f", "hello": "", "hget": "K f", "hgetall": "K",
    "hincrby": "K f 1", "hkeys": "K", "hlen": "K", "hmget": "K f", "hscan": "K 0", "hset": "K f v",
    "hsetnx": "K f v", "hvals": "K", "incrby": "K 1", "info": "", "lindex": "K 0", "llen": "K", "lpush": "K v",
    "lrange": "K 0 1",
    "mget": "K", "multi": "", "persist": "K", "pexpire": "K 1", "ping": "", "psubscribe": "P", "pttl": "K",
    "publish": "C m", "punsubscribe": "", "rpop": "K", "rpush": "K v", "sadd": "K m", "scan": "0", "scard": "K",
    "script|exists": "0", "script|load": "0", "select": "0", "set": "K v", "setex": "K 1 v", "sismember": "K m",
    "smembers": "K", "srandmember": "K", "srem": "K m", "sscan": "K 0", "subscribe": "C", "time": "", "ttl": "K",
    "unlink": "K", "unsubscribe": "", "unwatch": "", "watch": "K", "zadd": "K 1 m", "zcard": "K",
    "zcount": "K 0 1", "zrange": "K 0 1", "zrangebyscore": "K 0 1", "zrem": "K m", "zremrangebyscore": "K 0 1",
    "zrevrange": "K 0 1", "zscore": "K m",
}  # fmt: skip

#: Connections begin with these, which everybody may, or they end a transaction by being in it.
_NOT_QUEUED = ("hello", "multi", "exec", "discard", "watch", "unwatch", "select")


def commands() -> list[str]:
    """The commands that are needed, in Redis's own spelling of subcommands."""
    return list(_COMMANDS)


def patterns(prefix: str, database: int) -> list[str]:
    """The patterns that Celery and Flower subscribe to.

    Redis compares a pattern with what a user may as text: that the user may all channels that begin with the prefix is
    not enough for one.
    """
    fanout = f"{prefix}/{database}."
    return [f"{fanout}celery.pidbox", f"{fanout}celeryev/*", f"{fanout}celeryev/worker.*"]


def acl_rules(prefix: str, database: int) -> str:
    """The rules of an ACL for a user of this prefix; without its name, state and password."""
    channels = [f"{prefix}*", *patterns(prefix, database)]
    return " ".join(
        [
            "resetkeys resetchannels -@all",
            f"~{prefix}*",
            *(f"&{channel}" for channel in channels),
            *(f"+{command}" for command in _COMMANDS),
        ]
    )


def may_all(client: Any, prefix: str, database: int) -> None:
    """Ask whether the user may all of it; nothing is executed.

    Redis checks a command when it is put into a transaction, which then is thrown away with its connection.

    Raises:
        redis.exceptions.NoPermissionError: the first that the user may not.
        redis.RedisError: it could not be asked.
    """
    connection = client.connection_pool.get_connection()
    try:
        for words in (("WATCH", f"{prefix}check"), ("UNWATCH",), ("MULTI",), ("EXEC",), ("MULTI",)):
            connection.send_command(*words)
            connection.read_response()
        requests = list(_requests(prefix, database))
        connection.send_packed_command(connection.pack_commands(requests))
        refused = None
        for _ in requests:
            try:
                connection.read_response()
            except redis.exceptions.NoPermissionError as error:
                refused = refused or error
            except redis.ResponseError:
                pass  # permitted, but not within a transaction
        if refused:
            raise refused
    finally:
        with contextlib.suppress(redis.RedisError, OSError):
            connection.disconnect()
        client.connection_pool.release(connection)


def _requests(prefix: str, database: int) -> Iterator[tuple[str, ...]]:
    for command, arguments in _COMMANDS.items():
        if command in _NOT_QUEUED:
            continue
        if arguments == "P":
            for pattern in patterns(prefix, database):
                yield (command.upper(), pattern)
            continue
        name = f"{prefix}check"
        words = [name if word in "KC" else word for word in arguments.split()]
        yield (*command.upper().split("|"), *words)
