"""What all errors have in common: whose they are, and what may be shown of a URL."""

from __future__ import annotations

import enum
from urllib.parse import urlsplit, urlunsplit


class Side(enum.StrEnum):
    """Who has to act; the command line makes its exit code of it."""

    ORIGIN = "origin"
    VOLUME = "volume"
    USAGE = "usage"
    REDIS = "redis"
    DEADLINE = "deadline"
    BUG = "bug"


def redact(url: str) -> str:
    """The URL without user, password, query and fragment: what may be shown to anyone."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def origin_of(url: str) -> str:
    """Scheme, host and port that a URL belongs to, as one string (RFC 6454, section 6.2)."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


class TransferError(Exception):
    """Base of all; `side` says who has to act."""

    side = Side.BUG

    @property
    def code(self) -> str:
        """The name of the outcome, as the job record and ``--json`` carry it."""
        return type(self).__name__


def side_of(code: str) -> Side:
    """The side of the error with this code, or `Side.BUG` for a code this version does not know."""
    pending: list[type[TransferError]] = [TransferError]
    while pending:
        error = pending.pop()
        if error.__name__ == code:
            return error.side
        pending += error.__subclasses__()
    return Side.BUG
