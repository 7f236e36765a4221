"""The sweep: finds jobs that make no progress, and has sent again what they miss.

Every worker process has one in a thread; a lease in Redis lets one sweep at a time, so no process exists whose end
stops recovery. The chord is the fast path: what it loses, by a worker's death, a message that vanished, or a Redis that
was emptied, is found here.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from celery.signals import worker_ready, worker_shutdown, worker_shutting_down

from tasks import metrics, outcomes
from tasks.app import (
    CHUNKS_QUEUE,
    CONTROL_QUEUE,
    FETCH_TASK,
    MERGE_QUEUE,
    MERGE_TASK,
    PLAN_MANY_TASK,
    PLAN_TASK,
    app,
)
from tasks.host import host
from tasks.jobs import JobState
from tasks.messages import sending_errors, shown_as, urgency
from tasks.prune import prune_by_age
from tasks.reconnecting import reconnected
from tasks.records import RedisError
from tasks.records.queues import CHUNKS_LISTS
from tasks.restoring import apart, keep_unplanned, restore, restore_unplanned
from tasks.transfer.errors import JobTimedOut, SentInVain, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tasks.host import Host

logger = logging.getLogger(__name__)

#: What a job that is not being worked at waits for.
_TASKS = frozenset({PLAN_TASK, PLAN_MANY_TASK, FETCH_TASK, MERGE_TASK})
#: There may be thousands of folders: for each look at them there are so many at the jobs in Redis.
_VOLUME_SWEEPS = 4
#: How often a process says that it lives, at least: however seldom it sweeps, it is not to be taken for dead.
_ALIVE_SECONDS = 2.5
#: How often what is as old as records become is removed.
_PRUNE_SECONDS = 3600.0
#: Who has not looked for so many sweeps, or a stall, does not know what was meanwhile.
_LOOKS_SWEEPS = 3
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

    def __init__(self, here: Host, *, fetches: bool = False) -> None:
        """Take whose sweeps they are, and whether it fetches chunks."""
        self._host = here
        self._fetches = fetches
        self._is_over = threading.Event()

    def run(self) -> None:
        """Sweep at intervals, until `end`."""
        # Without the thread this process would never sweep again.
        self._repeat("sweep", self.sweep, self._host.settings.sweep_seconds / 2)

    def live(self) -> None:
        """Say at intervals that this process lives, until `end`; also while a look at a large volume takes long."""
        here, host_name = self._host, self._host.name if self._fetches else None
        self._repeat(
            "pulse", lambda: here.records.is_alive(here.process_name, fetches_on=host_name), _ALIVE_SECONDS
        )

    def _repeat(self, what: str, act: Callable[[], None], seconds: float) -> None:
        is_over = False
        while not is_over:
            try:
                act()
            except (RedisError, TransferError) as error:
                # Whatever is away comes back, or somebody else sweeps.
                logger.warning("%s put off error=%s", what, error)
            except Exception:
                logger.exception("%s stumbled", what)
            is_over = self._is_over.wait(seconds)

    def end(self) -> None:
        """Sweep no more: the process is going to end."""
        self._is_over.set()

    def tell_end(self) -> None:
        """Say that the process has ended in order; one that is ended where it hangs keeps messages that it had."""
        try:
            self._host.records.has_ended(self._host.process_name)
        except RedisError as error:
            logger.warning("end not told error=%s", error)

    def tell_again(self) -> None:
        """Say again what this process has completed, to a Redis that may have lost it."""
        try:
            outcomes.complete_again(self._host)
        except (RedisError, TransferError) as error:
            logger.warning("completed jobs not told again error=%s", error)

    def sweep(self) -> None:
        """Look at all jobs once, and now and then at the volume, unless another process has done so."""
        records, settings = self._host.records, self._host.settings
        _, was_emptied = self._host.cluster_names()
        # The jobs first: a volume that is away must not keep anybody from them.
        if records.may_sweep("jobs", settings.sweep_seconds):
            self._look_at_jobs()
            metrics.swept()
        if records.may_sweep("volume", _VOLUME_SWEEPS * settings.sweep_seconds) or was_emptied:
            look_at_volume(self._host)
        if records.may_sweep("prune", _PRUNE_SECONDS):
            prune_by_age(self._host)

    def _look_at_jobs(self) -> None:
        records = self._host.records
        somebody_died = records.somebody_died()
        stalled = self._stalled(somebody_died=somebody_died)
        if not stalled:
            return
        queued, counting_down = records.awaited((CONTROL_QUEUE, MERGE_QUEUE, *CHUNKS_LISTS), _TASKS)
        records.let_be(queued & stalled.keys())
        for job_id, seconds in stalled.items():
            # What was with a worker that died will not come.
            is_awaited = job_id in counting_down and not (somebody_died and seconds > _COUNTDOWN_SECONDS)
            if job_id not in queued and not is_awaited:
                with apart(job_id):
                    self._send_again(job_id)

    def _stalled(self, *, somebody_died: bool) -> dict[str, int]:
        """For how many seconds each job has stood still that does; jobs whose own time has passed are ended."""
        records, settings = self._host.records, self._host.settings
        seconds = settings.stall_seconds
        # While Redis was away nobody could say that he is at a job.
        anew = not records.was_looking(max(seconds, _LOOKS_SWEEPS * settings.sweep_seconds))
        if somebody_died:
            seconds = min(seconds, _AFTER_DEATH_SECONDS)
        job_ids = records.active()
        stalled: dict[str, int] = {}
        for first in range(0, len(job_ids), _JOBS_AT_ONCE):
            found, overdue, damaged = records.stalled(
                job_ids[first : first + _JOBS_AT_ONCE],
                seconds=seconds,
                grace_seconds=_OVERDUE_GRACE_SECONDS,
                anew=anew,
            )
            stalled |= found
            for job_id in overdue:
                with apart(job_id):
                    if records.time_out(job_id):
                        metrics.job_failed(JobTimedOut.__name__)
            if damaged:
                logger.warning("jobs not looked at, their records are damaged jobs=%s", ",".join(damaged))
        return stalled

    def _send_again(self, job_id: str) -> None:
        tries, deaths = self._host.records.sent_again(job_id)
        if tries > _MOST_TRIES or deaths >= _MOST_DEATHS:
            outcomes.fail(self._host, job_id, SentInVain(job_id, tries, deaths))
        elif tries:
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
    recovered = []
    for job_id in found:
        with apart(job_id):
            if restore(here, job_id, clusters=None):
                recovered.append(job_id)
    recovered += restore_unplanned(here, clusters=None)
    for job_id in recovered:
        send_missing(here, job_id)
    return recovered


def look_at_volume(here: Host) -> None:
    """Bring back the jobs that Redis has lost, and make good what was not done to those that it knows."""
    here.volume.check()
    names, _ = here.cluster_names()
    job_ids = here.volume.job_ids()
    states = here.records.states(job_ids)
    here.records.look_after(
        [
            job_id
            for job_id, state in zip(job_ids, states, strict=True)
            if state is not None and state.is_active
        ]
    )
    for job_id, state in zip(job_ids, states, strict=True):
        with apart(job_id):
            _look_at(here, job_id, state, names)
    here.volume.finish_removals()
    keep_unplanned(here)
    for job_id in restore_unplanned(here, clusters=names):
        send_missing(here, job_id)


def _look_at(here: Host, job_id: str, state: JobState | None, names: Collection[str]) -> None:
    folder = here.volume.job(job_id)
    if state is None:
        if restore(here, job_id, clusters=names):
            send_missing(here, job_id)
        return
    manifest = folder.read_manifest()
    if manifest is not None and not manifest.may_be_of(names):
        return  # another cluster is at it: with one secret key, batches of the same list have jobs of the same ids
    if state in _RESTING_STATES:
        if folder.left_as is None:
            folder.mark_left(state)
    elif state.is_active:
        folder.unmark_left()
    else:
        # Complete or cancelled: who was to clean up died, or its message is lost.
        outcomes.remove_if_over(here, job_id)


@worker_ready.connect
def begin(sender: Any, **_: object) -> None:
    """Sweep from now on, until the process ends; `sender` is Celery's consumer."""
    sweep = Sweep(host(), fetches=CHUNKS_QUEUE in sender.app.amqp.queues.consume_from)
    worker_shutting_down.connect(lambda **_: sweep.end(), weak=False)
    worker_shutdown.connect(lambda **_: sweep.tell_end(), weak=False)
    reconnected.connect(lambda **_: sweep.tell_again(), weak=False)
    for run in (sweep.live, sweep.run):
        threading.Thread(target=run, name="sweep", daemon=True).start()
