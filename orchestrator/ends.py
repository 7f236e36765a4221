"""What comes of the files of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.jobs import JobError, JobState
from tasks.transfer.errors import redact

if TYPE_CHECKING:
    from tasks.jobs import JobRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """What cannot become a job."""

    shown: str  #: what was wanted, as it may be shown
    error: JobError
    line: int | None = None  #: of the list that it is from


@dataclass(frozen=True, slots=True)
class Ended:
    """A file of a batch that has come to its end."""

    record: JobRecord
    line: int | None = None  #: of the list that it is from
    was_complete: bool = False  #: before this batch, or its file was there

    @property
    def shown(self) -> str:
        """The URL, as it may be shown."""
        return self.record.url

    @property
    def error(self) -> JobError | None:
        """Why it did not become complete; None if it did."""
        if self.record.state is JobState.COMPLETE:
            return None
        said = f"Job {self.record.job_id} is {self.record.state}."
        return self.record.error or JobError(code=f"Job{self.record.state.title()}", message=said)


@dataclass(slots=True)
class Totals:
    """How a batch stands."""

    complete_count: int = 0
    before_count: int = 0  #: of these, what was complete before this batch
    failed_count: int = 0  #: ended otherwise, or refused
    active_count: int = 0
    done_bytes: int = 0  #: brought since this batch began, by jobs that are complete
    active_bytes: int = 0  #: that the others have

    @property
    def ended_count(self) -> int:
        """Of files that are neither active nor still to come."""
        return self.complete_count + self.failed_count


def shown_url(url: str) -> str:
    """A URL as it may be shown; of what is none nothing can be told that may not be a secret."""
    try:
        return redact(url) if urlsplit(url).scheme in ("http", "https") else "what is no URL"
    except ValueError:
        return "what is no URL"
