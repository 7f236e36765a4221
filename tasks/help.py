"""The Celery task that helps a job over its last part: it takes over what others are slow with, or have left."""

from __future__ import annotations

import logging
import threading

from tasks.app import HELP_TASK, MERGE_TASK, app
from tasks.bringing import Bringing
from tasks.host import NoLease, host
from tasks.records import RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import TransferError

logger = logging.getLogger(__name__)

#: How long a helper that found nothing waits before it looks again.
LOOK_SECONDS = 1.0


def send_help(
    job_id: str, generation: int, destination: str, *, seconds: float, all_done: bool = False
) -> None:
    """Send somebody to look for something to take over, after a while."""
    app.send_task(
        HELP_TASK,
        args=(job_id, generation, all_done),
        argsrepr=f"({destination}, what is left)",
        kwargsrepr="{}",
        countdown=seconds,
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
    destination, chunks_count = bringing.manifest.destination, bringing.manifest.chunks_count
    seconds, chunks_done = LOOK_SECONDS, 0
    is_succeeded = threading.Event()

    def send_another() -> None:
        # At once: there may be more than one slow.
        send_help(job_id, generation, destination, seconds=0)
        is_succeeded.set()

    try:
        here.records.helps_on(job_id)
        following = bringing.take_over(on_found=send_another)
        chunks_done = following.chunks_done
    except NoLease:
        pass
    except AttemptStopped as stopped:
        bringing.give_lease_back()
        if stopped.reason is StopReason.JOB_ENDED:
            return
        seconds = 0
    except (TransferError, RedisError) as error:
        # Whose chunk it is decides what follows; this was help.
        bringing.give_lease_back()
        logger.info("help failed job=%s cause=%s", job_id, error.code)
    if is_succeeded.is_set():
        return
    is_all = chunks_done >= chunks_count
    if is_all and all_done:
        logger.warning("all parts are there and no merge runs job=%s", job_id)
        app.send_task(MERGE_TASK, args=(job_id, generation), argsrepr=f"({destination}, late)")
        return
    send_help(job_id, generation, destination, seconds=seconds, all_done=is_all)
