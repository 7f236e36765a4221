"""The Celery task that helps a job over its last part: it takes over what others are slow with, or have left."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tasks import outcomes
from tasks.app import HELP_TASK, MERGE_TASK, app
from tasks.bringing import Bringing
from tasks.connections import NoLease
from tasks.host import host
from tasks.messages import sending_errors, shown_as, urgency
from tasks.records import Next, RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import PermanentError, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.host import Host
    from tasks.transfer.manifest import Manifest

logger = logging.getLogger(__name__)

#: How long a helper that found nothing waits before it looks again.
LOOK_SECONDS = 0.5


def send_help(manifest: Manifest, *, seconds: float, all_done: bool = False) -> None:
    """Send somebody to look for something to take over, after a while; `RedisError` if that cannot be."""
    with sending_errors():
        app.send_task(
            HELP_TASK,
            args=(manifest.job_id, manifest.generation, all_done),
            countdown=seconds,
            **urgency(manifest.spec.priority),
            **shown_as(f"{manifest.destination}, what is left"),
        )


def send_merge(manifest: Manifest) -> None:
    """Have a job merged of which all chunks are there; `RedisError` if that cannot be.

    The chord's own merge comes when all its messages were looked at, which may be later: or never, if one of them was
    with a worker that died. Whichever comes second finds that there is nothing to do.
    """
    with sending_errors():
        app.send_task(
            MERGE_TASK,
            args=(manifest.job_id, manifest.generation),
            **urgency(manifest.spec.priority),
            **shown_as(f"{manifest.destination}, {manifest.chunks_count} parts"),
        )


@app.task(name=HELP_TASK, ignore_result=True)
def help_out(job_id: str, generation: int, all_done: bool = False) -> None:  # noqa: FBT001, FBT002
    """Fetch what others are slow with; without anything to do, look again later, for as long as the job goes on.

    Args:
        job_id: which job.
        generation: the sending it belongs to; an older one than the manifest's is fenced off.
        all_done: an earlier look found all chunks done. If the merge does not run yet, a message of the chord is lost
            or belongs to a worker that died.
    """
    here = host()
    try:
        bringing = Bringing(here, job_id, generation)
    except (AttemptStopped, TransferError):
        return
    manifest = bringing.manifest

    def look_again(*, seconds: float, all_done: bool = False) -> None:
        try:
            send_help(manifest, seconds=seconds, all_done=all_done)
        except RedisError as error:
            # If that leaves nobody at the job, the sweep sees to it.
            logger.warning("no more help job=%s error=%s", job_id, error)

    def send_another() -> None:
        # At once: there may be more than one slow.
        look_again(seconds=0)

    try:
        following = _help(here, bringing, job_id, on_found=send_another)
    except AttemptStopped as stopped:
        if stopped.reason is not StopReason.JOB_ENDED and not bringing.took_over:
            send_another()
        return
    is_all = following.chunks_done >= manifest.chunks_count
    if following.merge_is_late or (is_all and all_done):
        _merge_late(manifest)
    elif not bringing.took_over:  # else another looks for more
        look_again(seconds=LOOK_SECONDS, all_done=is_all)


def _merge_late(manifest: Manifest) -> None:
    logger.info("all parts are there and no merge runs job=%s", manifest.job_id)
    try:
        send_merge(manifest)
    except RedisError as error:
        logger.warning("merge not sent job=%s error=%s", manifest.job_id, error)  # the sweep sends it


def _help(here: Host, bringing: Bringing, job_id: str, *, on_found: Callable[[], None]) -> Next:
    """Take over what there is, and how the job stands then.

    Raises:
        AttemptStopped: the job has ended, or the help was stopped.
    """
    try:
        here.records.helps_on(job_id, here.name)
        return bringing.take_over(on_found=on_found)
    except NoLease:
        pass
    except AttemptStopped:
        bringing.give_lease_back()
        raise
    except RedisError as error:
        bringing.give_lease_back()
        logger.warning("help not asked for error=%s", error)
    except PermanentError as error:
        bringing.give_lease_back(has_failed=True)
        if not bringing.is_fenced():
            outcomes.fail(here, job_id, error)
        raise AttemptStopped(StopReason.JOB_ENDED) from None
    except TransferError as error:
        # Whose chunk it is decides what follows; this was help.
        bringing.give_lease_back(has_failed=True)
        logger.info("help failed job=%s cause=%s", job_id, error.code)
    return Next(None)
