"""The Celery tasks that plan jobs: one job a message, or several small ones. And what becomes of a plan that fails."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject

from orchestrator import adoption
from orchestrator.planning import Crowded, Planning
from tasks.app import PLAN_MANY_TASK, PLAN_TASK, app
from tasks.connections import NoLease
from tasks.host import host
from tasks.jobs import ACTIVE_STATES, JobState
from tasks.messages import LONGEST_COUNTDOWN_SECONDS, again, is_redelivered, shown_as, urgency
from tasks.records import RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import NoProgress, TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.host import Host
    from tasks.records import Asked

logger = logging.getLogger(__name__)

#: How long one message's jobs may have a slot; then the rest of them queue up again, behind what has waited.
_MANY_SLICE_SECONDS = 2.0


#: How soon a plan for whose messages there was no room looks again.
_ROOM_SECONDS = (1.0, 3.0)


@dataclass(frozen=True, slots=True)
class _Order:
    """Plan a job, or send again what an earlier plan of it still misses: the arguments of a message."""

    job_id: str
    fruitless_count: int = 0  #: probes in a row that failed
    resends: bool = False  #: something of a job that was sent already is missing
    void_generation: int | None = None  #: the sending whose plan is void; nothing of that is used again
    as_stream: bool = False  #: the origin was seen not to honour ranges reliably
    touched_before: float | None = None  #: when a job that has the destination was seen to write last

    @property
    def is_new(self) -> bool:
        """Whether nothing was planned before: a message of it that comes a second time has nothing to do."""
        return not self.resends and self.void_generation is None


@dataclass(frozen=True, slots=True)
class _Later:
    """What has to be tried again."""

    order: _Order
    seconds: float
    cause: Exception | None = None


@app.task(bind=True, name=PLAN_TASK, max_retries=None, ignore_result=True)
def plan(self: Any, *arguments: Any, **named: Any) -> None:
    """Plan a job; the arguments are those of `_Order`."""
    order = _Order(*arguments, **named)
    here = host()
    # A message that came twice must not take a job back that is on its way; one whose worker died must.
    asked = _begin(here, [order.job_id], is_needed=is_redelivered(self) or not order.is_new)
    try:
        later = _carry_out(here, order, asked[order.job_id]) if asked else None
    except NoLease as error:
        later = _Later(order, _after(error))
    if later is not None:
        countdown = min(later.seconds, LONGEST_COUNTDOWN_SECONDS)
        raise again(self, astuple(later.order), countdown, later.cause)


@app.task(bind=True, name=PLAN_MANY_TASK, max_retries=None, ignore_result=True)
def plan_many(self: Any, job_ids: Sequence[str]) -> None:
    """Plan several jobs, one after the other; one that has to wait goes on with a message of its own."""
    here = host()
    ends_seconds = time.monotonic() + _MANY_SLICE_SECONDS
    all_asked = _begin(here, job_ids, is_needed=is_redelivered(self))
    left = list(all_asked)
    while left:
        if time.monotonic() > ends_seconds or here.watch.is_draining:
            raise again(self, (left,), 0)
        try:
            later = _carry_out(here, _Order(left[0]), all_asked[left[0]])
        except NoLease as error:
            raise again(self, (left,), _after(error)) from None
        except Reject:
            # Given back as it came, those that are done would be planned once more.
            raise again(self, (left,), 0) from None
        job_id = left.pop(0)
        if later is not None:
            countdown = min(later.seconds, LONGEST_COUNTDOWN_SECONDS)
            urgent = urgency(all_asked[job_id].spec.priority)
            plan.apply_async(astuple(later.order), countdown=countdown, **urgent, **shown_as(job_id))


def _begin(here: Host, job_ids: Sequence[str], *, is_needed: bool) -> dict[str, Asked]:
    """Those jobs that are to be planned."""
    allowed = ACTIVE_STATES if is_needed else {JobState.QUEUED, JobState.PLANNING}
    found = here.records.begin_plans(job_ids, allowed=allowed)
    if len(found) < len(job_ids):
        logger.info("nothing to plan jobs=%s", ",".join(set(job_ids) - set(found)))
    return found


def _carry_out(here: Host, order: _Order, asked: Asked) -> _Later | None:
    """Plan one job; None if that is done.

    Raises:
        NoLease: the origin has no connection for it.
        Reject: this worker goes away.
    """
    planning = Planning(here, order.job_id, asked, order.touched_before)
    try:
        planning.run(order.void_generation, as_stream=order.as_stream)
    except NoLease:
        raise
    except Crowded:
        return _Later(replace(order, resends=True), random.uniform(*_ROOM_SECONDS))
    except adoption.MayBeActive as unknown:
        return _Later(replace(order, touched_before=unknown.touched_at), adoption.QUIET_SECONDS)
    except TransientError as error:
        fruitless_count = order.fruitless_count + 1
        delay_seconds = here.policy_for(asked.spec).delay_seconds(
            fruitless_count, retry_after_seconds=error.retry_after_seconds, uniform=random.uniform
        )
        if delay_seconds is None or fruitless_count >= here.settings.probe_attempts:
            planning.give_up(NoProgress(fruitless_count, str(error)))
            return None
        here.records.retried(order.job_id)
        return _Later(replace(order, fruitless_count=fruitless_count), delay_seconds, error)
    except AttemptStopped as stopped:
        if stopped.reason is not StopReason.JOB_ENDED:
            raise Reject(stopped.reason, requeue=True) from None
        planning.clean_up()
    except RedisError as error:
        # No failure of the job's: it stands still now, and the sweep sends it again.
        logger.warning("plan broken off job=%s error=%s", order.job_id, error)
    except Exception as error:  # noqa: BLE001  (the job must not stay in `planning`, whatever happened)
        planning.give_up(error)
    return None


def _after(error: NoLease) -> float:
    return min(error.wait_seconds + random.uniform(0.1, 0.5), LONGEST_COUNTDOWN_SECONDS)
