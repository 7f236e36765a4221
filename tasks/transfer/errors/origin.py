"""Errors on which a person must act: the origin, or what it sent, is the cause."""

from __future__ import annotations

from tasks.transfer.errors.base import Side
from tasks.transfer.errors.permanent import PermanentError


class OriginError(PermanentError):
    """The origin, or what it sent, is the cause."""

    side = Side.ORIGIN


class SourceRefused(OriginError):
    """The origin answered with a status that is final."""

    def __init__(self, url: str, status: int, phrase: str) -> None:
        super().__init__(url, status, phrase)
        self.url, self.status, self.phrase = url, status, phrase

    def __str__(self) -> str:
        """Say what the origin answered and what may help."""
        hint = {
            401: " Give --user or -H 'Authorization: ...'.",
            403: " The URL may have expired or need credentials.",
            404: " Check the URL.",
            410: " Check the URL.",
        }.get(self.status, "")
        return f"{self.url} answered {self.status} {self.phrase}".rstrip() + f". Nothing was published.{hint}"


class ProxyRefused(OriginError):
    """The proxy before the origin lets nobody through with these credentials, or nobody to there."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        """Say what the proxy said and where to look."""
        return (
            f"{self.url} was not asked: the proxy refused ({self.reason}). Check the user and password in --proxy, "
            f"or in the environment of the workers."
        )


class BadResponse(OriginError):
    """The origin's answer contradicts itself or the HTTP specification."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        """Say what was wrong with the answer."""
        return f"{self.url} sent an answer that cannot be trusted: {self.reason}. None of it was used."


class BadCertificate(OriginError):
    """The origin's certificate was not accepted."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        """Say why."""
        return f"{self.url} has a certificate that was not accepted: {self.reason}. Nothing was asked of it."


class RedirectRefused(OriginError):
    """A redirect that must not or cannot be followed."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        """Say why the redirect was not followed."""
        return f"{self.url} redirects, and the redirect was not followed: {self.reason}."


class NoProgress(OriginError):
    """The budget of attempts without a new byte is used up."""

    def __init__(self, attempts_count: int, last: str) -> None:
        super().__init__(attempts_count, last)
        self.attempts_count, self.last = attempts_count, last

    def __str__(self) -> str:
        """Say how often it was tried and what came last."""
        return f"{self.last} Gave up after {self.attempts_count} attempts in a row without a new byte."


class TooLarge(OriginError):
    """The file is larger than was allowed."""

    def __init__(self, url: str, size_bytes: int, most_bytes: int) -> None:
        super().__init__(url, size_bytes, most_bytes)
        self.url, self.size_bytes, self.most_bytes = url, size_bytes, most_bytes

    def __str__(self) -> str:
        """Say both sizes and what to do."""
        return (
            f"{self.url} has {self.size_bytes} bytes or more, and --max-size allows {self.most_bytes}. "
            f"Nothing was published; submit it again with a larger --max-size."
        )


class DigestMismatch(OriginError):
    """The whole file is there, and it is not the file that was asked for."""

    def __init__(self, name: str, algorithm: str, expected: str, actual: str, said_by: str = "user") -> None:
        super().__init__(name, algorithm, expected, actual, said_by)
        self.name, self.algorithm, self.expected, self.actual = name, algorithm, expected, actual
        #: ``user``, ``origin``, or ``receipt``: the bytes on the volume were others before.
        self.said_by = said_by

    def __str__(self) -> str:
        """Say both digests, that nothing was published, and what to do."""
        hint = {
            "origin": "The expected one is the origin's own word: submit again; if that is wrong, with "
            "--no-verify-offered.",
            "receipt": "The volume has changed what was written to it, twice: check the disk, then resume the job.",
        }.get(self.said_by, "Check the digest, then submit again.")
        return f"{self.name} has {self.algorithm} {self.actual}, expected {self.expected}. It was not published. {hint}"
