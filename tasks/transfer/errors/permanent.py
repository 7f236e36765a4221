"""Errors on which a person must act, neither about the origin nor about the volume."""

from __future__ import annotations

from tasks.transfer.errors.base import Side, TransferError


class PermanentError(TransferError):
    """Trying again would change nothing: a person must act."""


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


class SentInVain(PermanentError):
    """Nothing came of a job, though what it misses was sent again and again: its workers die, or hang."""

    def __init__(self, job_id: str, times: int, deaths: int) -> None:
        super().__init__(job_id, times, deaths)
        self.job_id, self.times, self.deaths = job_id, times, deaths

    def __str__(self) -> str:
        """Say what is known, what was kept, and where to look."""
        died = f", and {self.deaths} workers died planning or merging it" if self.deaths else ""
        return (
            f"Nothing has come of job {self.job_id}, though it was sent to workers {self.times} times{died}. What came "
            f"before is kept. Look at the workers' logs; then: orchestrator resume {self.job_id}"
        )


class WorkersDied(PermanentError):
    """Whoever fetches this part of a file dies or freezes."""

    # Nothing that an origin sends may end a worker, and no option of a user's either: `Side.BUG`, which it inherits.

    def __init__(self, job_id: str, what: str, deaths_count: int) -> None:
        super().__init__(job_id, what, deaths_count)
        self.job_id, self.what, self.deaths_count = job_id, what, deaths_count

    def __str__(self) -> str:
        """Say at what, how many, what was kept, and what to run."""
        return (
            f"{self.deaths_count} workers in a row died or froze while they fetched {self.what}, without a new byte of "
            f"it. Nothing was published, and what came of the rest is kept. Look for the cause in the workers' logs "
            f"and in their hosts' memory; then go on with: orchestrator resume {self.job_id}"
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
