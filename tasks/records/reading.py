"""From what Redis has to states, numbers and records; it may be damaged."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass

from pydantic import ValidationError

from tasks.jobs import JobRecord, JobState, WorkerShare
from tasks.records.client import RedisError
from tasks.transfer.errors import PermanentError, Side
from tasks.transfer.manifest import JobSpec
from tasks.transfer.rates import parse_rate


class NoSuchJob(PermanentError):
    """No record of that job."""

    side = Side.USAGE

    def __str__(self) -> str:
        """Say what to run."""
        return f"There is no job {self.args[0]}. List those there are: orchestrator list"


class RecordLost(NoSuchJob):
    """The record of a job was there, and is gone before the job had ended."""

    side = Side.REDIS

    def __str__(self) -> str:
        """Say what happened, and what to run."""
        return (
            f"Redis was emptied, and has no record of job {self.args[0]} any more. What had come of it is on the "
            f"volume. Go on from that with: orchestrator recover, or with the same submit again."
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for of a job."""

    spec: JobSpec
    sealed_request: str
    created_at: float


def as_count(value: str | None) -> int | None:
    """A number, as Redis has it; None for what is none."""
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def as_time(value: str | None) -> float:
    """Seconds since the epoch, as Redis has them; never, for what is no time."""
    with contextlib.suppress(ValueError):
        return float(value) if value else math.inf
    return math.inf


def as_rate(value: str | None) -> str | None:
    """A job's rate or timetable, as Redis has it; None for what is none."""
    with contextlib.suppress(ValueError):
        if value:
            parse_rate(value)
            return value
    return None


def as_state(value: str | None) -> JobState | None:
    """A job's state, as Redis has it; None for what is none."""
    with contextlib.suppress(ValueError):
        return JobState(value) if value else None
    return None


def to_asked(job_id: str, spec: str | None, sealed: str | None, created_at: str | None) -> Asked:
    """What was asked for, from the fields of a record; `RedisError` if they make no sense."""
    try:
        return Asked(JobSpec.model_validate_json(spec or ""), sealed or "", float(created_at or 0))
    except ValueError:
        raise RedisError(
            f"The record of job {job_id} in Redis is damaged: what was asked for is missing."
        ) from None


def to_record(
    job_id: str,
    fields: dict[str, str],
    counts: list[str],
    chunks_done: int,
    shares: dict[str, str],
    holders: list[str],
) -> JobRecord:
    """A record from its hash, the bytes of its chunks, how many are done, who brought them, and open leases.

    Raises:
        RedisError: what is in Redis makes no record.
    """
    try:
        return _to_record(job_id, fields, counts, chunks_done, shares, holders)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        kind = f"{error.error_count()} fields" if isinstance(error, ValidationError) else type(error).__name__
        raise RedisError(f"The record of job {job_id} in Redis is damaged: {kind}.") from None


def _to_record(
    job_id: str,
    fields: dict[str, str],
    counts: list[str],
    chunks_done: int,
    shares: dict[str, str],
    holders: list[str],
) -> JobRecord:
    workers: dict[str, WorkerShare] = {}
    numbers: dict[str, set[str]] = {}
    for span, share in shares.items():
        for worker, count_bytes in json.loads(share).items():
            chunks = numbers.setdefault(worker, set())
            chunks.add(span.partition("+")[0])
            before = workers.get(worker, WorkerShare())
            workers[worker] = WorkerShare(chunks_count=len(chunks), bytes=before.bytes + count_bytes)
    times = {name[3:]: value for name, value in fields.items() if name.startswith("at:")}
    plain = {
        name: value
        for name, value in fields.items()
        if name in JobRecord.model_fields and name not in ("error", "workers", "state_times", "digests")
    }
    digests = json.loads(fields.get("digests", "{}"))
    state = JobState(fields["state"])
    seconds = None
    if state is not JobState.CANCELLED:
        plain.pop("keeps_parts", None)  # of an earlier end, before a resume
    if not state.is_final:
        plain.pop("finished_at", None)  # of an earlier end, before a resume
    elif "finished_at" in fields:
        seconds = max(0.0, float(fields["finished_at"]) - float(fields["created_at"]))
    bytes_done = sum(map(int, counts))
    if state is JobState.COMPLETE and "chunks_count" in fields:
        # The merge had all their receipts. A chunk that was done while a new sending looked for what is missing may
        # have been forgotten here.
        chunks_done = int(fields["chunks_count"])
    if "size_bytes" in fields:
        # What two workers brought at the same time counts once; and a report that was on its way when the last byte
        # came may have told less.
        size_bytes = int(fields["size_bytes"])
        bytes_done = size_bytes if state is JobState.COMPLETE else min(bytes_done, size_bytes)
    return JobRecord.model_validate(
        {
            **plain,
            "job_id": job_id,
            "sha256": digests.get("sha-256"),
            "digests": digests,
            "bytes_done": bytes_done,
            "chunks_done": chunks_done,
            "connections_count": len(holders),
            "workers_count": len({holder.partition("/")[0] for holder in holders}),
            "workers": workers,
            "state_times": times,
            "seconds": seconds,
            "bytes_per_second": (
                max(0, bytes_done - int(fields.get("resumed_bytes", 0))) / seconds
                if seconds and "was_there" not in fields
                else None
            ),
            "error": json.loads(fields["error"]) if state is JobState.FAILED and "error" in fields else None,
        }
    )
