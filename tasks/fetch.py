"""The Celery task that brings one chunk: a shell around the engine's use case."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from celery.signals import worker_shutting_down

from tasks import outcomes
from tasks.app import FETCH_TASK, PLAN_TASK, app
from tasks.bringing import Bringing
from tasks.connections import CROWDED_OUT_SECONDS, NoLease
from tasks.help import LOOK_SECONDS, send_help, send_merge
from tasks.host import Host, host
from tasks.jobs import JobState
from tasks.messages import LONGEST_COUNTDOWN_SECONDS, again, sending_errors, shown_as, urgency
from tasks.records import RedisError
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import (
    NoProgress,
    PlanVoidError,
    RangesRefused,
    Side,
    SourceChanged,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.transfer.manifest import Manifest

logger = logging.getLogger(__name__)

#: Chunks of a job that find all connections taken come back so often, all of them together, and each waits in place for
#: a moment: two or so are there when a connection is free. Each time costs 3 ms of a worker, and a thousand chunks
#: that came back twice a second would use it up; were they to come less often, the last ones would come late.
_COME_BACK_PER_SECOND = 50
_PATIENCE_SECONDS = 0.05
_LEAST_PARKED_SECONDS, _MOST_PARKED_SECONDS = 0.05, 20.0
#: One that another host can begin at once goes back to the queue, where that host waits for it.
_ELSEWHERE_SECONDS = (0.01, 0.05)
#: Whole files in answer to ranges that a chunk takes for one back end of several, before it takes it for the origin.
_RANGES_REFUSED_COUNT = 3
#: Plans of one job that may become void: a file that changes again and again is somebody's log.
_MOST_RESTARTS = 1

_ENDED: dict[str, Any] = {"ok": False, "why": "ended"}


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
    delivery = _Delivery(self, host(), job_id, generation, number, fruitless_count)
    try:
        delivery.bring()
    except NoLease as error:
        raise delivery.park(error) from None
    except AttemptStopped as stopped:
        delivery.give_lease_back()
        if stopped.reason is StopReason.JOB_ENDED:
            return _ENDED
        # Back to the end of the queue: any worker goes on at this byte.
        raise Reject(stopped.reason, requeue=True) from None
    except (TransientError, PlanVoidError) as error:
        delivery.give_lease_back(has_failed=True)
        return delivery.after(error)
    except RedisError as error:
        # Nothing is wrong with the chunk: whoever is there when Redis is back goes on with it.
        raise Reject(type(error).__name__, requeue=True) from None
    except Exception as error:  # noqa: BLE001  (a chord whose header raises never runs its body)
        delivery.give_lease_back()
        return delivery.fail(error)
    return {"ok": True, "number": number}


@worker_shutting_down.connect
def drain(**_: object) -> None:
    """On SIGTERM save what is there and give the chunks back, so that the process ends at once."""
    host().watch.drain()


class _Delivery:
    """One delivery of a chunk's message: what follows from how it ended."""

    def __init__(
        self, task: Any, here: Host, job_id: str, generation: int, number: int, fruitless_count: int
    ) -> None:
        self._task = task
        self._host = here
        self._job_id = job_id
        self._generation = generation
        self._number = number
        self._fruitless_count = fruitless_count
        self._bringing: Bringing | None = None

    def bring(self) -> None:
        """Bring the chunk; every way in which that may not come about is an exception."""
        bringing = self._bringing = Bringing(self._host, self._job_id, self._generation)
        is_first = not self._task.request.retries
        # Those that come for the first time are many at once, and would keep all slots.
        patience_seconds = 0.0 if is_first else _PATIENCE_SECONDS
        is_whole, following = bringing.bring(
            self._number, patience_seconds=patience_seconds, is_first=is_first
        )
        manifest = bringing.manifest
        if following.merge_is_late:
            _tell(lambda: send_merge(manifest))
        elif following.is_to_help:
            _tell(lambda: send_help(manifest, seconds=LOOK_SECONDS))
        if not is_whole:
            # Somebody took the rest over. This message stands for the chunk: it comes back to see that it is there.
            raise NoLease(0, following.chunks_done)

    def give_lease_back(self, *, has_failed: bool = False) -> None:
        """Report how far the attempt came, if one was begun."""
        if self._bringing is not None:
            self._bringing.give_lease_back(has_failed=has_failed)

    @property
    def _manifest(self) -> Manifest | None:
        return self._bringing.manifest if self._bringing else None

    def _is_fenced(self) -> bool:
        # Without a manifest it is not known: this host may see it later than others.
        return self._bringing is not None and self._bringing.is_fenced()

    def park(self, without: NoLease) -> Exception:
        """Have the message come back when there may be a connection; nothing was tried."""
        if without.is_for_another_host:
            return self._again(random.uniform(*_ELSEWHERE_SECONDS), self._fruitless_count)
        wait_seconds = without.wait_seconds
        waiting_count = self._manifest.chunks_count - without.chunks_done if self._manifest else 0
        mean_seconds = min(
            max(waiting_count / _COME_BACK_PER_SECOND, _LEAST_PARKED_SECONDS), _MOST_PARKED_SECONDS
        )
        jitter_seconds = random.uniform(0.2 * mean_seconds, 1.8 * mean_seconds)
        return self._again(
            min(wait_seconds, LONGEST_COUNTDOWN_SECONDS) + jitter_seconds, self._fruitless_count
        )

    def after(self, error: TransientError | PlanVoidError) -> dict[str, Any]:
        """Decide what follows an attempt that failed, and have it happen."""
        manifest = self._manifest
        if self._is_fenced():
            return _ENDED
        if isinstance(error, SourceChanged) and manifest is not None:
            return self._plan_anew(error, manifest, as_stream=False)
        # One back end of several may not honour ranges: others are asked before all are taken for such.
        is_refused_often = self._fruitless_count + 1 >= _RANGES_REFUSED_COUNT
        if isinstance(error, RangesRefused) and manifest is not None and is_refused_often:
            return self._plan_anew(error, manifest, as_stream=True)
        return self._retry_or_fail(error)

    def fail(self, error: Exception) -> dict[str, Any]:
        """Mark the job failed, unless a newer sending of it has made this one void."""
        if self._is_fenced():
            return _ENDED
        _tell(lambda: outcomes.fail(self._host, self._job_id, error))
        return {"ok": False, "why": type(error).__name__}

    def _plan_anew(self, error: PlanVoidError, manifest: Manifest, *, as_stream: bool) -> dict[str, Any]:
        if manifest.restarts_count >= _MOST_RESTARTS or not (as_stream or manifest.spec.restarts):
            return self.fail(error)
        logger.warning("plan void job=%s cause=%s", self._job_id, error.code)
        # The state first: the chord of the void plan ends too, and its merge must not send again what is missing.
        # From `fetching` only: many chunks find the plan void, and two plans at once would make two manifests of one
        # generation, whose parts could be of two versions.
        try:
            if not self._host.records.transition(
                self._job_id, JobState.PLANNING, allowed={JobState.FETCHING}
            ):
                return _ENDED
            with sending_errors():
                app.send_task(
                    PLAN_TASK,
                    args=(self._job_id,),
                    kwargs={"void_generation": self._generation, "as_stream": as_stream},
                    **urgency(manifest.spec.priority),
                    **shown_as(f"{self._job_id}, anew after {error.code}"),
                )
        except RedisError as away:
            # The sweep sends the void plan's chunks again, and they find that out once more.
            logger.warning("not planned anew job=%s error=%s", self._job_id, away)
        return {"ok": False, "why": error.code}

    def _retry_or_fail(self, error: TransientError | PlanVoidError) -> dict[str, Any]:
        bringing, manifest = self._bringing, self._manifest
        retry_after_seconds = getattr(error, "retry_after_seconds", None)
        if bringing is not None and bringing.was_crowded_out(error):
            raise self.park(NoLease(CROWDED_OUT_SECONDS)) from None
        # A stream that starts over has made no progress, however much it brought: it would do so for ever.
        made_progress = bringing is not None and bringing.has_brought and bringing.manifest.honours_ranges
        fruitless_count = 0 if made_progress else self._fruitless_count + 1
        delay_seconds = self._host.policy_for(manifest.spec if manifest else None).delay_seconds(
            fruitless_count, retry_after_seconds=retry_after_seconds, uniform=random.uniform
        )
        if delay_seconds is None:
            # What the volume is to blame for keeps its name; only an origin can be without progress.
            is_origins = error.side is Side.ORIGIN
            return self.fail(NoProgress(max(fruitless_count, 1), str(error)) if is_origins else error)
        if retry_after_seconds is not None and manifest is not None:
            wait_seconds = retry_after_seconds
            _tell(lambda: self._host.records.cool_down(manifest.origin, wait_seconds))
        _tell(lambda: self._host.records.retried(self._job_id))
        logger.info(
            "chunk to be retried job=%s number=%d cause=%s seconds=%.1f",
            self._job_id,
            self._number,
            error.code,
            delay_seconds,
        )
        raise self._again(min(delay_seconds, LONGEST_COUNTDOWN_SECONDS), fruitless_count, error) from None

    def _again(self, delay_seconds: float, fruitless_count: int, cause: Exception | None = None) -> Exception:
        args = (self._job_id, self._generation, self._number, fruitless_count)
        return again(self._task, args, delay_seconds, cause)


def _tell(report: Callable[[], object]) -> None:
    """Report through Redis; without it the volume still knows."""
    try:
        report()
    except RedisError as error:
        logger.warning("not reported error=%s", error)
