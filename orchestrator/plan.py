"""The Celery task that plans a job, and what becomes of it when that fails."""

from __future__ import annotations

import logging
import random
from typing import Any

from celery.exceptions import Reject

from orchestrator import adoption
from orchestrator.planning import Planning
from tasks.app import PLAN_TASK, app
from tasks.host import NoLease, host
from tasks.jobs import ACTIVE_STATES, JobState
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import NoProgress, TransientError

logger = logging.getLogger(__name__)

_LONGEST_COUNTDOWN_SECONDS = 60.0


@app.task(bind=True, name=PLAN_TASK, max_retries=None, ignore_result=True)
def plan(
    self: Any,
    job_id: str,
    fruitless_count: int = 0,
    resends: bool = False,  # noqa: FBT001, FBT002  (Celery passes the arguments of a message)
    void_generation: int | None = None,
    as_stream: bool = False,  # noqa: FBT001, FBT002
    touched_before: float | None = None,
) -> None:
    """Plan a job, or send again what an earlier plan of it still misses.

    Args:
        self: the task, bound.
        job_id: which job.
        fruitless_count: probes in a row that failed.
        resends: something of a job that was sent already is missing.
        void_generation: the sending whose plan is void; nothing of that is used again. None: the plan stands.
        as_stream: the origin was seen not to honour ranges reliably.
        touched_before: when a job that has the destination, and that Redis does not know, was seen to write last.
    """
    here = host()
    asked = here.records.request(job_id)
    # A message that came twice must not take a job back that is on its way; one whose worker died must.
    is_redelivered = bool((self.request.delivery_info or {}).get("redelivered"))
    is_needed = resends or is_redelivered or void_generation is not None
    allowed = ACTIVE_STATES if is_needed else {JobState.QUEUED, JobState.PLANNING}
    if asked is None or not here.records.transition(job_id, JobState.PLANNING, allowed=allowed):
        logger.info("nothing to plan job=%s", job_id)
        return

    def again(
        delay_seconds: float,
        fruitless_count: int,
        cause: Exception | None = None,
        touched_before: float | None = touched_before,
    ) -> Exception:
        shown = {"argsrepr": self.request.argsrepr, "kwargsrepr": self.request.kwargsrepr}
        retry: Exception = self.retry(
            args=(job_id, fruitless_count, resends, void_generation, as_stream, touched_before),
            kwargs={},
            exc=cause,
            countdown=min(delay_seconds, _LONGEST_COUNTDOWN_SECONDS),
            throw=False,
            **shown,
        )
        return retry

    planning = Planning(here, job_id, *asked, touched_before)
    try:
        planning.run(void_generation, as_stream=as_stream)
    except NoLease as error:
        raise again(error.wait_seconds + random.uniform(0.1, 0.5), fruitless_count) from None
    except adoption.MayBeActive as unknown:
        seconds = adoption.QUIET_SECONDS
        raise again(seconds, fruitless_count, touched_before=unknown.touched_at) from None
    except TransientError as error:
        fruitless_count += 1
        delay_seconds = here.policy_for(asked[0]).delay_seconds(
            fruitless_count, retry_after_seconds=error.retry_after_seconds, uniform=random.uniform
        )
        if delay_seconds is None or fruitless_count >= here.settings.probe_attempts:
            planning.give_up(NoProgress(fruitless_count, str(error)))
            return
        here.records.retried(job_id)
        raise again(delay_seconds, fruitless_count, error) from None
    except AttemptStopped as stopped:
        if stopped.reason is StopReason.JOB_ENDED:
            planning.clean_up()
            return
        raise Reject(stopped.reason, requeue=True) from None
    except Exception as error:  # noqa: BLE001  (the job must not stay in `planning`, whatever happened)
        planning.give_up(error)
