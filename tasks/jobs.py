"""Jobs: their states and their records, as the commands show them."""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, SerializeAsAny

_Value = TypeVar("_Value", bound=BaseModel)


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: submitted; no worker has taken it up
    PLANNING = "planning"  #: a worker probes the origin and writes the manifest
    FETCHING = "fetching"  #: chunks are being fetched
    MERGING = "merging"  #: all parts are there; they are joined, checked and published
    COMPLETE = "complete"  #: the file is under its name
    FAILED = "failed"  #: a person must act; ``error`` says on what
    CANCELLED = "cancelled"  #: ended by ``cancel``
    PAUSED = "paused"  #: stopped by ``pause``; ``resume`` goes on from the bytes that are there

    @property
    def is_active(self) -> bool:
        """Whether workers may do something for it."""
        return self in ACTIVE_STATES

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: its record is forgotten after a while, unless someone resumes it."""
        return self in FINAL_STATES


ACTIVE_STATES = frozenset({JobState.QUEUED, JobState.PLANNING, JobState.FETCHING, JobState.MERGING})
#: Those in which bytes are fetched: by a plan, or by chunks.
FETCHING_STATES = frozenset({JobState.PLANNING, JobState.FETCHING})
FINAL_STATES = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.CANCELLED})
RESUMABLE_STATES = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.PAUSED})


class JobError(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(frozen=True)

    code: str  #: the name of an error of `tasks.transfer.errors`
    message: str


class Answer(BaseModel, Generic[_Value]):
    """What a worker answers to a question: what was asked for, or why that cannot be said."""

    model_config = ConfigDict(frozen=True)

    value: SerializeAsAny[_Value] | None = None
    error: JobError | None = None


class Recovered(BaseModel):
    """Jobs that Redis had lost and that go on."""

    model_config = ConfigDict(frozen=True)

    jobs: list[str]


class WorkerShare(BaseModel):
    """What one worker host did for a job."""

    model_config = ConfigDict(frozen=True)

    chunks_count: int = 0  #: chunks of which it brought at least a byte
    bytes: int = 0


class JobRecord(BaseModel):
    """One job, as ``status --json`` prints it. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    url: str  #: redacted
    state: JobState
    path: str | None = None  #: absolute, on the workers' volume; known once the job is planned
    size_bytes: int | None = None
    bytes_done: int = 0
    resumed_bytes: int = 0  #: of these, what an earlier job had left when this one was planned
    was_there: bool = False  #: the file was under its name before, and nothing was brought
    chunks_count: int | None = None
    chunks_done: int = 0
    sha256: str | None = None  #: where it was computed
    crc32c: str | None = None
    digests: dict[str, str] = {}  #: all that were compared, by algorithm, in hexadecimal
    error: JobError | None = None
    limit_rate: str | None = None  #: bytes a second over all hosts, or a timetable of them
    keeps_parts: bool = False  #: of a cancelled job: what came stays, for ``resume`` or for another submit
    created_at: float
    finished_at: float | None = None
    seconds: float | None = None  #: from submit to the end
    bytes_per_second: float | None = None  #: on average over these seconds
    retries_count: int = 0
    connections_count: int = 0  #: open at this moment
    workers_count: int = 0  #: hosts that hold one of these
    workers: dict[str, WorkerShare] = {}
    state_times: dict[JobState, float] = {}  #: when each state was entered last
