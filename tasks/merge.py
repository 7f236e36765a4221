"""The Celery task that merges the parts: the chord's body. And the one that removes an ended job's parts."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from tasks import outcomes
from tasks.app import MERGE_TASK, PLAN_TASK, REMOVE_TASK, app
from tasks.host import host, new_attempt_name
from tasks.jobs import JobState
from tasks.messages import again, is_redelivered, sending_errors, shown_as, urgency
from tasks.records import RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import DigestMismatch, VolumeError, VolumeMissing
from tasks.transfer.merge_parts import Incomplete
from tasks.transfer.merge_parts import merge_parts as merge
from tasks.transfer.whole_pass import expected_digests

if TYPE_CHECKING:
    from tasks.host import Host
    from tasks.transfer.manifest import Manifest
    from tasks.transfer.merge_parts import Merged

logger = logging.getLogger(__name__)

#: How often, and at what interval, a merge looks for the manifest of a job that goes on.
_MANIFEST_LOOKS = 5
_LOOK_SECONDS = 2.0


# max_retries=None: a merge counts its looks itself; with Celery's default of 3 the job would never hear of the last.
@app.task(bind=True, name=MERGE_TASK, max_retries=None, ignore_result=True)
def merge_parts(self: Any, job_id: str, generation: int) -> None:
    """Chord body: merge what the volume proves to be there, in order; send again what is missing.

    Args:
        self: the task, bound.
        job_id: whose parts.
        generation: the sending it belongs to; an older one than the manifest's is fenced off.
    """
    here = host()
    try:
        with here.at_work(job_id):
            _merge(self, here, job_id, generation)
    except RedisError as error:
        # No failure of the job's: it stands still now, and the sweep sends it again.
        logger.warning("merge broken off job=%s error=%s", job_id, error)


def _merge(self: Any, here: Host, job_id: str, generation: int) -> None:
    folder = here.volume.job(job_id)
    manifest = folder.read_manifest()
    if manifest is None and here.records.state(job_id) in (JobState.FETCHING, JobState.MERGING):
        # Not seen here yet (attribute caches of NFS), or removed by somebody: then no other message comes.
        if self.request.retries < _MANIFEST_LOOKS:
            raise again(self, (job_id, generation), _LOOK_SECONDS)
        outcomes.fail(here, job_id, VolumeMissing(str(folder.path)))
        return
    if manifest is None or manifest.generation != generation:
        logger.info("merge fenced off job=%s generation=%d", job_id, generation)
        return
    # Not from `planning`: the plan that these parts belong to may be void. From `merging` only where the worker that
    # began may have died: a second copy of a large file would not fit, and whoever publishes last finds the name taken.
    allowed = {JobState.FETCHING}
    if is_redelivered(self):
        allowed.add(JobState.MERGING)
    if not here.records.transition(job_id, JobState.MERGING, allowed=allowed):
        outcomes.remove_if_over(here, job_id, manifest.destination)
        return
    try:
        result = _run(here, manifest)
    except AttemptStopped as stopped:
        if stopped.reason is not StopReason.JOB_ENDED:
            # It comes back as redelivered, and may go on though the job is merging.
            raise Reject(stopped.reason, requeue=True) from None
        outcomes.remove_if_over(here, job_id, manifest.destination)
        return
    except RedisError:
        raise
    except Exception as error:  # noqa: BLE001  (the job must not stay in `merging`, whatever happened)
        _fail(here, manifest, error)
        return
    _go_on(here, manifest, result)


def _run(here: Host, manifest: Manifest) -> Merged | Incomplete:
    """Merge, as long as this worker stays and the job is merging; what is paused or cancelled ends, too."""
    attempt = here.watch.new_attempt(new_attempt_name())
    with here.watch.guarding(attempt, manifest.job_id, states={JobState.MERGING}):
        return merge(
            here.volume,
            manifest,
            check=attempt.check,
            may_publish=lambda: (
                not _is_superseded(here, manifest)
                and outcomes.is_still(here, manifest.job_id, JobState.MERGING)
            ),
        )


def _is_superseded(here: Host, manifest: Manifest) -> bool:
    """Whether the job was sent again or planned anew since: others took over while this process stood still."""
    present = here.volume.job(manifest.job_id).read_manifest()
    return present is not None and (present.generation, present.plan_name) != (
        manifest.generation,
        manifest.plan_name,
    )


def _fail(here: Host, manifest: Manifest, error: Exception) -> None:
    """Mark the job failed, unless it is no longer this merge's."""
    # A volume that fails here as well must not keep anybody from hearing of it.
    with contextlib.suppress(VolumeError):
        if _is_superseded(here, manifest):
            logger.info("merge fenced off job=%s cause=%s", manifest.job_id, type(error).__name__)
            return
        if isinstance(error, DigestMismatch):
            # Another submit of this file must not end here again without having fetched anything.
            refuted = manifest.model_copy(update={"refuted_digests": expected_digests(manifest)})
            here.volume.job(manifest.job_id).write_manifest(refuted)
    outcomes.fail(here, manifest.job_id, error, allowed={JobState.MERGING})


def _go_on(here: Host, manifest: Manifest, result: Merged | Incomplete) -> None:
    """Complete the job, or have sent again what is missing."""
    job_id = manifest.job_id
    if isinstance(result, Incomplete):
        if _is_superseded(here, manifest):
            return
        logger.warning("parts missing job=%s count=%d", job_id, len(result.chunks))
        shown = {**shown_as(f"{job_id}, {len(result.chunks)} missing"), **urgency(manifest.spec.priority)}
        with sending_errors():
            app.send_task(PLAN_TASK, args=(job_id,), kwargs={"resends": True}, **shown)
        return
    if result.was_followed:
        logger.info("hashed while parts were fetched job=%s", job_id)
    outcomes.complete(here, manifest, result)


@app.task(name=REMOVE_TASK, ignore_result=True)
def remove_job(job_id: str) -> None:
    """Remove the parts of a cancelled job, unless they are to stay."""
    outcomes.remove_if_over(host(), job_id)
