"""What can go wrong, grouped by what happens next.

    TransferError
    ├── TransientError       try this chunk again
    │   ├── OriginUnreachable
    │   ├── OriginBusy
    │   ├── ResponseTruncated
    │   ├── TooSlow
    │   └── ManifestStale
    ├── PlanVoidError        the file or the server is not what the plan was made for
    │   ├── SourceChanged
    │   └── RangesRefused
    └── PermanentError       a person must act
        ├── OriginError      SourceRefused, ProxyRefused, BadResponse, BadCertificate,
        │                    RedirectRefused, NoProgress, TooLarge, DigestMismatch
        ├── VolumeError      VolumeMissing, VolumeReadOnly, VolumeFull, VolumeFailed,
        │                    FileUnreadable, DestinationExists, DestinationIsFolder, DestinationBlocked, DestinationBusy
        ├── JobUnreadable, JobTimedOut
        └── UsageError       BadURL, BadName, BadOption, SecretKeyMissing

Arguments are positional and JSON-able: Celery rebuilds an error as ``cls(*args)``.
Sentences never carry a URL's query or user; callers pass what `redact` returned.
"""

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


# --- try this chunk again -------------------------------------------------------------------------


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
        """Say what the origin answered."""
        return f"{self.url} answered {self.status} for now."


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
        return f"The origin sent only {self.received_bytes} bytes in {self.window_seconds:g} seconds."


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


# --- probe and plan anew --------------------------------------------------------------------------


class PlanVoidError(TransferError):
    """What the plan was made for is no longer so: probe and plan anew."""

    side = Side.ORIGIN


class SourceChanged(PlanVoidError):
    """The origin now sends another version of the file than the one that was planned."""

    def __init__(self, url: str, planned: str, seen: str) -> None:
        super().__init__(url, planned, seen)
        self.url, self.planned, self.seen = url, planned, seen

    def __str__(self) -> str:
        """Say what changed, what was kept, and what to run next."""
        return (
            f"{self.url} changed while it was being downloaded: planned for {self.planned}, the server "
            f"now sends {self.seen}. No part was merged; submit the URL again to download the new version."
        )


class RangesRefused(PlanVoidError):
    """The origin honoured a range when it was probed, and now sends the whole file instead."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, status)
        self.url, self.status = url, status

    def __str__(self) -> str:
        """Say what the server did and what to run next."""
        return (
            f"{self.url} answered {self.status} to a range request, though it honoured ranges when the job "
            f"was planned. No part was merged; submit the URL again, with --connections 1 if it goes on."
        )


# --- a person must act ----------------------------------------------------------------------------


class PermanentError(TransferError):
    """Trying again would change nothing: a person must act."""


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
        return f"{self.url} answered {self.status} {self.phrase}".rstrip() + f". Nothing was written.{hint}"


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
        self.said_by = (
            said_by  #: ``user``, ``origin``, or ``receipt``: the bytes on the volume were others before
        )

    def __str__(self) -> str:
        """Say both digests, that nothing was published, and what to do."""
        hint = {
            "origin": "The expected one is the origin's own word: submit again; if that is wrong, with "
            "--no-verify-offered.",
            "receipt": "The volume has changed what was written to it, twice: check the disk, then resume the job.",
        }.get(self.said_by, "Check the digest, then submit again.")
        return f"{self.name} has {self.algorithm} {self.actual}, expected {self.expected}. It was not published. {hint}"


class VolumeError(PermanentError):
    """The volume is the cause; `path` is the place on it."""

    side = Side.VOLUME

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class VolumeMissing(VolumeError):
    """The volume's directory is not there."""

    def __str__(self) -> str:
        """Say what is missing and what to do."""
        return (
            f"The volume {self.path} does not exist or is not mounted. Mount it, or set ORCHESTRATOR_VOLUME."
        )


class VolumeReadOnly(VolumeError):
    """The volume may not be written by the worker."""

    def __str__(self) -> str:
        """Say what may not be written and what to do."""
        return f"{self.path} is not writable by the worker. Check the mount's options and the folder's owner."


class VolumeFull(VolumeError):
    """No space or no quota is left on the volume."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int) -> None:
        PermanentError.__init__(self, path, needed_bytes, free_bytes)
        self.path, self.needed_bytes, self.free_bytes = path, needed_bytes, free_bytes

    def __str__(self) -> str:
        """Say how much space is needed and what to run next."""
        return (
            f"The volume {self.path} is full: {self.needed_bytes} bytes are needed, {self.free_bytes} are free. "
            f"Make space, then resume the job (orchestrator resume), or submit it again."
        )


class VolumeFailed(VolumeError):
    """The operating system refused a file operation for another reason."""

    def __init__(self, path: str, reason: str) -> None:
        PermanentError.__init__(self, path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        """Say what failed and what to run next."""
        return (
            f"{self.path}: {self.reason}. Mend the volume, then resume the job (orchestrator resume), or submit "
            f"it again."
        )


class FileUnreadable(VolumeError):
    """A finished file is not there, or cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        PermanentError.__init__(self, path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        """Say why."""
        return f"{self.path} cannot be read: {self.reason}. Nothing was compared."


class DestinationExists(VolumeError):
    """Something has the destination's name already."""

    def __str__(self) -> str:
        """Say that nothing was touched, and the two ways on."""
        return f"{self.path} exists already and was left as it is. Give another name with -o, or --overwrite."


class DestinationIsFolder(VolumeError):
    """A folder has the destination's name."""

    def __str__(self) -> str:
        """Say that nothing was touched, and the way on."""
        return f"{self.path} is a folder and was left as it is. Give another name with -o."


class DestinationBlocked(VolumeError):
    """Something that is no folder stands where the destination's folder would be."""

    def __str__(self) -> str:
        """Say what is in the way, and the way on."""
        return f"{self.path} is not a folder and was left as it is. Give another name with -o."


class DestinationBusy(VolumeError):
    """Another unfinished job is writing to the same destination."""

    def __init__(self, path: str, job_id: str) -> None:
        PermanentError.__init__(self, path, job_id)
        self.path, self.job_id = path, job_id

    def __str__(self) -> str:
        """Say who has it, and the ways on."""
        return (
            f"{self.path} is being downloaded by job {self.job_id}. Wait for it (orchestrator wait {self.job_id}), "
            f"cancel it, or give another name with -o."
        )


class JobUnreadable(PermanentError):
    """What is stored about a job cannot be read by this worker, for instance for want of the right key."""

    side = Side.USAGE

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        """Say why."""
        return self.reason


class JobTimedOut(PermanentError):
    """The job was not complete when the time that it was given had passed."""

    side = Side.DEADLINE

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        """Say what was kept, and the way on."""
        return (
            f"Job {self.job_id} was not complete when its --timeout had passed. Nothing was published, and what came "
            f"is kept. Go on, with as much time again: orchestrator resume {self.job_id}"
        )


class UsageError(PermanentError):
    """What was asked for makes no sense; the one argument is the sentence."""

    side = Side.USAGE


class BadURL(UsageError):
    """Not an absolute http or https URL."""


class BadName(UsageError):
    """A destination name that is absolute, empty, or leaves the volume."""


class BadOption(UsageError):
    """A number or a size that makes no sense."""


class SecretKeyMissing(UsageError):
    """Credentials were given and there is no key to seal them with."""
