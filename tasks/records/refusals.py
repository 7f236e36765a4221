"""What an error of Redis, or of the way to it, means: whether it refuses us, or may be there later."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

import redis
from redis.exceptions import InvalidResponse, NoPermissionError, ReadOnlyError
from redis.sentinel import MasterNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

# OpenSSL's numbers, of which Python has no names: X509_V_ERR_...
_UNKNOWN_CA = (18, 19, 20, 21)
_OTHER_HOST = (62, 64)  # HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH

#: A refused EXEC is told as a transaction that was given up, and what a script may not do as an error of it.
_NO_PERMISSION = re.compile("NOPERM|user executing the script", re.IGNORECASE)

#: What a server that speaks no TLS looks like to OpenSSL.
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "UNKNOWN_PROTOCOL",
)
#: How a server says that it wants a client certificate, by TLS 1.3 and before.
_WANTS_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")

#: Codes of errors that end when somebody else becomes the master, or when this one has recovered.
_FOR_NOW = re.compile(r"\b(READONLY|UNBLOCKED|NOREPLICAS|MASTERDOWN|MISCONF|LOADING)\b")
_MEANS = {
    "READONLY": "it is a replica",
    "UNBLOCKED": "it has become a replica",
    "NOREPLICAS": "it has too few replicas",
    "MASTERDOWN": "it is a replica without a master",
    "MISCONF": "it cannot save to its disk",
    "LOADING": "it still reads its file",
}


def refusal(error: BaseException, *, setting: str = "ORCHESTRATOR_REDIS_URL") -> str | None:
    """How Redis refuses us for good, to be said behind "Redis ..."; None: it may be there later, or it is no refusal.

    Without the error's own text: that may repeat what was sent.

    Args:
        error: from redis-py, or from kombu with the former as its cause.
        setting: the one that has the password.
    """
    for each in _chain(error):
        found = _of_login(each, setting) or _of_tls(each)
        if found:
            return found
    return None


def not_for_now(error: BaseException) -> str | None:
    """Why Redis takes no writes, or no commands at all, until something changes there; None: that is not it."""
    for each in _chain(error):
        if isinstance(each, ReadOnlyError):
            return _MEANS["READONLY"]
        # By its text: scripts of Redis 6.2 wrap it into an error of theirs.
        found = _FOR_NOW.search(str(each)) if isinstance(each, redis.ResponseError) else None
        if found:
            return _MEANS[found[1]]
    return None


def is_without_master(error: BaseException) -> bool:
    """Whether no Sentinel names a master that is up."""
    return any(isinstance(each, MasterNotFoundError) for each in _chain(error))


def was_hung_up(error: BaseException) -> bool:
    """Whether the other side ended the connection instead of an answer."""
    return any(
        isinstance(each, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError)
        or (isinstance(each, redis.ConnectionError) and "closed by server" in str(each))
        for each in _chain(error)
    )


def has_no_handshake(error: BaseException) -> bool:
    """Whether the other side did not answer the beginning of TLS: Redis without TLS waits for the end of a line."""
    return any(isinstance(each, TimeoutError) and "handshake" in str(each) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what is behind it. Not what was being handled when it came: that may be an origin's certificate."""
    each: BaseException | None = error
    while each is not None:
        yield each
        behind = each.__context__ if isinstance(each, redis.RedisError) else None
        each = each.__cause__ or (behind if isinstance(behind, OSError | redis.RedisError) else None)


def _of_login(error: BaseException, setting: str) -> str | None:
    if isinstance(error, redis.AuthenticationError):
        return f"refused the password. Check {setting}."
    text = str(error)
    if isinstance(error, NoPermissionError) or (
        isinstance(error, redis.ResponseError) and _NO_PERMISSION.search(text)
    ):
        return (
            f"does not permit {_not_permitted(text)} that is needed. "
            f"Check the user's ACL; deploy/redis/users.acl.example has one."
        )
    if isinstance(error, InvalidResponse) and "\\x15\\x03" in text:
        return "speaks TLS on this port. Use rediss:// in ORCHESTRATOR_REDIS_URL."
    return None


def _not_permitted(text: str) -> str:
    command = re.search(r"'([a-z_|]+)' command", text, re.IGNORECASE)
    if command:
        return f"the command {command[1].lower()}"
    for kind in ("key", "channel"):
        if kind in text:
            return f"a {kind}"
    return "a command"


def _of_tls(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error)
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in _NO_TLS:
        return "speaks no TLS on this port. Use redis:// in ORCHESTRATOR_REDIS_URL, or the port that does."
    return _of_alert(reason) if "ALERT" in reason else None


def _of_alert(reason: str) -> str:
    if reason.endswith(_WANTS_CERTIFICATE):
        return (
            "wants a client certificate. Set ORCHESTRATOR_REDIS_CERT_FILE and ORCHESTRATOR_REDIS_KEY_FILE, "
            "or check them."
        )
    plainly = reason.partition("ALERT_")[2].replace("_", " ").lower()
    if "CERT" in reason or "UNKNOWN_CA" in reason:
        return f"refused the client certificate ({plainly}). Check ORCHESTRATOR_REDIS_CERT_FILE."
    return f"refused to speak TLS with us ({plainly})."


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _UNKNOWN_CA:
        return (
            "has a certificate of a CA that is not known here. "
            "Set ORCHESTRATOR_REDIS_CA_FILE to that CA's certificate, or check it."
        )
    if error.verify_code in _OTHER_HOST:
        return "has a certificate for another host name. Check ORCHESTRATOR_REDIS_URL."
    return f"has a certificate that is not accepted ({error.verify_message})."
