"""Errors after which a chunk is tried again."""

from __future__ import annotations

from tasks.transfer.errors.base import Side, TransferError


class TransientError(TransferError):
    """Try this chunk again; `retry_after_seconds` is what the origin asked for, if it did."""

    side = Side.ORIGIN
    retry_after_seconds: float | None = None


class OriginUnreachable(TransientError):
    """No connection: the name is unknown, the port refused, or the answer did not come in time."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        """Say who could not be reached and why."""
        return f"{self.url} could not be reached: {self.reason}."


class OriginBusy(TransientError):
    """The origin answered with a status that asks to come back later (408, 425, 429, most 5xx)."""

    def __init__(self, url: str, status: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(url, status, retry_after_seconds)
        self.url, self.status, self.retry_after_seconds = url, status, retry_after_seconds

    def __str__(self) -> str:
        """Say what the origin answered, and for how long."""
        seconds = self.retry_after_seconds
        asked = "" if seconds is None else f", and asks to wait {seconds:.0f} seconds"
        return f"{self.url} answered {self.status} for now{asked}."


class ResponseTruncated(TransientError):
    """The connection ended before the bytes that the response had promised."""

    def __init__(self, url: str, expected_bytes: int, received_bytes: int) -> None:
        super().__init__(url, expected_bytes, received_bytes)
        self.url, self.expected_bytes, self.received_bytes = url, expected_bytes, received_bytes

    def __str__(self) -> str:
        """Say how much is missing."""
        return f"{self.url} closed the connection after {self.received_bytes} of {self.expected_bytes} bytes."


class TooSlow(TransientError):
    """The connection brought less than the low-speed limit over its window."""

    def __init__(self, received_bytes: int, window_seconds: float) -> None:
        super().__init__(received_bytes, window_seconds)
        self.received_bytes, self.window_seconds = received_bytes, window_seconds

    def __str__(self) -> str:
        """Say how slow it was."""
        return f"The origin sent only {self.received_bytes} bytes in {self.window_seconds:.0f} seconds."


class ManifestStale(TransientError):
    """This host still sees an older manifest than the message it works on (attribute caches of NFS)."""

    side = Side.VOLUME

    def __init__(self, job_id: str, wanted_generation: int, seen_generation: int | None) -> None:
        super().__init__(job_id, wanted_generation, seen_generation)
        self.job_id = job_id
        self.wanted_generation = wanted_generation
        self.seen_generation = seen_generation

    def __str__(self) -> str:
        """Say which generation is awaited."""
        seen = "none" if self.seen_generation is None else self.seen_generation
        return (
            f"The manifest of job {self.job_id} on this host's volume is of generation {seen}, "
            f"generation {self.wanted_generation} was sent. Is the same volume mounted on every worker?"
        )
