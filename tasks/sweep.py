"""The sweep: finds jobs that make no progress, and has sent again what they miss.

Every worker process has one in a thread; a lease in Redis lets one sweep at a time, so no process exists whose end
stops recovery. The chord is the fast path: what it loses, by a worker's death, a message that vanished, or a Redis that
was emptied, is found here.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from tasks import outcomes
from tasks.app import CONTROL_QUEUE, FETCH_TASK, MERGE_QUEUE, MERGE_TASK, PLAN_MANY_TASK, PLAN_TASK, app
from tasks.host import host
from tasks.jobs import JobState
from tasks.messages import sending_errors, shown_as, urgency
from tasks.prune import prune_by_age
from tasks.records import RedisError
from tasks.records.queues import CHUNKS_LISTS
from tasks.restoring import keep_unplanned, restore, restore_unplanned
from tasks.transfer.errors import SentInVain, TransferError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tasks.host import Host

logger = logging.getLogger(__name__)

#: What a job that is not being worked at waits for.
_TASKS = frozenset({PLAN_TASK, PLAN_MANY_TASK, FETCH_TASK, MERGE_TASK})
#: There may be thousands of folders: for each look at them there are so many at the jobs in Redis.
_VOLUME_SWEEPS = 4
#: How often what is as old as records become is removed.
_PRUNE_SECONDS = 3600.0
#: Jobs that are asked for in one step of Redis.
_JOBS_AT_ONCE = 200
#: A deadline is the attempts' to keep; a job that is this late has nobody at it.
_OVERDUE_GRACE_SECONDS = 5.0
#: Where a worker died, a job that stands still is so for that reason, as a rule; and a message that waits for its time
#: may have died with it.
_AFTER_DEATH_SECONDS, _COUNTDOWN_SECONDS = 3.0, 25.0
#: A job of which nothing came though it was sent again so often fails; so does one at which so many workers died.
_MOST_TRIES = 8
_MOST_DEATHS = 5
#: What must not begin to run, should Redis forget it.
_RESTING_STATES = frozenset({JobState.PAUSED, JobState.FAILED})


class Sweep:
    """The sweeps of one process."""

    def __init__(self, here: Host) -> None:
        self._host = here
        self._is_over = threading.Event()

    def run(self) -> None:
        """Sweep at intervals, until `end`."""
        while not self._is_over.wait(self._host.settings.sweep_seconds / 2):
            try:
                self._host.records.is_alive(self._host.process_name)
                self.sweep()
            except (RedisError, TransferError) as error:
                # Whatever is away comes back, or somebody else sweeps.
                logger.warning("sweep put off error=%s", error)
            except Exception:
                # Without the thread this process would never sweep again.
                logger.exception("sweep stumbled")

    def end(self) -> None:
        """Sweep no more: the process is going to end."""
        self._is_over.set()

    def tell_end(self) -> None:
        """Say that the process has ended in order; one that is ended where it hangs keeps messages that it had."""
        try:
            self._host.records.has_ended(self._host.process_name)
        except RedisError as error:
            logger.warning("end not told error=%s", error)

    def sweep(self) -> None:
        """Look at all jobs once, and now and then at the volume, unless another process has done so."""
        records, settings = self._host.records, self._host.settings
        _, was_emptied = records.names(self._host.cluster)
        if records.may_sweep("volume", _VOLUME_SWEEPS * settings.sweep_seconds) or was_emptied:
            look_at_volume(self._host)
        if records.may_sweep("jobs", settings.sweep_seconds):
            self._look_at_jobs()
        if records.may_sweep("prune", _PRUNE_SECONDS):
            prune_by_age(self._host)

    def _look_at_jobs(self) -> None:
        records, settings = self._host.records, self._host.settings
        job_ids = records.active()
        stalled: dict[str, int] = {}
        somebody_died = records.somebody_died()
        for first in range(0, len(job_ids), _JOBS_AT_ONCE):
            found, overdue = records.stalled(
                job_ids[first : first + _JOBS_AT_ONCE],
                seconds=min(settings.stall_seconds, _AFTER_DEATH_SECONDS)
                if somebody_died
                else settings.stall_seconds,
                grace_seconds=_OVERDUE_GRACE_SECONDS,
            )
            stalled |= found
            for job_id in overdue:
                records.time_out(job_id)
        if not stalled:
            return
        queued, counting_down = records.awaited((CONTROL_QUEUE, MERGE_QUEUE, *CHUNKS_LISTS), _TASKS)
        for job_id, seconds in stalled.items():
            if job_id in queued:
                records.looked_at(job_id, is_sent_again=False)
            # What was with a worker that died will not come.
            elif job_id not in counting_down or (somebody_died and seconds > _COUNTDOWN_SECONDS):
                self._send_again(job_id)

    def _send_again(self, job_id: str) -> None:
        tries, deaths = self._host.records.looked_at(job_id, is_sent_again=True)
        if tries > _MOST_TRIES or deaths >= _MOST_DEATHS:
            outcomes.fail(self._host, job_id, SentInVain(job_id, tries, deaths))
            return
        send_missing(self._host, job_id)


def send_missing(here: Host, job_id: str) -> None:
    """Have what a job misses sent again; what still runs of the older sending is fenced off then."""
    logger.warning("nobody is at a job, sending again what is missing job=%s", job_id)
    shown = {**urgency(here.records.priority(job_id)), **shown_as(f"{job_id}, recovered")}
    with sending_errors():
        app.send_task(PLAN_TASK, args=(job_id,), kwargs={"resends": True}, **shown)


def recover(here: Host) -> list[str]:
    """Bring back all unfinished jobs of the volume that Redis does not know, whoever's they are; which go on now."""
    here.volume.check()
    job_ids = here.volume.job_ids()
    states = here.records.states(job_ids)
    found = [job_id for job_id, state in zip(job_ids, states, strict=True) if state is None]
    recovered = [job_id for job_id in found if restore(here, job_id, clusters=None)]
    recovered += restore_unplanned(here, clusters=None)
    for job_id in recovered:
        send_missing(here, job_id)
    return recovered


def look_at_volume(here: Host) -> None:
    """Bring back the jobs that Redis has lost, and make good what was not done to those that it knows."""
    here.volume.check()
    names, _ = here.records.names(here.cluster)
    job_ids = here.volume.job_ids()
    for job_id, state in zip(job_ids, here.records.states(job_ids), strict=True):
        try:
            _look_at(here, job_id, state, names)
        except TransferError as error:
            # The others have nothing to do with it.
            logger.warning("job not looked at job=%s error=%s", job_id, error)
    keep_unplanned(here)
    for job_id in restore_unplanned(here, clusters=names):
        send_missing(here, job_id)


def _look_at(here: Host, job_id: str, state: JobState | None, names: Collection[str]) -> None:
    folder = here.volume.job(job_id)
    if state is None:
        if restore(here, job_id, clusters=names):
            send_missing(here, job_id)
    elif state in _RESTING_STATES:
        if folder.left_as is None:
            folder.mark_left(state)
    elif state.is_active:
        folder.unmark_left()
    else:
        # Complete or cancelled: who was to clean up died, or its message is lost.
        outcomes.remove_if_over(here, job_id)


@worker_ready.connect
def begin(**_: object) -> None:
    """Sweep from now on, until the process ends."""
    sweep = Sweep(host())
    worker_shutting_down.connect(lambda **_: sweep.end(), weak=False)
    worker_shutdown.connect(lambda **_: sweep.tell_end(), weak=False)
    threading.Thread(target=sweep.run, name="sweep", daemon=True).start()
