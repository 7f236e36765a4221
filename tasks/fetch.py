"""The Celery task that brings one chunk: a shell around the engine's use case."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from celery.signals import worker_shutting_down

from tasks import outcomes
from tasks.app import FETCH_TASK, app
from tasks.host import Host, host
from tasks.jobs import JobState
from tasks.records import RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import ManifestStale, NoProgress, Side, TransientError
from tasks.transfer.fetch_chunk import fetch_chunk as bring_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.records import Progress
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import Chunk, Manifest

logger = logging.getLogger(__name__)

#: A chunk that finds all connections of its job taken comes back after a time up to this.
_PARKED_SECONDS = 0.5


class NoLease(Exception):
    """All connections that the job may have are taken."""


# max_retries=None: RetryPolicy alone decides when to stop. Left out, Celery's own
# default of 3 would end the part first, whatever the policy says.
@app.task(bind=True, name=FETCH_TASK, max_retries=None)
def fetch_chunk(
    self: Any, job_id: str, generation: int, number: int, fruitless_count: int = 0
) -> dict[str, Any]:
    """Chord header: bring one chunk of a job onto the volume.

    It never raises for a failed download: a failed header task would only be noticed when all others
    have run. It marks the job failed, so the others stop early.

    Args:
        self: the task, bound.
        job_id: whose chunk.
        generation: the sending it belongs to; an older one than the manifest's is fenced off.
        number: which chunk.
        fruitless_count: attempts in a row that brought no new byte.
    """
    here = host()
    attempt, progress = here.new_attempt(job_id, number)
    manifest: Manifest | None = None
    try:
        manifest = _manifest(here, job_id, generation)
        if manifest is None:
            return {"ok": False, "why": "ended"}
        _bring(here, manifest, manifest.chunk(number), attempt, progress)
    except NoLease:
        raise _again(self, random.uniform(_PARKED_SECONDS / 5, _PARKED_SECONDS)) from None
    except AttemptStopped as stopped:
        _tell(lambda: here.records.attempt_ended(progress()))
        if stopped.reason is StopReason.JOB_ENDED:
            return {"ok": False, "why": "ended"}
        # Back to the end of the queue: any worker goes on at this byte.
        raise Reject(stopped.reason, requeue=True) from None
    except TransientError as error:
        _tell(lambda: here.records.attempt_ended(progress()))
        return _retry_or_fail(self, here, manifest, error, attempt, fruitless_count)
    except Exception as error:  # noqa: BLE001  (a chord whose header raises never runs its body)
        _tell(lambda: here.records.attempt_ended(progress()))
        return _fail(here, job_id, error, manifest)
    return {"ok": True, "number": number}


@worker_shutting_down.connect
def drain(**_: object) -> None:
    """On SIGTERM save what is there and give the chunks back, so that the process ends at once."""
    host().watch.drain()


def _manifest(here: Host, job_id: str, generation: int) -> Manifest | None:
    """The manifest that the message was sent for, or None if there is nothing to do for it any more."""
    manifest = here.volume.job(job_id).read_manifest()
    if manifest is not None and manifest.generation == generation:
        return manifest
    if manifest is not None and manifest.generation > generation:
        return None
    state = here.records.state(job_id)
    if state is None or not state.is_active:
        return None
    raise ManifestStale(job_id, generation, manifest.generation if manifest else None)


def _bring(
    here: Host, manifest: Manifest, chunk: Chunk, attempt: Attempt, progress: Callable[[], Progress]
) -> None:
    _take_lease(here, manifest, progress().holder)
    began_seconds = time.monotonic()
    slice_seconds = here.settings.time_slice_seconds if manifest.honours_ranges else None
    with here.watch.over(attempt, progress, slice_seconds=slice_seconds):
        source = here.source(manifest.sealed_request)
        folder = here.volume.job(manifest.job_id)
        receipt = bring_chunk(source, folder, manifest, chunk, attempt, here.name)
    attempt.done_bytes = receipt.length_bytes
    _tell(lambda: here.records.chunk_done(progress(), receipt.brought_bytes))
    logger.info(
        "chunk fetched job=%s number=%d bytes=%d seconds=%.2f",
        manifest.job_id,
        chunk.number,
        attempt.brought_bytes,
        time.monotonic() - began_seconds,
    )


def _take_lease(here: Host, manifest: Manifest, holder: str) -> None:
    """Take a lease on one of the job's connections.

    Raises:
        NoLease: all are taken. AttemptStopped: the job has ended.
    """
    # A stream that cannot be split is fetched once at a time: a second copy would start it over.
    limit = manifest.spec.connections if manifest.honours_ranges else 1
    try:
        state, given = here.records.acquire(manifest.job_id, holder, limit=limit)
    except RedisError as error:
        # Redis is a view. A chunk that is here already is fetched while Redis is away.
        logger.warning("lease not asked for job=%s error=%s", manifest.job_id, error)
        return
    if state not in (JobState.FETCHING, JobState.PLANNING):
        if given:
            _tell(lambda: here.records.give_back(manifest.job_id, holder))
        raise AttemptStopped(StopReason.JOB_ENDED)
    if not given:
        raise NoLease


def _retry_or_fail(
    task: Any,
    here: Host,
    manifest: Manifest | None,
    error: TransientError,
    attempt: Attempt,
    fruitless_count: int,
) -> dict[str, Any]:
    # A stream that starts over has made no progress, however much it brought: it would do so for ever.
    made_progress = attempt.brought_bytes > 0 and manifest is not None and manifest.honours_ranges
    fruitless_count = 0 if made_progress else fruitless_count + 1
    delay_seconds = here.policy.delay_seconds(
        fruitless_count, retry_after_seconds=error.retry_after_seconds, uniform=random.uniform
    )
    job_id, generation, number = task.request.args[:3]
    if delay_seconds is None:
        # What the volume is to blame for keeps its name; only an origin can be without progress.
        is_origins = error.side is Side.ORIGIN
        final = NoProgress(max(fruitless_count, 1), str(error)) if is_origins else error
        return _fail(here, job_id, final, manifest)
    _tell(lambda: here.records.retried(job_id))
    logger.info(
        "chunk to be retried job=%s number=%d cause=%s seconds=%.1f",
        job_id,
        number,
        error.code,
        delay_seconds,
    )
    raise _again(
        task, delay_seconds, args=(job_id, generation, number, fruitless_count), cause=error
    ) from None


def _again(
    task: Any, delay_seconds: float, args: tuple[Any, ...] | None = None, cause: Exception | None = None
) -> Exception:
    # Celery does not hand the readable arguments on to a retry by itself.
    shown = {"argsrepr": task.request.argsrepr, "kwargsrepr": task.request.kwargsrepr}
    # throw=False: the message is sent, and the caller raises, which tells Celery that it was.
    retry: Exception = task.retry(args=args, exc=cause, countdown=delay_seconds, throw=False, **shown)
    return retry


def _fail(here: Host, job_id: str, error: Exception, manifest: Manifest | None) -> dict[str, Any]:
    with contextlib.suppress(RedisError):
        outcomes.fail(here, job_id, error, manifest.destination if manifest else None)
    return {"ok": False, "why": type(error).__name__}


def _tell(report: Callable[[], object]) -> None:
    """Report to Redis; without it the volume still knows."""
    try:
        report()
    except RedisError as error:
        logger.warning("not reported error=%s", error)
